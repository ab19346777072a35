"""ComfyUI with our nodes draws what diffusers' pipeline draws from the same weights and noise.

Both sides are programs of their own (parity/): ComfyUI's modules and this repository's must not
meet in one process. Compared are the latents after a few DDIM steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.adapter_metadata import AdapterMetadata
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import SD15
from animesketchnet_core.weight_file import write_adapter
from tests.random_bundle import RESAMPLER, spread, write_bundle, write_part

PARITY = Path(__file__).parent / "parity"
ALPHAS = (0.0, 0.5, 1.0)

FULL_UNET = {  # runwayml/stable-diffusion-v1-5, unet/config.json
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}
VIT_H = {  # laion/CLIP-ViT-H-14-laion2B-s32B-b79K, vision_config
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


def write_inputs(folder: Path, *, picture: int, latent: int, text: int, steps: int) -> None:
    """Writes what both sides start from; the picture is already of CLIP's size."""
    generator = torch.Generator().manual_seed(11)
    pixels = torch.randint(0, 256, (1, picture, picture, 3), generator=generator)
    inputs = {
        "picture": pixels / 255,
        "noise": torch.randn(1, 4, latent, latent, generator=generator),
        "positive": torch.randn(1, 77, text, generator=generator),
        "negative": torch.randn(1, 77, text, generator=generator),
        "alphas": torch.tensor(ALPHAS),
        "steps": torch.tensor(steps),
        "guidance": torch.tensor(7.5),
    }
    save_file(inputs, folder / "inputs.safetensors")


def draw(program: str, folder: Path, cwd: Path) -> None:
    """Runs one side."""
    done = subprocess.run(
        [sys.executable, str(PARITY / program), str(folder)],
        cwd=cwd,
        env={**os.environ, "ANIMESKETCHNET_MINI": str(folder), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=7200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def largest_differences(folder: Path, comfyui_folder: Path) -> dict[str, float]:
    """Draws both sides; returns the latents' largest difference by alpha, relative to their std."""
    draw("with_comfyui.py", folder, comfyui_folder)
    draw("with_diffusers.py", folder, folder)
    comfyui, diffusers = (load_file(folder / f"{n}.safetensors") for n in ("comfyui", "diffusers"))
    without = diffusers["0"]
    for alpha in ALPHAS[1:]:  # the comparison means nothing if the sketch does nothing
        assert (diffusers[f"{alpha:g}"] - without).std() > 0.05 * without.std()
    return {k: float((comfyui[k] - v).abs().max() / v.std()) for k, v in diffusers.items()}


def test_the_mini_size_agrees_with_diffusers(comfyui_folder: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "mini", replace(RESAMPLER, depth=4))  # all diffusers loads
    write_inputs(folder, picture=112, latent=16, text=128, steps=4)
    assert max(largest_differences(folder, comfyui_folder).values()) < 1e-4


def write_full_size(folder: Path) -> Path:
    """Writes SD v1.5's UNet, ViT-H and an adapter, 3 GB of random weights in half precision."""
    torch.manual_seed(5)
    unet = UNet2DConditionModel(**FULL_UNET)
    write_part(folder / "unet", unet, dict(unet.config))
    del unet
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H))
    write_part(folder / "image_encoder", vision, vision.config.to_dict())
    del vision
    adapter = spread(AnimeSketchAdapter.from_unet(SD15, ResamplerConfig()))
    metadata = AdapterMetadata(num_tokens=16, image_encoder="random ViT-H/14")
    write_adapter(folder / "adapter.safetensors", adapter.state_dict(), metadata)
    return folder


@pytest.mark.slow
def test_the_full_size_agrees_with_diffusers(comfyui_folder: Path, tmp_path: Path) -> None:
    folder = write_full_size(tmp_path / "full")
    write_inputs(folder, picture=224, latent=32, text=768, steps=2)
    assert max(largest_differences(folder, comfyui_folder).values()) < 1e-4
