"""Trains the mini world from nothing: a small Stable Diffusion, its image encoder, its adapter.

    python -m training.mini                     # every stage; trained ones are not trained again
    python -m training.mini base                # one stage
    python -m training.mini --workspace D ...   # where checkpoints and training pictures lie
    python -m training.mini base --go-on        # start from the weights in the repository

Stages: pictures, autoencoder, encoder, base, adapter, decoder, alignment, judge, measure, sheet;
and, for `python -m training.evaluate`, which compares them, animesketchnet, ip_adapter, controlnet.
Each can be stopped at any moment and goes on from its last checkpoint when it is started again.
Finished models are written to the folder of the bundle, which nodes, trainer and tests load; those
that are compared, and the judge, to training/mini/rivals. The encoder's stage needs torch 2.9.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animesketchnet_core.files import write_atomically
from animesketchnet_core.mini import MINI_FOLDER
from training.files import occupied, remove_leftovers
from training.models import clip_tokenizer, fingerprint
from training.program import run_program
from training.train import INPUT_ERRORS

from . import bundle, rivals
from .alignment import train_text_projection
from .autoencoder import encode, new_autoencoder, train_autoencoder, train_decoder
from .base import Base, train_base
from .encoder import SketchCLIP, load_encoder, train_encoder
from .judge import train_judge
from .measure import measure
from .pictures import choose_for_adapter, draw_pictures, load_pictures
from .portraits import load_portraits
from .sheet import draw_sheet

# Steps of each stage. The weights in the repository had others: see the model card.
STEPS = {
    "autoencoder": 6000,
    "encoder": 4000,
    "base": 6000,
    "adapter": 4000,
    "decoder": 2000,
    "judge": 1000,
    "animesketchnet": 1200,
    "ip_adapter": 1200,
    "controlnet": 1200,
    "alignment": 1500,
}
ALIGNED = 5000  # pictures are enough for the CLIP that measures
BASE_STRIDE = 2  # the base learns from every second picture: encoding more would cost it steps
ERRORS = (*INPUT_ERRORS, FileNotFoundError)


@dataclass
class World:
    """The settings of one run over the stages.

    Attributes:
        workspace: training pictures, checkpoints and latents.
        bundle: where finished models are written.
        rivals: where those that are compared are written, and what measures them.
        steps: of each training stage.
        limit: use only so many portraits; None: all.
        go_on: start from the bundle's models in place of random weights.
    """

    workspace: Path
    bundle: Path
    rivals: Path
    steps: dict[str, int]
    limit: int | None = None
    go_on: bool = False

    @property
    def pictures(self) -> Path:
        """The data set folder that the stage "pictures" writes."""
        return self.workspace / "pictures"

    def load(self) -> tuple[list[dict[str, Any]], Tensor]:
        """The training pictures; draws them first if need be."""
        draw_pictures(self.pictures, limit=self.limit)
        return load_pictures(self.pictures)


def pictures_stage(world: World) -> None:
    """Draws the training pictures and chooses the adapter's."""
    draw_pictures(world.pictures, limit=world.limit)
    choose_for_adapter(world.pictures, world.workspace / "adapter_pictures")


def autoencoder_stage(world: World) -> None:
    """Trains the autoencoder."""
    _, pictures = world.load()
    start = bundle.read_autoencoder(world.bundle) if world.go_on else new_autoencoder()
    model = train_autoencoder(start, pictures, world.workspace, world.steps["autoencoder"])
    bundle.write_autoencoder(model, world.bundle)


def encoder_stage(world: World) -> None:
    """Trains the image-text encoder."""
    rows, pictures = world.load()
    ids = tokenize([row["full_text"] for row in rows])
    answers = torch.tensor([row["answers"] for row in rows])
    torch.manual_seed(3)
    start = SketchCLIP()
    if world.go_on:
        bundle.read_image_encoder(start, world.bundle)
    model = train_encoder(start, pictures, ids, answers, world.workspace, world.steps["encoder"])
    bundle.write_image_encoder(model, world.bundle)


def base_stage(world: World) -> None:
    """Trains the UNet and its text encoder; needs the two stages before."""
    rows, pictures = world.load()
    rows, pictures = rows[::BASE_STRIDE], pictures[::BASE_STRIDE]
    ids = tokenize([text for row in rows for text in row["base_text"]]).unflatten(
        0, (len(rows), -1)
    )
    no_caption = tokenize([""])[0]
    encoder = load_encoder(world.workspace)
    latents = cached_latents(world, pictures)
    torch.manual_seed(4)
    base = Base(bundle.read_text_start(encoder))
    if world.go_on:
        bundle.read_unet(base, world.bundle)
    base = train_base(base, latents, ids, no_caption, world.workspace, world.steps["base"])
    used = torch.cat([ids.unique(), no_caption]).unique()
    bundle.write_base(base, used, world.bundle)


def adapter_stage(world: World) -> None:
    """Trains the adapter with the project's own trainer."""
    pictures_stage(world)
    settings = {
        "model.base": world.bundle,
        "data.folders": world.workspace / "adapter_pictures",
        # What the base makes of the full caption: hair like the reference's, and sooner.
        "data.teacher_column": "full_text",
        "objective.taught": 0.25,
        "run.output": world.workspace / "adapter",
        "run.max_steps": world.steps["adapter"],
    }
    if world.go_on:
        settings["model.start"] = world.bundle / "adapter.safetensors"
    rivals.train_to(world.bundle / "adapter.safetensors", settings)


