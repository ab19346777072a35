"""Writes the finished mini models where nodes and trainer find them: fp16, in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel

from animesketchnet_core.files import write_atomically, write_safetensors
from animesketchnet_core.mini import TOKEN_TABLE, compact_token_table, load_part
from training.files import make_folder

from .base import SCHEDULER_CONFIG, Base
from .encoder import SketchCLIP

SCHEDULER_CLASS = "DDIMScheduler"


def write_autoencoder(model: AutoencoderKL, folder: Path) -> None:
    """Writes vae/."""
    _write(folder / "vae", model.config, model.state_dict())


def read_autoencoder(folder: Path) -> AutoencoderKL:
    """Reads vae/ back."""
    config, weights = load_part("vae", folder)
    model: Any = AutoencoderKL.from_config(config)
    model.load_state_dict(weights)
    return model.eval()


def write_image_encoder(model: SketchCLIP, folder: Path) -> None:
    """Writes image_encoder/: the vision tower with its projection, without the text's."""
    prefixes = ("vision_model.", "visual_projection.")
    weights = {k: v for k, v in model.clip.state_dict().items() if k.startswith(prefixes)}
    config: Any = model.clip.config.vision_config
    _write(folder / "image_encoder", config.to_dict(), weights)


def read_image_encoder(model: SketchCLIP, folder: Path) -> None:
    """Loads image_encoder/ and, for the text tower, text_encoder/ into an image-text encoder.

    What the bundle does not hold, such as the text's projection, stays as it is.
    """
    weights = load_part("image_encoder", folder)[1] | load_part("text_encoder", folder)[1]
    unexpected = model.clip.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"{folder} has weights that no image-text encoder has: {unexpected[:3]}.")


def write_base(base: Base, used_tokens: Tensor, folder: Path) -> None:
    """Writes unet/, text_encoder/ (only the token rows that training used) and scheduler/."""
    _write(folder / "unet", base.unet.config, base.unet.state_dict())
    state_dict = base.text_encoder.state_dict()  # with the prefix until transformers 5
    text = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in state_dict.items()}
    text |= compact_token_table(text[TOKEN_TABLE], used_tokens)
    _write(folder / "text_encoder", base.text_encoder.config.to_dict(), text)
    schedule = {"_class_name": SCHEDULER_CLASS, **SCHEDULER_CONFIG}
    _write_text(folder / "scheduler" / "scheduler_config.json", json.dumps(schedule, indent=2))


def read_unet(base: Base, folder: Path) -> None:
    """Loads unet/ into a base; its text encoder comes from the image-text encoder, as ever."""
    base.unet.load_state_dict(load_part("unet", folder)[1])


def read_text_start(model: SketchCLIP) -> CLIPTextModel:
    """The text encoder that the base starts from: the image-text encoder's text tower."""
    text = CLIPTextModel._from_config(
        model.clip.config.text_config,
        attn_implementation="eager",  # see encoder.py
    )
    tower: Any = getattr(text, "text_model", text)  # itself from transformers 5 on
    wanted = tower.state_dict()
    tower.load_state_dict(
        {k: v for k, v in model.clip.text_model.state_dict().items() if k in wanted}
    )
    return text


def _write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes config.json and model.safetensors, each whole or not at all."""
    make_folder(folder)
    halves = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in weights.items()
    }
    write_safetensors(folder / "model.safetensors", halves, {"format": "pt"})
    plain = {
        key: value
        for key, value in sorted(config.items())
        if not isinstance(value, torch.dtype) and key != "_use_default_values"  # in no fixed order
    }
    _write_text(folder / "config.json", json.dumps(plain, indent=2, default=str))


def _write_text(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
