"""Times the stages `sketch` and `adjust`, and measures memory and the seams of tiles.

    python tests/benchmarks/dataset_sketch.py --size 3840x2160
    python tests/benchmarks/dataset_sketch.py --size 10240x10240 --methods exact --memory 4
    python tests/benchmarks/dataset_sketch.py --seams --size 1536x1024

The picture is the demo's concert, enlarged, unless --picture names another. Anime2Sketch has its
real size and random weights, unless --weights names netG.pth: time and memory are the same, seams
are those of random weights. Each method runs in a process of its own, from the picture's file to
the sketch's; memory is the most that the process held beyond what it held with everything loaded.
On a busy machine --threads 1 and the seconds of processor tell more than those on the clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import training.dataset
from animesketchnet_core.anime2sketch import Anime2Sketch
from animesketchnet_core.anime2sketch_file import original_keys
from animesketchnet_core.anime2sketch_strips import memory_needed, streamed_levels
from training.dataset.adjust import adjust
from training.dataset.config import AdjustSettings, SketchSettings
from training.dataset.images import read_pixels, to_grey, write_pixels
from training.dataset.sketching.sketchers import open_sketcher
from training.dataset.sketching.tiles import Tiling, seam_error, seam_metric

CONCERT = Path(training.dataset.__file__).parent / "demo_film" / "art" / "concert1.jpg"
METHODS = ("lines", "ink", "exact", "tiles", "adjust")


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        return measure(arguments, arguments.one)
    with tempfile.TemporaryDirectory() as folder:
        width, height = arguments.size
        picture = arguments.picture or enlarged(Path(folder), width, height)
        weights = arguments.weights or random_weights(Path(folder))
        if arguments.seams:
            return table_of_seams(arguments, picture, weights)
        print(f"{width} x {height}, {arguments.threads} threads, {arguments.device}")
        if "exact" in arguments.methods:
            levels = streamed_levels(height, width, int(arguments.memory * 1e9))
            bound = (memory_needed(height, width, levels) + 4 * height * width) / 1e9
            print(f"exact: {levels} levels streamed, bound {bound:.2f} GB with picture and sketch")
        for method in arguments.methods:
            subprocess.run(
                [sys.executable, __file__, "--one", method, "--picture", picture,
                 "--weights", weights, "--memory", str(arguments.memory),
                 "--threads", str(arguments.threads), "--device", arguments.device],
                check=True,
            )  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times sketch and adjust.")
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))),
                        default=(3840, 2160))  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--memory", type=float, default=4.0, help="GB, sketch.memory_gb")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seams", action="store_true", help="the table of tile sizes and overlaps")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


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


def settings_of(arguments: argparse.Namespace, method: str) -> SketchSettings:
    if method in ("exact", "tiles"):
        return SketchSettings(
            method="anime2sketch",
            tiling=method,
            weights=str(arguments.weights),
            memory_gb=arguments.memory,
        )
    return SketchSettings(method="lines" if method == "adjust" else method)


def measure(arguments: argparse.Namespace, method: str) -> None:
    """Prints one method's seconds and memory; in a process of its own."""
    draw = open_sketcher(settings_of(arguments, method), torch.device(arguments.device))
    small = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    adjust(draw(small), AdjustSettings())  # what libraries take once
    path = arguments.picture
    if method == "adjust":
        colour = read_pixels(path, max_megapixels=1000)
        write_pixels(path.parent, "lines.png", draw(colour))
        path = path.parent / "lines.png"
        del colour
    forget_peak()
    before, start = bytes_of("VmRSS:"), time.perf_counter()
    pixels = read_pixels(path, max_megapixels=1000)
    after_reading = bytes_of("VmHWM:") - before
    forget_peak()
    work, processor = time.perf_counter(), time.process_time()
    if method == "adjust":
        sketch, _ = adjust(to_grey(pixels), AdjustSettings())
    else:
        sketch = draw(pixels)
    work, processor = time.perf_counter() - work, time.process_time() - processor
    after_work = bytes_of("VmHWM:") - before
    forget_peak()
    write_pixels(arguments.picture.parent, "sketch.png", sketch)
    total, written = time.perf_counter() - start, bytes_of("VmHWM:") - before
    work_gb, reading_gb, writing_gb = (n / 1e9 for n in (after_work, after_reading, written))
    print(
        f"{method}: {work:.1f} s, {processor:.1f} s of processor ({total:.1f} s with files); "
        f"memory {work_gb:.2f} GB (reading {reading_gb:.2f}, writing {writing_gb:.2f})",
        flush=True,
    )


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def bytes_of(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) * 1024


def table_of_seams(arguments: argparse.Namespace, picture: Path, weights: Path) -> None:
    """Tiles against the exact drawing, for some tiles and overlaps."""
    arguments.weights = weights
    colour = read_pixels(picture)
    device = torch.device(arguments.device)
    exact = open_sketcher(settings_of(arguments, "exact"), device)(colour)
    print(f"{colour.shape[1]} x {colour.shape[0]}; differences in levels of 255")
    print("tile  overlap  mean   p99  largest  in std  metric (exact)")
    for tile in (512, 768, 1024):
        for overlap in (0, 256, 512):
            if overlap >= tile:
                continue
            margin = min(32, overlap // 2)
            settings = replace(settings_of(arguments, "tiles"),
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
