"""Trains a sketch adapter on a frozen Stable Diffusion v1 model.

    python -m training.train --config training/configs/mini.toml
    python -m training.train --config training/configs/paper.toml --data.folders pictures \
        --model.base stable-diffusion-v1-5 --model.image_encoder image_encoder
    python -m training.train --config my.toml --print-config        # all settings, as TOML
    python -m training.train --config my.toml --run.max_steps 200   # any setting, changed

The same command again goes on where the run stopped, bit for bit as if it had not stopped. Ctrl-C
ends it after the current step, with a checkpoint. Read `train` from top to bottom; each idea has a
file of its own: objective.py (the loss), draws.py (chance), data.py, cache.py, unet.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.weight_file import WrongAdapterError, read_adapter

from .cache import Encoded
from .checkpoints import CheckpointError, Checkpoints, Interrupt
from .config import ConfigError, TrainConfig, flatten, load_config, to_toml
from .data import Dataset
from .ema import RunningAverage
from .export import write_inference_file
from .models import Base, ImageEncoder, ModelError, load_base, load_image_encoder
from .objective import add_noise, draw, drop, noise_loss, sample_latents
from .preview import Previews
from .progress import DivergedError, Progress
from .schedule import learning_rate
from .sources import DataError
from .unet import AdaptedUNet, text_keys_values

INPUT_ERRORS = (ConfigError, DataError, ModelError, CheckpointError, WrongAdapterError)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        reason: "finished", "max_minutes", or the name of the signal.
        adapter: the inference file.
    """

    step: int
    reason: str
    adapter: Path


