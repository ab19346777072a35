"""The benchmarks run, and what they count is what the project demands on any device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
RESULTS = BENCHMARKS / "results"
SMALL = {
    "sampling": "--device cpu --narrow 10 --size 64 --references 2 --mask --steps 2 --rounds 2",
    "encoding": "--device cpu --narrow 16 --side 64 --pictures 2 --tiles 2 --rounds 1",
    "pack_import": "--rounds 1",
    "training_step": "--device cpu --narrow 10 --size 64 --batch 1 2 --rounds 1",
    "training_cache": "--pictures 4 8 --side 64 --batch 4",
    "sketch_extraction": "--device cpu --size 64x64 96x64 --methods lines exact",
    "dataset_dedup": "many --pictures 30 60",
}


def run(name: str, output: Path, *more: str | Path) -> list[dict[str, str]]:
    """The rows of a benchmark's first table, by the names of its columns."""
    done = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / f"{name}.py",
            *SMALL[name].split(),
            "--output",
            output,
            *more,
        ],
        env={**os.environ, "PYTHONPATH": f"{BENCHMARKS.parents[1]}{os.pathsep}{BENCHMARKS.parent}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    text = output.read_text("utf-8")
    assert f"python {Path('tests/benchmarks', name)}.py {SMALL[name]}" in text
    assert f"({output.stem}.webp)" in text
    assert output.with_suffix(".webp").stat().st_size > 1000
    lines = next(part for part in text.split("\n\n") if part.startswith("| ")).splitlines()
    header, _, *rows = [line.strip("| ").split(" | ") for line in lines]
    return [dict(zip(header, cells, strict=False)) for cells in rows]


def test_a_sketch_adds_no_projection_and_no_host_sync(comfyui_folder: Path, tmp_path: Path) -> None:
    rows = run("sampling", tmp_path / "cost.md", "--comfyui", comfyui_folder)
    found = {row["sampling with"]: row for row in rows}
    assert found.keys() == {"UNet alone", "no adapter", "AnimeSketchNet"}
    sketch = found["AnimeSketchNet"]
    assert sketch["projections"] == "0"
    assert sketch["host syncs"] == found["no adapter"]["host syncs"]
    assert sketch["layers"] == "16 of 16"
    assert int(sketch["kernels"]) > int(found["no adapter"]["kernels"])


def test_encoding_and_import_are_timed(comfyui_folder: Path, tmp_path: Path) -> None:
    rows = run("encoding", tmp_path / "a.md", "--comfyui", comfyui_folder)
    assert [row["varied"] for row in rows[::2]] == ["side", "pictures", "tiles"]
    assert {row["encoding with"] for row in rows} == {"ViT alone", "AnimeSketchNet"}
    (pack,) = run("pack_import", tmp_path / "b.md", "--comfyui", comfyui_folder)
    assert pack["others"] == "0"  # modules that ComfyUI itself had not imported


@pytest.mark.parametrize(
    ("name", "amount", "amounts"),
    [
        ("training_step", "batch", ["1", "2"]),
        ("training_cache", "pictures", ["4", "8"]),
        ("sketch_extraction", "pixels", ["64 x 64", "96 x 64"]),
        ("dataset_dedup", "pictures", ["30", "60"]),
    ],
)
def test_it_says_how_cost_grows(name: str, amount: str, amounts: list[str], tmp_path: Path) -> None:
    rows = run(name, tmp_path / "cost.md")
    assert list(dict.fromkeys(row[amount] for row in rows)) == amounts
    assert "power" in (tmp_path / "cost.md").read_text("utf-8")


def test_each_result_stands_beside_its_command_and_its_plot() -> None:
    """What is committed was made by programs that are there, with options that they have."""
    pages = sorted(RESULTS.glob("*.md"))
    assert pages
    shared = (BENCHMARKS / "findings.py").read_text("utf-8")
    index = (BENCHMARKS / "README.md").read_text("utf-8")
    for page in pages:
        text = page.read_text("utf-8")
        (name, options) = re.findall(r"^    python tests/benchmarks/(\w+)\.py (.*)$", text, re.M)[0]
        program = (BENCHMARKS / f"{name}.py").read_text("utf-8") + shared
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in program, (page, option)
        assert page.with_suffix(".webp").exists()
        assert f"(results/{page.name})" in index
