"""Measures the trainer's cache: how long the frozen encoders take once, how large it is, its reads.

    python tests/benchmarks/training_cache.py --models v1-5-pruned-emaonly.safetensors \
        --image-encoder CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors      # on a GPU
    python tests/benchmarks/training_cache.py                            # the mini models, anywhere

The pictures are random line drawings, each with a caption of its own. The bound is the three
encoders alone on tensors that are there; the rest is reading, framing, hashing and writing. "opened
again" is what a second run pays; "a batch" is the read of a training step, in random order.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import findings
import machine
import numpy as np
import torch
from PIL import Image, ImageDraw

from training.cache import Encoded
from training.config import CacheSettings, DataSettings, ModelSettings, RunSettings, TrainConfig
from training.data import Dataset
from training.models import Base, ImageEncoder, load_base, load_image_encoder
from training.workers import Workers


@dataclass(frozen=True)
class Cost:
    """Of one cache."""

    pictures: int
    side: int
    built: float  # seconds, of processors or of the GPU
    encoders: float  # of them alone
    again: float
    batch: float
    size: int  # bytes


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(argv)
    workers = Workers("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base(options.models)
    encoder = load_image_encoder(options.image_encoder, options.models)
    base.to(workers.device)
    torch.nn.Module.to(encoder.model, workers.device)
    costs = []
    cases = [(count, options.side[0]) for count in options.pictures]
    cases += [(options.pictures[0], side) for side in options.side[1:]]
    with tempfile.TemporaryDirectory() as folder:
        for count, side in cases:
            costs.append(measure(options, Path(folder), count, side, base, encoder, workers))
            print(costs[-1], file=sys.stderr)
    report(options, costs, workers)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = findings.parser(__doc__)
    parser.add_argument("--models", default="mini", help="as model.base")
    parser.add_argument("--image-encoder", default="", help="as model.image_encoder")
    parser.add_argument("--pictures", type=int, nargs="+", default=[50, 200, 800])
    parser.add_argument("--side", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--batch", type=int, default=16)
    return parser.parse_args(argv)


def measure(
    options: argparse.Namespace, folder: Path, count: int, side: int, base: Base,
    encoder: ImageEncoder, workers: Workers,
) -> Cost:  # fmt: skip
    pictures = drawn(folder / f"{count}x{side}", count, side)
    cache = folder / f"cache-{count}x{side}"
    config = TrainConfig(
        model=ModelSettings(base=options.models, image_encoder=options.image_encoder),
        data=DataSettings(folders=(str(pictures),), resolution=side),
        cache=CacheSettings(folder=str(cache), precision="bf16", batch=options.batch),
        run=RunSettings(output=str(folder / "run")),
    )
    dataset = Dataset(config.data)
    opened: list[Encoded] = []

    def build() -> None:
        opened.append(Encoded(config, dataset, base, encoder, workers))

    device = workers.device
    built, again = machine.seconds(build, device), machine.seconds(build, device)
    places = np.random.default_rng(0).permutation(count)[: options.batch]
    targets, captions = dataset.targets, dataset.captions
    views, texts = [targets[place] for place in places], [captions[place] for place in places]

    def read() -> None:
        opened[-1].moments(views)
        opened[-1].features(views)
        opened[-1].text(texts)

    size = sum(path.stat().st_size for path in cache.rglob("*.safetensors"))
    alone = machine.seconds(lambda: encode(options, base, encoder, count, side), device)
    return Cost(
        count, side, built, alone, again, min(machine.seconds(read) for _ in range(5)), size
    )


def drawn(folder: Path, count: int, side: int) -> Path:
    """Writes random line drawings with captions beside them."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(count):
        picture = Image.new("L", (side, side), "white")
        pen = ImageDraw.Draw(picture)
        for _ in range(20):
            pen.line([tuple(map(int, p)) for p in chance.integers(0, side, (6, 2))], width=2)
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"anime sketch number {number}, grey hair")
    return folder


def encode(
    options: argparse.Namespace, base: Base, encoder: ImageEncoder, count: int, side: int
) -> None:
    """All that the encoders compute for a cache, on random tensors."""
    device = base.device
    target, seen = torch.randn(options.batch, 3, side, side), encoder.size
    target = target.to(device)
    reference = torch.rand(options.batch, seen, seen, 3)
    with torch.autocast(device.type, torch.bfloat16):
        for start in range(0, count, options.batch):
            rows = min(options.batch, count - start)
            base.encode_pictures(target[:rows])
            encoder.features(reference[:rows])
        for start in range(0, count, 8 * options.batch):
            base.encode_text(["anime sketch, grey hair"] * min(8 * options.batch, count - start))


def report(options: argparse.Namespace, costs: Sequence[Cost], workers: Workers) -> None:
    header = ("pictures", "side", "seconds", "pictures a second", "times the encoders alone",
              "kB a picture", "opened again, s", "a batch, ms")  # fmt: skip
    rows = [
        (c.pictures, c.side, f"{c.built:.1f}", f"{c.pictures / c.built:.0f}",
         f"{c.built / c.encoders:.2f}", f"{c.size / c.pictures / 1e3:.0f}", f"{c.again:.2f}",
         f"{1e3 * c.batch:.1f}")
        for c in costs
    ]  # fmt: skip
    more = [c for c in costs if c.side == options.side[0]]
    larger = [c for c in costs if c.pictures == options.pictures[0]]
    grown = [
        f"{what} {findings.growth([(of(c), c.built) for c in those])}"
        for what, of, those in (
            ("number of pictures", lambda c: c.pictures, more),
            ("number of pixels", lambda c: c.side**2, larger),
        )
        if len(those) > 1
    ]

    def draw(axes: Any) -> None:
        series = {
            "cache": [(c.pictures, c.built) for c in more],
            "encoders alone": [(c.pictures, c.encoders) for c in more],
            "opened again": [(c.pictures, c.again) for c in more],
        }
        findings.lines(
            axes, series, f"pictures of {options.side[0]} x {options.side[0]}", "seconds"
        )

    findings.publish(
        options.output,
        "The trainer's cache",
        [
            f"{machine.name(workers.device)}; {Path(options.models).name}, bf16, batches of "
            f"{options.batch}; on a CPU seconds of processor",
            findings.table(header, rows),
            f"Grows with this power of the {', of the '.join(grown)}.",
        ],
        draw,
    )


if __name__ == "__main__":
    main()