def train(config: TrainConfig) -> Result:
    """Trains, or goes on training, until max_steps, max_minutes or a signal.

    Raises:
        ConfigError, DataError, ModelError, CheckpointError, WrongAdapterError: an input that
            cannot be used, with the fix.
    """
    run, seed = config.run, config.run.seed
    device = torch.device(_device(run.device))
    precision = PRECISIONS[run.precision]
    if run.precision == "fp16" and device.type == "cpu":
        raise ConfigError('run.precision = "fp16" needs a GPU; on a CPU use "bf16" or "fp32".')
    if run.threads:
        torch.set_num_threads(run.threads)

    # The frozen models, and all that they have to say about the data.
    dataset = Dataset(config.data)
    print(f"{len(dataset)} pictures, {dataset.alone} of them alone in their group")
    base = load_base(config.model.base).to(device)
    encoder = load_image_encoder(config.model.image_encoder, config.model.base)
    encoder.model.to(device)  # type: ignore[arg-type]
    adapter = new_adapter(config, base, encoder).to(device)
    encoded = Encoded(config, dataset, base, encoder)
    previews = Previews(config, dataset, base, encoder) if config.preview.every else None
    encoder.model.to("cpu")  # type: ignore[arg-type]  # its work is done
    no_features, no_text = encoded.no_features.to(device), encoded.no_text.to(device)

    # What is trained. The UNet is cast once; the adapter's weights stay float32.
    base.to(device, precision)
    model = AdaptedUNet(base.unet, adapter)
    optimizer = _optimizer(config, adapter)
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    decay = config.optimizer.ema_decay
    average = RunningAverage(adapter, decay) if decay else None
    shipped = average.adapter if average else adapter

    parts: dict[str, Stateful] = {"adapter": adapter, "optimizer": optimizer, "scaler": scaler}
    if average:
        parts["average"] = average.adapter

    output = Path(run.output)
    checkpoints = Checkpoints(output / "checkpoints", run.keep_last)
    step = seen = 0  # steps done, samples of the stream that are used up
    if (state := checkpoints.latest(device)) is not None:
        step, seen = state["step"], state["seen"]
        _restore(state, parts)
        print(f"going on after step {step} of {run.max_steps}")
        for change in _changes(state["config"], flatten(config)):
            print(f"changed since the last checkpoint: {change}")

    def save() -> None:
        # The inference file first: it refuses weights that are not finite, so that no such
        # checkpoint ever takes a good one's place.
        write_inference_file(output / "adapter.safetensors", shipped, config, encoder, step, seen)
        checkpoints.save(step, _state(step, seen, config, parts))

    # The loop.
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.toml").write_text(to_toml(config), encoding="utf-8")
    deadline = time.monotonic() + run.max_minutes * 60 if run.max_minutes else float("inf")
    progress = Progress(output / "log.jsonl", step, run.max_steps, run.log_every)
    interrupt = Interrupt()
    saved = step
    with interrupt.listening(), progress:
        while step < run.max_steps and not interrupt and time.monotonic() < deadline:
            positions = range(seen, seen + run.batch_size)
            samples = [dataset.sample(seed, position) for position in positions]
            moments = encoded.moments([sample.picture for sample in samples]).to(device)
            features = encoded.features([sample.reference for sample in samples]).to(device)
            text = encoded.text([sample.caption for sample in samples]).to(device)

            latent_shape = (moments.shape[1] // 2, *moments.shape[2:])
            chance = draw(config.objective, seed, positions, latent_shape).to(device)
            kept = base.alphas_cumprod[chance.timesteps]  # [b], share of the picture's variance
            factor = base.vae.config["scaling_factor"]
            latents = sample_latents(moments, chance.latent, factor)  # [b, 4, h, w]
            noisy = add_noise(latents, chance.noise, kept)
            text = drop(text, no_text, chance.drop_text)  # [b, 77, t]
            features = drop(features, no_features, chance.drop_image)  # [b, n, e]

            rate = learning_rate(config.optimizer, step, run.max_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            predicted = model(noisy, chance.timesteps, text, features, chance.alpha, precision)
            gamma = config.objective.min_snr_gamma
            loss = noise_loss(predicted, chance.noise, kept, gamma).mean()
            scaler.scale(loss).backward()
            if config.optimizer.clip_norm:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(adapter.parameters(), config.optimizer.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update(adapter, step)

            step, seen = step + 1, seen + run.batch_size
            progress.update(step, loss.detach(), rate, run.batch_size)
            if step % run.save_every == 0:
                save()
                saved = step
            if previews and step % config.preview.every == 0:
                previews.save(shipped, output / "previews" / f"step-{step:09d}.png")
        if step != saved or not (output / "adapter.safetensors").is_file():
            save()

    finished = step >= run.max_steps
    reason = "finished" if finished else interrupt.signal or "max_minutes"
    return Result(step, reason, output / "adapter.safetensors")


def new_adapter(config: TrainConfig, base: Base, encoder: ImageEncoder) -> AnimeSketchAdapter:
    """Makes the adapter that the run starts from.

    Raises:
        ModelError: the Resampler's sizes do not fit the image encoder or the base.
        WrongAdapterError: model.start is a file of other sizes.
    """
    if config.resampler.embedding_dim != encoder.width:
        raise ModelError(
            f"resampler.embedding_dim is {config.resampler.embedding_dim}, but the image encoder "
            f"{encoder.name} gives features of width {encoder.width}. Set it to {encoder.width}, "
            "or use another encoder (SD v1.5 adapters: CLIP ViT-H/14, width 1280)."
        )
    if config.resampler.output_dim != base.shape.cross_attention_dim:
        raise ModelError(
            f"resampler.output_dim is {config.resampler.output_dim}, but the UNet of {base.name} "
            f"attends to tokens of width {base.shape.cross_attention_dim}; set it to that."
        )
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(config.run.seed)
        adapter = AnimeSketchAdapter.from_unet(base.shape, config.resampler, dtype=torch.float32)
    if config.model.start == "text":
        adapter.initialise_from_text(text_keys_values(base.unet))
        return adapter
    state_dict, _ = read_adapter(config.model.start)
    try:
        adapter.load_state_dict(state_dict)
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
    step: int, seen: int, config: TrainConfig, parts: Mapping[str, Stateful]
) -> dict[str, Any]:
    """Collects what the next step depends on."""
    states = {name: part.state_dict() for name, part in parts.items()}
    return {"step": step, "seen": seen, "config": flatten(config), **states}


def _restore(state: Mapping[str, Any], parts: Mapping[str, Stateful]) -> None:
    """Puts a checkpoint's content back."""
    for name, part in parts.items():
        # Switched on since: the running average begins with the weights of now.
        content = state["adapter"] if name == "average" and name not in state else state[name]
        try:
            part.load_state_dict(content)
        except (RuntimeError, ValueError) as error:
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


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


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
    arguments, rest = parser.parse_known_args(argv)
    overrides = [_pair(text) for text in arguments.set] + _dotted(rest)
    return load_config(arguments.config, overrides), arguments


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: expected SECTION.KEY=VALUE.")
    return key.strip(), value.strip()


def _dotted(rest: Sequence[str]) -> list[tuple[str, str]]:
    """Reads --section.key VALUE and --section.key=VALUE."""
    pairs, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"Cannot read {word!r}; settings are given as --section.key VALUE.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"{word} has no value.")
            value = words.pop(0)
        pairs.append((key, value))
    return pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0: all went well, 2: an input cannot be used, 130: interrupted."""
    try:
        config, arguments = parse(argv)
        if arguments.print_config:
            print(to_toml(config))
            return 0
        result = train(config)
    except (*INPUT_ERRORS, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(f"{result.reason} after step {result.step}: {result.adapter}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
