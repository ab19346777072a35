"""Runs tests/inside_comfyui in a process of its own, inside ComfyUI's folder.

There the nodes meet the real ComfyUI: its model classes, samplers and guiders, on random weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.random_bundle import write_bundle

INSIDE = Path(__file__).parent / "inside_comfyui"


def test_the_checks_inside_comfyui_pass(comfyui_folder: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "mini")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", str(INSIDE / "pytest.ini"), str(INSIDE)],
        cwd=comfyui_folder,
        env={**os.environ, "ANIMESKETCHNET_MINI": str(bundle), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
