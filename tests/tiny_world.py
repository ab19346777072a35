"""A whole Stable Diffusion world of a few hundred kilobytes, random, for tests of the trainer.

Its folder is laid out as the embedded mini models are; the data are a dozen synthetic sketches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

TEXT_WIDTH = 24
IMAGE_WIDTH = 20
RESOLUTION = 32
CLIP_SIZE = 28

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": [1, 2],
    "norm_num_groups": 4,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
VISION = {
    "hidden_size": IMAGE_WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": CLIP_SIZE,
    "patch_size": 14,
    "projection_dim": 12,
}
SETTINGS = {
    "resampler": {
        "dim": 16,
        "depth": 2,
        "dim_head": 64,
        "heads": 1,
        "num_queries": 3,
        "embedding_dim": IMAGE_WIDTH,
        "output_dim": TEXT_WIDTH,
        "ff_mult": 2,
    },
    "data": {"resolution": RESOLUTION},
    "run": {
        "batch_size": 3,
        "max_steps": 6,
        "precision": "fp32",
        "threads": 1,
        "device": "cpu",
        "log_every": 2,
    },
}


def write_models(folder: Path) -> Path:
    """Writes the four random models in the layout of the mini models."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(1234)
    parts = {
        "unet": (UNET, UNet2DConditionModel(**UNET)),
        "vae": (VAE, AutoencoderKL(**VAE)),
        "text_encoder": (TEXT, CLIPTextModel(CLIPTextConfig(**TEXT))),
        "image_encoder": (VISION, CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))),
    }
    torch.random.set_rng_state(generator)
    for name, (config, model) in parts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        if name == "text_encoder":
            state = _few_token_rows(state)
        save_file(state, folder / name / "model.safetensors")
    return folder


def _few_token_rows(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stores the first 1000 token rows and the two special ones, under transformers' old names."""
    state = {"text_model." + k.removeprefix("text_model."): v for k, v in state.items()}
    table = "text_model.embeddings.token_embedding.weight"
    ids = torch.cat([torch.arange(1000), torch.tensor([49406, 49407])])
    return state | {table: state[table][ids].contiguous(), "token_ids": ids}


def write_sketches(folder: Path, count: int = 12, size: int = 40) -> Path:
    """Writes synthetic sketches with metadata.jsonl: two captions each, in groups of three."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        picture = Image.new("RGB", (size, size), "white")
        pen = ImageDraw.Draw(picture)
        generator = np.random.default_rng(number)
        for _ in range(5):
            pen.line([tuple(point) for point in generator.integers(0, size, (3, 2))], fill="black")
        name = f"{number:02d}.png"
        picture.save(folder / name)
        captions = [f"a sketch of {number} lines", f"drawing {number}"]
        lines.append({"file_name": name, "text": captions, "group": f"g{number // 3}"})
    write_metadata(folder, lines)
    return folder


def write_metadata(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Writes metadata.jsonl."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text)


def settings(
    models: Path, pictures: Path, output: Path, **sections: dict[str, Any]
) -> dict[str, Any]:
    """Makes the settings of a run in this world, with sections' keys laid over the tiny ones."""
    values: dict[str, Any] = {
        **SETTINGS,
        "model": {"base": str(models)},
        "data": {**SETTINGS["data"], "folders": [str(pictures)]},
        "run": {**SETTINGS["run"], "output": str(output)},
    }
    for name, keys in sections.items():
        values[name] = {**values.get(name, {}), **keys}
    return values
