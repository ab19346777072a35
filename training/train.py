"""Trains a sketch adapter on a frozen Stable Diffusion v1 model.

    python -m training.train --config training/configs/mini.toml
    python -m training.train --config training/configs/paper.toml --data.folders pictures \
        --model.base stable-diffusion-v1-5 --model.image_encoder image_encoder
    python -m training.train --config my.toml --print-config        # all settings, as TOML
    python -m training.train --config my.toml --run.max_steps 200   # any setting, changed
    python -m training.train --config my.toml --dry-run             # memory and hours, no training

    accelerate launch -m training.train --config my.toml            # on all GPUs of the machine

The same command again goes on where the run stopped, bit for bit as if it had not stopped. Ctrl-C
ends it after the current step, with a checkpoint; so does a file STOP in the output folder. Read
`_train` from top to bottom; each idea has a file of its own: objective.py (the loss), draws.py
(chance), data.py, cache.py, batch.py, unet.py, workers.py (several processes), held_out.py.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import torch

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.files import StorageError, write_atomically
from animesketchnet_core.weight_file import WrongAdapterError, read_adapter

from .batch import Batch, Batches
from .cache import Encoded, cache_bytes
from .checkpoints import CheckpointError, Checkpoints, Interrupt
from .config import TrainConfig, load_config
from .data import Dataset
from .ema import RunningAverage
from .estimate import estimate, speed
from .export import write_inference_file
from .files import occupied, remove_leftovers
from .framing import check_sizes
from .held_out import HeldOut
from .loading import ModelError
from .memory import largest_fit
from .models import (
    PRECISIONS,
    Base,
    ImageEncoder,
    fingerprint,
    load_base,
    load_image_encoder,
)
from .objective import draw
from .preview import Previews
from .program import ended_by, run_program
from .progress import DivergedError, Progress
from .schedule import learning_rate
from .settings import ConfigError, flatten, read_overrides, to_toml
from .sources import DataError
from .unet import AdaptedUNet, checkpoint_blocks, text_keys_values
from .workers import Workers

INPUT_ERRORS = (
    ConfigError,
    DataError,
    ModelError,
    CheckpointError,
    WrongAdapterError,
    StorageError,
)


class Stateful(Protocol):
    """What a checkpoint can hold: the adapter, the optimizer, the loss scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Gives the state."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Takes a state back."""
        ...


@dataclass(frozen=True)
class Result:
    """How a call of `train` ended.

    Attributes:
        step: steps that are done.
        reason: "finished", "max_minutes", "stop file", or the name of the signal.
        adapter: the inference file.
    """

    step: int
    reason: str
    adapter: Path


def train(config: TrainConfig) -> Result:
    """Trains, or goes on training, until max_steps, max_minutes, a stop file or a signal.

    Raises:
        ConfigError, DataError, ModelError, CheckpointError, WrongAdapterError, StorageError: an
            input that cannot be used, with the fix.
        DivergedError: the gradients were not finite too often.
    """
    run, output = config.run, Path(config.run.output)
    workers = Workers(run.device)
    if run.precision == "fp16" and workers.device.type == "cpu":
        raise ConfigError('run.precision = "fp16" needs a GPU; on a CPU use "bf16" or "fp32".')
    if run.batch_size < workers.count:
        raise ConfigError(
            f"run.batch_size is {run.batch_size}, but there are {workers.count} processes and each "
            "needs a sample."
        )
    if run.threads:
        torch.set_num_threads(run.threads)
    with occupied(output) if workers.first else nullcontext():
        return _train(config, workers)


