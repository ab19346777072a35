"""The benchmark of sampling runs, and what it counts is what the project demands on any device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "benchmarks" / "sampling.py"
SMALL = "--device cpu --narrow 10 --size 64 --references 2 --mask --steps 2 --rounds 2"


def test_a_sketch_adds_no_projection_and_no_host_sync(comfyui_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "cost.md"
    done = subprocess.run(
        [sys.executable, PROGRAM, "--comfyui", comfyui_folder, *SMALL.split(), "--output", output],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in output.read_text("utf-8").splitlines()]
    header = next(cells for cells in lines if cells[0] == "px")
    rows = {cells[2]: dict(zip(header, cells, strict=False)) for cells in lines if cells[0] == "64"}
    assert rows.keys() == {"UNet alone", "no adapter", "AnimeSketchNet"}
    sketch = rows["AnimeSketchNet"]
    assert sketch["projections"] == "0"
    assert sketch["host syncs"] == rows["no adapter"]["host syncs"]
    assert sketch["layers"] == "16 of 16"
    assert int(sketch["kernels"]) > int(rows["no adapter"]["kernels"])
