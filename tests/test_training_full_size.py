"""One run at full size: SD v1.5's and CLIP ViT-H/14's shapes, random weights, at 256 px.

pytest -m slow tests/test_training_full_size.py -s      # needs 16 GB of memory and 6 of disk
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from animesketchnet_core.weight_file import read_adapter
from tests import tiny_world
from tests.benchmarks.training_step import Networks

ROOT = Path(__file__).parents[1]
# The peak of memory is asked of the process that trains, not of the one that wrote the models.
TRAIN = """
import resource, sys
from training.train import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def write_model(folder: Path, model: nn.Module) -> None:
    config = model.config
    folder.mkdir(parents=True)
    content = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    (folder / "config.json").write_text(json.dumps(content, default=str))
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


@pytest.mark.slow
def test_a_full_size_run_writes_the_83_tensors(tmp_path: Path) -> None:
    base = tmp_path / "base"
    networks = Networks(narrow=1, device="cpu")
    for part in ("unet", "vae", "text_encoder", "image_encoder"):
        write_model(base / part, getattr(networks, part))
    del networks
    pictures = tiny_world.write_sketches(tmp_path / "sketches", count=4, size=256)
    command = [
        *(sys.executable, "-c", TRAIN, "--config", str(ROOT / "training/configs/paper.toml")),
        *("--model.base", str(base), "--model.image_encoder", str(base / "image_encoder")),
        *("--data.folders", str(pictures)),
        *("--data.resolution", "256", "--run.output", str(tmp_path / "out")),
        *("--run.max_steps", "2", "--run.batch_size", "1", "--run.save_every", "2"),
        *("--run.log_every", "1", "--preview.every", "0", "--held_out.every", "0"),
        *("--cache.precision", "bf16", "--cache.batch", "1"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sys.stdout.write(done.stdout)
    state_dict, metadata = read_adapter(tmp_path / "out" / "adapter.safetensors")
    assert len(state_dict) == 83
    assert sum(value.numel() for value in state_dict.values()) == 49_087_488
    assert metadata is not None
    assert metadata.training["steps"] == 2
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert all(0.1 < loss < 10 for loss in losses)
    peak = int(done.stdout.split("peak ")[1])
    assert peak < 12e9