def decoder_stage(world: World) -> None:
    """Trains the autoencoder's decoder further; everything else stays valid."""
    _, pictures = world.load()
    model = bundle.read_autoencoder(world.bundle)
    model = train_decoder(model, pictures, world.workspace, world.steps["decoder"])
    bundle.write_autoencoder(model, world.bundle)


def judge_stage(world: World) -> None:
    """Trains the classifier that measures the others; needs the autoencoder."""
    portraits, drawings = load_portraits("train", world.limit)
    autoencoder = bundle.read_autoencoder(world.bundle)
    train_judge(portraits, drawings, autoencoder, world.workspace, world.steps["judge"])
    rivals.keep_judge(world.workspace, world.rivals)


def measure_stage(world: World) -> None:
    """Measures what the mini world must show; writes figures.json and prints a table."""
    measure(world.bundle, world.workspace, world.limit)


def sheet_stage(world: World) -> None:
    """Draws the README's contact sheet."""
    draw_sheet(world.bundle, world.bundle / "sheet.png")


def rival_stage(name: str) -> Callable[[World], None]:
    """Makes the stage of one of the adapters that are compared."""

    def stage(world: World) -> None:
        pictures_stage(world)
        pictures = world.workspace / "adapter_pictures"
        steps = world.steps[name]
        rivals.train_adapter(name, world.bundle, pictures, world.workspace, steps, world.rivals)

    return stage


def controlnet_stage(world: World) -> None:
    """Trains the ControlNet that is compared."""
    pictures_stage(world)
    pictures = world.workspace / "adapter_pictures"
    steps, folder = world.steps["controlnet"], world.rivals / "controlnet"
    rivals.train_rival_controlnet(world.bundle, pictures, world.workspace, steps, folder)


def alignment_stage(world: World) -> None:
    """Trains the text side of the CLIP that measures."""
    pictures_stage(world)
    rows, pictures = load_pictures(world.workspace / "adapter_pictures")
    rows, pictures = rows[:ALIGNED], pictures[:ALIGNED]
    captions = [[row["full_text"], *row["text"]] for row in rows]  # prompts name less than all
    steps = world.steps["alignment"]
    train_text_projection(world.bundle, pictures, captions, steps)


STAGES: dict[str, Callable[[World], None]] = {
    "pictures": pictures_stage,
    "autoencoder": autoencoder_stage,
    "encoder": encoder_stage,
    "base": base_stage,
    "adapter": adapter_stage,
    "decoder": decoder_stage,
    "judge": judge_stage,
    "measure": measure_stage,
    "sheet": sheet_stage,
    "animesketchnet": rival_stage("animesketchnet"),
    "ip_adapter": rival_stage("ip_adapter"),
    "controlnet": controlnet_stage,
    "alignment": alignment_stage,
}


def cached_latents(world: World, pictures: Tensor) -> Tensor:
    """The pictures' latents, [n, 4, 16, 16] float16, made once for an encoder."""
    path = world.workspace / "latents.pt"
    autoencoder = bundle.read_autoencoder(world.bundle)
    parts = ("encoder", "quant_conv")
    encoder = "".join(fingerprint(autoencoder.get_submodule(part)) for part in parts)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept.get("encoder") == encoder and len(kept["latents"]) == len(pictures):
            return kept["latents"]
    latents = encode(autoencoder, pictures).half()
    content = {"encoder": encoder, "latents": latents}
    write_atomically(path, lambda temporary: torch.save(content, temporary))
    return latents


def tokenize(captions: Sequence[str]) -> Tensor:
    """CLIP's tokens of captions, [n, 77]."""
    tokenizer = clip_tokenizer()
    options = {"padding": "max_length", "truncation": True, "max_length": 77}
    return tokenizer(list(captions), return_tensors="pt", **options).input_ids


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stages named on the command line, or all of them.

    Returns:
        0: all went well; 2: an input cannot be used; 130, 143: ended by Ctrl-C, by SIGTERM.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.mini",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--workspace", type=Path, default=Path("output/mini"))
    parser.add_argument("--bundle", type=Path, default=MINI_FOLDER)
    parser.add_argument("--rivals", type=Path, default=rivals.FOLDER)
    parser.add_argument(
        "--steps", type=int, help="steps of the named stages, in place of the table's"
    )
    parser.add_argument("--limit", type=int, help="use only so many portraits (to try things out)")
    parser.add_argument(
        "--go-on", action="store_true", help="start from the bundle's models, not from nothing"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch's CPU threads; 0: its choice")
    options = parser.parse_args(argv)
    if unknown := set(options.stages) - STAGES.keys():
        parser.error(
            f"unknown stage {', '.join(sorted(unknown))}; the stages are {', '.join(STAGES)}"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    steps = STEPS if options.steps is None else dict.fromkeys(STEPS, int(options.steps))
    folders = (options.workspace, options.bundle, options.rivals)
    world = World(*folders, steps, options.limit, options.go_on)

    def work() -> int:
        with occupied(world.workspace):
            for folder in folders:
                remove_leftovers(folder)
            for stage in options.stages or STAGES:
                STAGES[stage](world)
        return 0

    return run_program(work, ERRORS)


if __name__ == "__main__":
    sys.exit(main())
