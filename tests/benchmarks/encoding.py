"""Measures Encode Sketch: from an IMAGE to image tokens, beside the peer's encoder node.

    python tests/benchmarks/encoding.py --comfyui PATH --peer PATH               # on a GPU
    python tests/benchmarks/encoding.py --comfyui PATH --peer PATH --narrow 4

Run with ComfyUI's Python. CLIP_VISION is ComfyUI's own ViT-H/14 with random weights; with
--narrow N it is an Nth as wide. Each case varies one of side, pictures and tiles. The bound is the
encoder alone, on pictures that are prepared already, that of "no sketch" among them. Our node also
runs the Resampler and draws what CLIP sees; the peer leaves the Resampler to its Apply node, cuts a
picture to its middle square, and has no tiles that keep the whole in view.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import findings
import machine
import torch
from narrow import HEAD, width
from sampling_world import OURS, PEER, World, draw_weights, make_world

SIZE = 224
BOUND = "ViT alone"


@dataclass(frozen=True)
class Case:
    """What is encoded; `over` is what the case belongs to."""

    over: str
    side: int
    pictures: int = 1
    tiles: int = 1


@dataclass(frozen=True)
class Cost:
    case: Case
    name: str
    seconds: float
    ratio: float  # to the bound, the median of the rounds
    memory: int  # bytes at most, beyond the picture itself


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(argv)
    with torch.inference_mode():
        world = make_world(options)
        clip_vision = random_encoder(options.narrow)
        cases = [
            *(Case("side", side) for side in options.side),
            *(Case("pictures", 512, pictures=n) for n in options.pictures),
            *(Case("tiles", 2048, tiles=n) for n in options.tiles),
        ]
        costs = []
        for case in cases:
            costs += measure(world, clip_vision, case)
            print(*costs[-3:], sep="\n", file=sys.stderr)
        report(options, world, costs)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = findings.parser(__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, metavar="PATH", help="its folder")
    parser.add_argument("--peer", type=Path, metavar="PATH", help="of ComfyUI_IPAdapter_plus")
    parser.add_argument("--side", type=int, nargs="+", default=[256, 1024, 4096, 10240])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--narrow", type=int, default=1, help="divide every width by this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    options.dtype = "fp16" if options.device == "cuda" else "fp32"
    options.pytorch_attention = False
    return options


def random_encoder(narrow: int) -> Any:
    """A CLIP_VISION of ViT-H/14's depth and the World's width."""
    hidden = width(1280, narrow, HEAD)
    config = {
        "model_type": "clip_vision_model", "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_hidden_layers": 32, "num_attention_heads": hidden // HEAD, "patch_size": 14,
        "image_size": SIZE, "num_channels": 3, "projection_dim": width(1024, narrow, 64),
        "hidden_act": "gelu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        encoder = importlib.import_module("comfy.clip_vision").ClipVisionModel(str(path))
    draw_weights(encoder.model)
    return encoder


def measure(world: World, clip_vision: Any, case: Case) -> list[Cost]:
    """The bound and both packs, in turn in each round."""
    image = torch.rand(case.pictures, case.side, case.side, 3)
    works = works_of(world, clip_vision, case, image)
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(world.options.rounds + 1):
        for name, work in works.items():
            seconds = machine.seconds(work, world.device)
            if number:  # the first one does not count
                taken[name].append(seconds)
    return [
        Cost(
            case,
            name,
            min(taken[name]),
            statistics.median(a / b for a, b in zip(taken[name], taken[BOUND], strict=True)),
            machine.bytes_taken(work),
        )
        for name, work in works.items()
    ]


def works_of(
    world: World, clip_vision: Any, case: Case, image: torch.Tensor
) -> dict[str, Callable[[], object]]:
    seen = case.pictures * (1 + (case.tiles**2 if case.tiles > 1 else 0)) + 1
    pixels = torch.randn(seen, 3, SIZE, SIZE, device=clip_vision.load_device)

    def bound() -> None:
        importlib.import_module("comfy.model_management").load_model_gpu(clip_vision.patcher)
        for part in pixels.split(8):
            clip_vision.model(pixel_values=part, intermediate_output=-2)

    adapter = world.sketch.adapter
    encode = importlib.import_module(f"/ComfyUI/custom_nodes/{OURS}.nodes.encode").EncodeSketch
    works = {
        BOUND: bound,
        OURS: partial(encode.execute, adapter, clip_vision, image, tiles=case.tiles),
    }
    if world.peer and case.tiles == 1:
        weights = adapter.patcher.model.state_dict()
        projection = {
            key.removeprefix("image_proj."): value
            for key, value in weights.items()
            if key.startswith("image_proj.")
        }
        node = world.peer.NODE_CLASS_MAPPINGS["IPAdapterEncoder"]()
        works[PEER] = partial(
            node.encode, {"image_proj": projection}, image, 1.0, clip_vision=clip_vision
        )
    return works


def report(options: argparse.Namespace, world: World, costs: Sequence[Cost]) -> None:
    header = ("varied", "side", "pictures", "tiles", "encoding with", "ms", f"times the {BOUND}",
              "GB at most")  # fmt: skip
    rows = [
        (c.case.over, c.case.side, c.case.pictures, c.case.tiles, c.name, f"{1e3 * c.seconds:.0f}",
         f"{c.ratio:.2f}", f"{c.memory / 1e9:.2f}")
        for c in costs
    ]  # fmt: skip
    grown = []
    for over in ("side", "pictures", "tiles"):
        mine = [c for c in costs if c.case.over == over and c.name == OURS]
        if len(mine) > 1:
            power = findings.growth([(getattr(c.case, over), c.seconds) for c in mine])
            grown.append(f"{over} {power}")

    def draw(axes: Any) -> None:
        for axis, over in zip(axes, ("side", "pictures"), strict=True):
            series = {
                name: [
                    (getattr(c.case, over), c.seconds)
                    for c in costs
                    if c.case.over == over and c.name == name
                ]
                for name in dict.fromkeys(c.name for c in costs)
            }
            findings.lines(axis, series, over, "seconds")

    findings.publish(
        options.output,
        "Encoding a sketch",
        [
            f"{machine.name(world.device)}; widths / {options.narrow}; {options.rounds} rounds; on "
            "a CPU seconds of processor",
            findings.table(header, rows),
            f"With ours the time grows with this power: {', '.join(grown)}. GB: beyond the picture "
            "itself, of the host.",
        ],
        draw,
        panels=2,
    )


if __name__ == "__main__":
    main()
