"""Writes a mini bundle with random weights: the layout of animesketchnet_core/mini, no training.

As a program: `python tests/random_bundle.py FOLDER`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.adapter_metadata import AdapterMetadata
from animesketchnet_core.mini import TEXT_PROJECTION, TOKEN_TABLE, compact_token_table
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import UNetShape
from animesketchnet_core.weight_file import write_adapter

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 128,
    "attention_head_dim": (2, 4, 6),
}
VAE = {
    "sample_size": 128,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 32,
}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "projection_dim": 128,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
VISION = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "image_size": 112,
    "patch_size": 14,
    "projection_dim": 128,
    "hidden_act": "gelu",
}
SCHEDULER = {  # SD v1.5's
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
RESAMPLER = ResamplerConfig(
    dim=192, depth=3, heads=3, num_queries=16, embedding_dim=192, output_dim=128
)
TOKEN_IDS = torch.arange(49408 - 1024, 49408)  # includes the start and the end token
SPREAD = 0.05  # wide enough that text and sketch show in the picture, narrow enough for fp16


def write_bundle(folder: Path, resampler: ResamplerConfig = RESAMPLER, seed: int = 0) -> Path:
    """Writes the bundle and returns its folder."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET)
    write_part(folder / "unet", unet, dict(unet.config))
    vae = AutoencoderKL(**VAE)
    write_part(folder / "vae", vae, dict(vae.config))
    text = CLIPTextModel(CLIPTextConfig(**TEXT))
    write_part(folder / "text_encoder", text, text.config.to_dict())
    projection = {"weight": torch.randn(VISION["projection_dim"], TEXT["hidden_size"])}
    save_file(projection, folder / TEXT_PROJECTION)
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
    write_part(folder / "image_encoder", vision, vision.config.to_dict())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    adapter = AnimeSketchAdapter.from_unet(UNetShape.from_diffusers(unet.config), resampler)
    metadata = AdapterMetadata(num_tokens=16, image_encoder="random", base_model="random")
    write_adapter(folder / "adapter.safetensors", spread(adapter).state_dict(), metadata)
    return folder


def write_part(folder: Path, model: nn.Module, config: dict) -> None:
    """Draws a model's weights anew and writes them with its configuration, in half precision."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    weights = {_with_prefix(k): v.detach() for k, v in spread(model).state_dict().items()}
    if TOKEN_TABLE in weights:
        weights |= compact_token_table(weights[TOKEN_TABLE], TOKEN_IDS)
    halved = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_file({k: v.contiguous() for k, v in halved.items()}, folder / "model.safetensors")


def _with_prefix(key: str) -> str:
    """Names a tensor as CLIP's files do; transformers 5 leaves a text model's prefix out."""
    bare = ("embeddings.", "encoder.layers.", "final_layer_norm.")
    return f"text_model.{key}" if key.startswith(bare) else key


def spread(model: nn.Module) -> nn.Module:
    """Draws all weights anew, norms and zero-initialised layers too, so that each one counts."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, centre, SPREAD)
        else:
            nn.init.normal_(parameter, 0.0, 0.7 * parameter[0].numel() ** -0.5)
    return model


if __name__ == "__main__":
    write_bundle(Path(sys.argv[1]))
