"""One run at full size: SD v1.5's and CLIP ViT-H/14's shapes, random weights, at 256 px.

pytest -m slow tests/test_training_full_size.py -s      # needs 16 GB of memory and 6 of disk
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from animesketchnet_core.weight_file import read_adapter
from tests import tiny_world

ROOT = Path(__file__).parents[1]
UNET = {"cross_attention_dim": 768, "attention_head_dim": 8}  # diffusers' defaults are SD v1.5's
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "hidden_act": "gelu",
    "projection_dim": 1024,
}
# The peak of memory is asked of the process that trains, not of the one that wrote the models.
TRAIN = """
import resource, sys
from training.train import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def write_model(folder: Path, config: dict, model: nn.Module) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


@pytest.mark.slow
def test_a_full_size_run_writes_the_83_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = tmp_path / "base"
    write_model(base / "unet", UNET, UNet2DConditionModel(**UNET))
    write_model(base / "vae", VAE, AutoencoderKL(**VAE))
    write_model(base / "text_encoder", TEXT, CLIPTextModel(CLIPTextConfig(**TEXT)))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
    write_model(base / "image_encoder", VISION, vision)
    del vision
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
