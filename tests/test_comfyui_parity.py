"""ComfyUI with our nodes draws what diffusers' pipeline draws from the same weights and noise.

Both sides are programs of their own (parity/): ComfyUI's modules and this repository's must not
meet in one process. Compared are the latents after a few DDIM steps.
"""

from __future__ import annotations

import json
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
from animesketchnet_core.image_projection import (
    EmbeddingProjectionConfig,
    PatchProjectionConfig,
    ProjectionConfig,
)
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import SD15, UNetShape
from animesketchnet_core.weight_file import write_adapter
from tests.random_bundle import RESAMPLER, UNET, VISION, spread, write_bundle, write_part

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


POOLED = 37  # width of the pooled text embedding, which only SDXL reads
NARROW_SDXL = {  # heads of width 64, sizes embedded in 6 x 256 numbers: ComfyUI knows no others
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "cross_attention_dim": 128,
    "attention_head_dim": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + POOLED,
    "sample_size": 16,
}
NARROW_SDXL_IN_COMFYUI = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 3],
    "transformer_depth": [0, 0, 2, 2, 3, 3],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3],
    "transformer_depth_middle": 3,
}
DEEP_RESAMPLER = replace(RESAMPLER, depth=4)  # all that diffusers loads
PLAIN = EmbeddingProjectionConfig(embedding_dim=VISION["projection_dim"], output_dim=128)
FULL_FACE = PatchProjectionConfig(embedding_dim=VISION["hidden_size"], output_dim=128)


def write_inputs(folder: Path, *, picture: int, latent: int, text: int, steps: int) -> None:
    """Writes what both sides start from; the picture is already of CLIP's size."""
    generator = torch.Generator().manual_seed(11)
    pixels = torch.randint(0, 256, (1, picture, picture, 3), generator=generator)
    inputs = {
        "picture": pixels / 255,
        "noise": torch.randn(1, 4, latent, latent, generator=generator),
        "positive": torch.randn(1, 77, text, generator=generator),
        "negative": torch.randn(1, 77, text, generator=generator),
        "positive_pooled": torch.randn(1, POOLED, generator=generator),
        "negative_pooled": torch.randn(1, POOLED, generator=generator),
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


def write_random_adapter(
    folder: Path, unet: UNet2DConditionModel, projection: ProjectionConfig
) -> None:
    """Writes a file as other makers do, without metadata."""
    shape = UNetShape.from_diffusers(unet.config)
    adapter = spread(AnimeSketchAdapter.from_unet(shape, projection))
    loud = 8 if isinstance(projection, PatchProjectionConfig) else 1  # 65 tokens average out
    state_dict = {
        key: (loud * tensor if key.startswith("ip_adapter.") else tensor).half()
        for key, tensor in adapter.state_dict().items()
    }
    save_file(state_dict, folder / "adapter.safetensors")


def check_agreement(folder: Path, comfyui_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_inputs(folder, picture=112, latent=16, text=128, steps=4)
    differences = largest_differences(folder, comfyui_folder)
    with capsys.disabled():
        print(f"\n  ComfyUI and diffusers, by alpha, in units of std: {differences}")  # noqa: T201
    assert max(differences.values()) < 1e-4


def test_the_mini_size_agrees_with_diffusers(
    comfyui_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "mini", DEEP_RESAMPLER)
    check_agreement(folder, comfyui_folder, capsys)


@pytest.mark.parametrize("projection", [PLAIN, FULL_FACE], ids=["plain", "Full Face"])
def test_other_kinds_of_file_agree_with_diffusers(
    projection: ProjectionConfig,
    comfyui_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_bundle(tmp_path / "mini")
    write_random_adapter(folder, UNet2DConditionModel(**UNET), projection)
    check_agreement(folder, comfyui_folder, capsys)


def write_narrow_sdxl(folder: Path, projection: ProjectionConfig) -> Path:
    torch.manual_seed(5)
    unet = UNet2DConditionModel(**NARROW_SDXL)
    write_part(folder / "unet", unet, dict(unet.config))
    (folder / "comfyui_shape.json").write_text(json.dumps(NARROW_SDXL_IN_COMFYUI))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
    write_part(folder / "image_encoder", vision, vision.config.to_dict())
    write_random_adapter(folder, unet, projection)
    return folder


@pytest.mark.parametrize("projection", [PLAIN, DEEP_RESAMPLER], ids=["plain", "Plus"])
def test_sdxl_agrees_with_diffusers(
    projection: ProjectionConfig,
    comfyui_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """28 layers of 2 and 3 transformers a block: a wrong name in ComfyUI changes the picture."""
    folder = write_narrow_sdxl(tmp_path / "sdxl", projection)
    check_agreement(folder, comfyui_folder, capsys)


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