def _train(config: TrainConfig, workers: Workers) -> Result:
    """Does the work of `train` in a folder that no other run uses."""
    run, seed, output = config.run, config.run.seed, Path(config.run.output)
    device, precision = workers.device, PRECISIONS[run.precision]
    if workers.first:
        remove_leftovers(output)
    workers.wait()

    # The frozen models, and all that they have to say about the data.
    dataset = _dataset(config)
    workers.print(
        f"{len(dataset)} pictures, {dataset.alone} of them alone in their group, and "
        f"{len(dataset.held_out)} held out"
    )
    base = load_base(config.model.base)
    weights = {"weights of model.base": base.fingerprint()}
    base.to(device)
    check_sizes(dataset.stream.sizes, base.size_step)
    encoder = load_image_encoder(config.model.image_encoder, config.model.base, config.model.reads)
    weights["weights of model.image_encoder"] = fingerprint(encoder.model)
    encoder.model.to(device)  # type: ignore[arg-type]
    checkpoints = Checkpoints(output / "checkpoints", run.keep_last)
    adapter = new_adapter(config, base, encoder, begun=bool(checkpoints.paths())).to(device)
    encoded = Encoded(config, dataset, base, encoder, workers)
    previews = None
    if config.preview.every:
        previews = Previews(config, dataset, encoded, base, encoder, workers)
    if config.cache.keep != "nothing":  # its work is done
        encoder.model.to("cpu")  # type: ignore[arg-type]

    # What is trained. The UNet is cast once; the adapter's weights stay float32.
    base.to(device, precision)
    model = AdaptedUNet(base.unet, adapter)
    checkpoint_blocks(base.unet, run.checkpointing)
    if run.compile:
        base.unet.compile()
    optimizer = _optimizer(config, adapter)
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    decay = config.optimizer.ema_decay
    average = RunningAverage(adapter, decay) if decay else None
    shipped = average.adapter if average else adapter
    batches = Batches(encoded, base, device)
    held_out = HeldOut(config, dataset, batches, base, precision, workers)

    parts: dict[str, Stateful] = {"adapter": adapter, "optimizer": optimizer, "scaler": scaler}
    if average:
        parts["average"] = average.adapter

    step = seen = 0  # steps done, samples of the stream that are used up
    best = float("inf")  # least held-out loss so far
    if (state := checkpoints.latest(device)) is not None:
        step, seen, best = state["step"], state["seen"], state.get("best", best)
        _restore(state, parts)
        # Begins a batch of the size of now: a step in buckets must not reach into the next.
        seen = -(-seen // run.batch_size) * run.batch_size
        workers.print(f"going on after step {step} of {run.max_steps}")
        before, now = state["config"] | state.get("weights", {}), flatten(config) | weights
        for change in _changes(before, now):
            workers.print(f"changed since the last checkpoint: {change}")
    checkpoints.require_space(
        4 * (3 + bool(average)) * sum(p.numel() for p in adapter.parameters())
    )

    def export(name: str) -> None:
        if workers.first:
            write_inference_file(output / name, shipped, config, encoder, step, seen)

    def save() -> None:
        # The inference file first: it refuses weights that are not finite, so that no such
        # checkpoint ever takes a good one's place.
        export("adapter.safetensors")
        if workers.first:
            checkpoints.save(step, _state(step, seen, best, config, weights, parts))
        workers.wait()

    def make(positions: Sequence[int]) -> Batch:
        samples = [dataset.sample(seed, position) for position in positions]
        shape = batches.latent_shape(samples[0])
        return batches.make(samples, draw(config.objective, seed, positions, shape))

    shared = workers.wrap(model)
    share = len(workers.share(range(run.batch_size)))
    size = min(run.micro_batch or share, share)
    if device.type == "cuda" and not run.micro_batch:
        first = dataset.stream.largest_step(seed) * run.batch_size

        def attempt(size: int) -> None:
            losses = make(range(first, first + size)).losses(model, precision, config.objective)
            losses.sum().backward()

        size = workers.least(largest_fit(attempt, size))
        model.zero_grad(set_to_none=True)

    # The loop.
    if workers.first:
        settings = to_toml(config)
        write_atomically(output / "config.toml", lambda path: path.write_text(settings, "utf-8"))
    interrupt, reason = Interrupt(output / "STOP", run.max_minutes), None
    progress = Progress(output, step, config, quiet=not workers.first)
    saved = step
    with interrupt.listening(), progress, _keeping(save, workers):
        while step < run.max_steps:
            # Several processes must agree, which costs a round of messages: not at each step.
            asked = workers.count == 1 or step % run.log_every == 0
            if asked and (reason := workers.heard(interrupt.reason)):
                break
            rate = learning_rate(config.optimizer, step, run.max_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate

            begin = 0 if run.overfit else seen
            mine = workers.share(range(begin, begin + run.batch_size))
            loss = torch.zeros((), device=device)
            for start in range(0, len(mine), size):
                part = mine[start : start + size]
                with workers.gathering(shared, last=start + size >= len(mine)):
                    losses = make(part).losses(shared, precision, config.objective)
                    # The processes' gradients are averaged, their samples are to be.
                    scaler.scale(losses.sum() * (workers.count / run.batch_size)).backward()
                loss += losses.detach().sum() / run.batch_size

            scaler.unscale_(optimizer)
            limit = config.optimizer.clip_norm or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(adapter.parameters(), limit)
            skipped = (~norm.isfinite()).float()
            if not scaler.is_enabled():
                # The fused kernel then changes nothing, and nobody waits for the figure.
                optimizer.found_inf = skipped  # type: ignore[attr-defined]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update(adapter, step)

            step, seen = step + 1, seen + run.batch_size
            progress.update(step, workers.sum(loss), skipped, rate)
            if held_out and step % config.held_out.every == 0:
                figures = held_out.measure(shipped)
                progress.held_out(step, figures)
                if (now := mean(figures["loss"])) < best:
                    best = now
                    export("best.safetensors")
            if step % run.save_every == 0:
                save()
                saved = step
            if previews and step % config.preview.every == 0:
                progress.preview(step, previews.draw(shipped, adapter if average else None))
        if step != saved or not (output / "adapter.safetensors").is_file():
            save()

    workers.wait()  # each has seen the stop file
    interrupt.forget()
    reason = reason or "finished"
    adapter_file = output / "adapter.safetensors"
    workers.print(f"{reason} after step {step}: {adapter_file}")
    workers.part()
    return Result(step, reason, adapter_file)


@contextmanager
def _keeping(save: Callable[[], None], workers: Workers) -> Iterator[None]:
    """Saves what was learnt when a picture cannot be read any more (cache.keep = "nothing")."""
    try:
        yield
    except DataError:
        if workers.count == 1:  # several would wait for each other
            save()
        raise


def _dataset(config: TrainConfig) -> Dataset:
    held_out = config.held_out.share if config.held_out.every else 0.0
    return Dataset(config.data, config.views, held_out, config.run.batch_size)


def dry_run(config: TrainConfig) -> str:
    """Says what the run would train, keep and take; loads everything, and changes nothing."""
    dataset = _dataset(config)
    base = load_base(config.model.base)
    encoder = load_image_encoder(config.model.image_encoder, config.model.base, config.model.reads)
    adapter = new_adapter(config, base, encoder)
    caches = cache_bytes(config, dataset, base, encoder)
    rate = speed(Workers(config.run.device).device, PRECISIONS[config.run.precision])
    return estimate(config, dataset, base, encoder, adapter, caches, rate)


def new_adapter(
    config: TrainConfig, base: Base, encoder: ImageEncoder, begun: bool = False
) -> AnimeSketchAdapter:
    """Makes the adapter that the run starts from.

    Args:
        config: the run's settings.
        base: what it is put into.
        encoder: what it reads.
        begun: a checkpoint takes the place of model.start, which is not needed any more.

    Raises:
        ModelError: the Resampler's sizes do not fit the image encoder or the base, or there is no
            model.start.
        WrongAdapterError: model.start is a file of other sizes.
    """
    width = base.shape.cross_attention_dim
    projection = config.image_projection(encoder.width, width)
    if projection.embedding_dim != encoder.width:
        raise ModelError(
            f"resampler.embedding_dim is {config.resampler.embedding_dim}, but the image encoder "
            f"{encoder.name} gives features of width {encoder.width}. Set it to {encoder.width}, "
            "or use another encoder (SD v1.5 adapters: CLIP ViT-H/14, width 1280)."
        )
    if projection.output_dim != width:
        raise ModelError(
            f"resampler.output_dim is {config.resampler.output_dim}, but the UNet of {base.name} "
            f"attends to tokens of width {width}; set it to that."
        )
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(config.run.seed)
        adapter = AnimeSketchAdapter.from_unet(base.shape, projection, dtype=torch.float32)
    if config.model.start == "text" or begun:
        adapter.initialise_from_text(text_keys_values(base.unet))
        return adapter
    try:
        state_dict, _ = read_adapter(config.model.start)
        adapter.load_state_dict(state_dict)
    except FileNotFoundError as error:
        raise ModelError(
            f"model.start = {config.model.start} is not there. Put the file back, or set "
            'model.start = "text" to start from the base.'
        ) from error
    except RuntimeError as error:
        raise WrongAdapterError(
            f"model.start = {config.model.start} has other sizes than [resampler] and the base: "
            f"{error}"
        ) from error
    return adapter


def _optimizer(config: TrainConfig, adapter: AnimeSketchAdapter) -> torch.optim.AdamW:
    settings = config.optimizer
    return torch.optim.AdamW(
        adapter.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _state(
    step: int,
    seen: int,
    best: float,
    config: TrainConfig,
    weights: Mapping[str, str],
    parts: Mapping[str, Stateful],
) -> dict[str, Any]:
    """Collects what the next step depends on."""
    states = {name: part.state_dict() for name, part in parts.items()}
    made = {"config": flatten(config), "weights": dict(weights)}
    return {"step": step, "seen": seen, "best": best, **made, **states}


def _restore(state: Mapping[str, Any], parts: Mapping[str, Stateful]) -> None:
    """Puts a checkpoint's content back."""
    for name, part in parts.items():
        # Switched on since: the running average begins with the weights of now.
        try:
            missing = name == "average" and name not in state
            content = state["adapter"] if missing else state[name]
            part.load_state_dict(content)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"run.output holds a run with another {name}: {error}. Choose another run.output."
            ) from error


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the settings that differ, since then the run is not the one that was begun."""
    return [
        f"{key} was {before[key]!r}, is {value!r}"
        for key, value in now.items()
        if key in before and before[key] != value
    ]


def parse(argv: Sequence[str] | None) -> tuple[TrainConfig, argparse.Namespace]:
    """Reads the command line: --config, --set section.key=value or --section.key value."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Trains a sketch adapter on a frozen Stable Diffusion v1 model.",
        epilog="Any setting can also be given as --section.key VALUE, e.g. --run.batch_size 4.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.toml", help="the settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings and end")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be trained, kept and taken, and end"
    )
    arguments, rest = parser.parse_known_args(argv)
    overrides = read_overrides(arguments.set, rest)
    return load_config(arguments.config, overrides), arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0: done, or ended by run.max_minutes or the stop file; 2: an input cannot be used; 130, 143:
        ended by Ctrl-C, by SIGTERM.
    """

    def work() -> int:
        config, arguments = parse(argv)
        if arguments.print_config:
            print(to_toml(config))
        elif arguments.dry_run:
            print(dry_run(config))
        else:
            reason = train(config).reason
            if reason in signal.Signals.__members__:
                return ended_by(signal.Signals[reason])
        return 0

    goes_on = "the same command goes on from the last checkpoint"
    return run_program(work, (*INPUT_ERRORS, DivergedError), goes_on)


if __name__ == "__main__":
    sys.exit(main())
