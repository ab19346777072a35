"""Times the stages `sketch` and `adjust`, and measures memory and the seams of tiles.

    python tests/benchmarks/sketch_extraction.py --size 3840x2160
    python tests/benchmarks/sketch_extraction.py --size 10240x10240 --methods exact --memory 4
    python tests/benchmarks/sketch_extraction.py --seams --size 1536x1024

The picture is the demo's concert, enlarged, unless --picture names another. Anime2Sketch has its
real size and random weights, unless --weights names netG.pth: time and memory are the same, seams
are those of random weights. Each method runs in a process of its own; memory is the most that the
process held beyond what it held with everything loaded, picture and sketch included. The bound in
time is that of the network's multiplications, where there is one, else of reading the picture and
writing the sketch, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import findings
import machine
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

import training.dataset
from animesketchnet_core.anime2sketch import Anime2Sketch, draw_with
from animesketchnet_core.anime2sketch_file import original_keys
from animesketchnet_core.anime2sketch_strips import memory_needed, streamed_levels
from training.dataset.adjust import adjust
from training.dataset.config import AdjustSettings, SketchSettings
from training.dataset.images import read_pixels, to_grey, write_pixels
from training.dataset.sketching.sketchers import open_sketcher
from training.dataset.sketching.tiles import Tiling, seam_error, seam_metric

CONCERT = Path(training.dataset.__file__).parent / "demo_film" / "art" / "concert1.jpg"
METHODS = ("lines", "ink", "exact", "tiles", "adjust")


@dataclass(frozen=True)
class Cost:
    """What one method takes for one picture."""

    method: str
    width: int
    height: int
    seconds: float  # of processors, or of the GPU by the clock
    memory: int  # bytes
    stated: int | None  # bytes that the code says it needs, where it does

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(argv)
    torch.set_num_threads(options.threads)
    if options.one:
        return measure(options, options.one)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or random_weights(Path(folder))
        costs = []
        for width, height in options.size:
            picture = options.picture or enlarged(Path(folder), width, height)
            if options.seams:
                table_of_seams(options, picture, weights)
                continue
            for method in options.methods:
                costs.append(measured_apart(options, method, picture, weights))
                print(costs[-1], file=sys.stderr)
    if costs:
        report(options, costs)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = findings.parser(__doc__)
    parser.add_argument("--size", nargs="+", default=[(3840, 2160)], metavar="WIDTHxHEIGHT",
                        type=lambda text: tuple(map(int, text.split("x"))))  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--memory", type=float, default=4.0, help="GB, sketch.memory_gb")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seams", action="store_true", help="the table of tile sizes and overlaps")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measured_apart(options: argparse.Namespace, method: str, picture: Path, weights: Path) -> Cost:
    """Runs `measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", method, "--picture", picture,
         "--weights", weights, "--memory", str(options.memory),
         "--threads", str(options.threads), "--device", options.device],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Cost(method, **json.loads(done.stdout.splitlines()[-1]))


def report(options: argparse.Namespace, costs: Sequence[Cost]) -> None:
    rate, bandwidth = machine.flops_a_second(options.device), machine.bytes_a_second(options.device)
    per_pixel = network_flops_a_pixel()
    rows = []
    for cost in costs:
        pixels = cost.width * cost.height
        drawn_by_network = cost.method in ("exact", "tiles")
        bound = per_pixel * pixels / rate if drawn_by_network else 4 * pixels / bandwidth
        rows.append([
            cost.method, f"{cost.width} x {cost.height}", f"{cost.megapixels:.1f}",
            f"{cost.seconds:.1f}", f"{cost.megapixels / cost.seconds:.2f}",
            f"{cost.seconds / bound:.1f}" if drawn_by_network else f"{cost.seconds / bound:.0f}",
            f"{cost.memory / 1e9:.2f}",
            f"{cost.stated / 1e9:.2f}" if cost.stated else "",
        ])  # fmt: skip
    header = ("method", "pixels", "megapixels", "seconds", "megapixels a second", "times the bound",
              "GB at most", "GB stated")  # fmt: skip
    parts = [
        f"{machine.name(options.device)}; seconds of processors, or of the GPU by the clock; "
        f"sketch.memory_gb = {options.memory:g}",
        findings.table(header, rows),
        f"Bounds: Anime2Sketch's {per_pixel / 1e6:.2f} MFLOP a pixel at {rate / 1e9:.0f} GFLOP a "
        f"second (a product of matrices of 2048), for the others 4 bytes a pixel at "
        f"{bandwidth / 1e9:.0f} GB a second (a copy).",
    ]
    by_method = {m: [c for c in costs if c.method == m] for m in options.methods}
    if len(options.size) > 1:
        grown = [
            [method, findings.growth([(c.megapixels, c.seconds) for c in mine]),
             findings.growth([(c.megapixels, max(c.memory, 1)) for c in mine])]
            for method, mine in by_method.items()
        ]  # fmt: skip
        parts.append("Grows with which power of the pixels:")
        parts.append(findings.table(("method", "seconds", "memory"), grown))

    def draw(axes: Any) -> None:
        for axis, label, of in (
            (axes[0], "seconds", lambda c: c.seconds),
            (axes[1], "GB at most", lambda c: c.memory / 1e9),
        ):
            points = {m: [(c.megapixels, of(c)) for c in mine] for m, mine in by_method.items()}
            findings.lines(axis, points, "megapixels", label)

    findings.publish(options.output, "Sketch extraction", parts, draw, panels=2)


def network_flops_a_pixel() -> float:
    """Counted where nothing is computed twice: a small picture, whole."""
    with FlopCounterMode(display=False) as counter:
        draw_with(Anime2Sketch(), torch.zeros(1, 256, 256, 3), resolution=None)
    return counter.get_total_flops() / 256**2


def enlarged(folder: Path, width: int, height: int) -> Path:
    art = Image.open(CONCERT).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    write_pixels(folder, "colour.png", np.asarray(art))
    return folder / "colour.png"


def random_weights(folder: Path) -> Path:
    """As a network is initialised (pix2pix: normal, 0.02), but up to contrast in its drawings."""
    torch.manual_seed(0)
    net = Anime2Sketch(device="meta")
    keys = original_keys()
    save_file({keys[n]: torch.randn(p.shape) * 0.04 for n, p in net.named_parameters()},
              folder / "netG.safetensors")  # fmt: skip
    return folder / "netG.safetensors"


def settings_of(options: argparse.Namespace, method: str) -> SketchSettings:
    if method in ("exact", "tiles"):
        return SketchSettings(
            method="anime2sketch",
            tiling=method,
            weights=str(options.weights),
            memory_gb=options.memory,
        )
    return SketchSettings(method="lines" if method == "adjust" else method)


def measure(options: argparse.Namespace, method: str) -> None:
    """Prints what one method takes; in a process of its own."""
    settings = settings_of(options, method)
    draw = open_sketcher(settings, torch.device(options.device))
    small = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    adjust(draw(small), AdjustSettings())  # what libraries take once
    height, width = read_pixels(options.picture, max_megapixels=1000).shape[:2]
    if method == "adjust":
        lines = draw(read_pixels(options.picture, max_megapixels=1000))
        write_pixels(options.picture.parent, "lines.png", lines)
        del lines
    spent: list[float] = []

    def work() -> None:
        if method == "adjust":
            pixels = to_grey(read_pixels(options.picture.parent / "lines.png", max_megapixels=1000))
            drawing = partial(adjust, pixels, AdjustSettings())
        else:
            drawing = partial(draw, read_pixels(options.picture, max_megapixels=1000))
        spent.append(machine.seconds(drawing, options.device))

    taken = machine.bytes_taken(work)
    stated = None
    if method == "exact":
        levels = streamed_levels(height, width, int(options.memory * 1e9))
        stated = memory_needed(height, width, levels) + 4 * height * width
    print(json.dumps({"width": width, "height": height, "seconds": spent[0], "memory": taken,
                      "stated": stated}))  # fmt: skip


def table_of_seams(options: argparse.Namespace, picture: Path, weights: Path) -> None:
    """Tiles against the exact drawing, for some tiles and overlaps."""
    options.weights = weights
    colour = read_pixels(picture)
    device = torch.device(options.device)
    exact = open_sketcher(settings_of(options, "exact"), device)(colour)
    print(f"{colour.shape[1]} x {colour.shape[0]}; differences in levels of 255")
    print("tile  overlap  mean   p99  largest  in std  metric (exact)")
    for tile in (512, 768, 1024):
        for overlap in (0, 256, 512):
            if overlap >= tile:
                continue
            margin = min(32, overlap // 2)
            settings = replace(settings_of(options, "tiles"),
                               tile=tile, overlap=overlap, margin=margin)  # fmt: skip
            tiled = open_sketcher(settings, device)(colour)
            error = seam_error(exact, tiled)
            tiling = Tiling(tile, overlap, margin)
            print(f"{tile:4}  {overlap:7}  {error.mean:4.1f}  {error.p99:4.0f}  "
                  f"{error.largest:7.0f}  {error.in_deviations:6.3f}  "
                  f"{seam_metric(tiled, tiling):.2f} ({seam_metric(exact, tiling):.2f})",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
