"""Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206), from text alone, through diffusers.

Its own defaults are 28 steps of flow matching and guidance 7; it draws with those that it is given,
as the paper compares all methods. T5, its third and largest text encoder (9.5 GB in half
precision), may be missing from the folder: zeros take its place, as its authors trained it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.loading import ModelError
from training.models import fingerprint
from training.networks import ERRORS, open_network, unreadable

from ..cases import Case
from ..config import DrawSettings
from ..noise import noise

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

T5 = "text_encoder_3"
SETTING = "The folder of Stable Diffusion 3"
SOURCE = "a copy of stabilityai/stable-diffusion-3-medium-diffusers from huggingface.co"


@dataclass
class StableDiffusion3Method:
    """Stable Diffusion 3, which never sees the reference.

    Attributes:
        pipeline: diffusers', on the device and in the precision that it draws in.
        settings: size, steps, guidance and batch.
        weights: hashes of all weights.
    """

    pipeline: StableDiffusion3Pipeline
    settings: DrawSettings
    weights: str

    @property
    def recipe(self) -> str:
        """All that decides a picture beside its case."""
        s = self.settings
        drawn = (s.height, s.width, s.steps, s.guidance, self.pipeline.transformer.dtype)
        return f"stable diffusion 3 1, {self.weights}, {drawn}"

    def draw(self, cases: Sequence[Case]) -> list[Tensor]:
        """Draws one picture for each case, [h, w, 3] float32 in [0, 1] on the CPU.

        CLIP reads 77 tokens of the prompt, T5 256; what is longer is cut.
        """
        pictures: list[Tensor] = []
        for start in range(0, len(cases), self.settings.batch):
            pictures += self._draw(cases[start : start + self.settings.batch])
        return pictures

    @torch.no_grad()
    def _draw(self, cases: Sequence[Case]) -> list[Tensor]:
        s, scale = self.settings, self.pipeline.vae_scale_factor
        channels = self.pipeline.transformer.config["in_channels"]
        drawn: Any = self.pipeline(
            [case.pair.prompt for case in cases],
            height=s.height,
            width=s.width,
            num_inference_steps=s.steps,
            guidance_scale=s.guidance,
            latents=torch.cat(  # type: ignore[arg-type]  # it says FloatTensor
                [noise(case, channels, s.height // scale, s.width // scale) for case in cases]
            ),
            output_type="pt",
        )
        return [picture.movedim(0, -1).float().cpu() for picture in drawn.images]


def open_stable_diffusion_3(
    folder: Path, settings: DrawSettings, device: torch.device, dtype: torch.dtype
) -> StableDiffusion3Method:
    """Loads Stable Diffusion 3 from a local folder in diffusers' layout.

    Args:
        folder: model_index.json, transformer/, vae/, text_encoder/, text_encoder_2/, tokenizers,
            scheduler/, and text_encoder_3/ (T5) or not.
        settings: how it draws.
        device: where.
        dtype: of the weights.

    Raises:
        ModelError: the folder is missing, incomplete, or of another model.
    """
    from diffusers import StableDiffusion3Pipeline  # takes seconds

    _check_kind(folder)
    networks = _networks(folder, device, dtype)
    absent = {} if T5 in networks else {T5: None, "tokenizer_3": None}
    try:
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **networks, **absent
        )
    except (*ERRORS, RuntimeError) as error:
        raise unreadable(SETTING, folder, SOURCE, error) from error
    _check_tokenizers(pipeline, folder)
    pipeline.set_progress_bar_config(disable=True)
    return StableDiffusion3Method(pipeline, settings, " ".join(map(fingerprint, networks.values())))


def _check_kind(folder: Path) -> None:
    """Refuses a folder that says it is of another model, or nothing, or lacks what it lists."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(SETTING, folder, SOURCE, error) from error
    if (kind := index.get("_class_name")) != "StableDiffusion3Pipeline":
        raise ModelError(f"{SETTING} is {folder}, which is for {kind}. Use {SOURCE}.")
    optional = () if (folder / T5).is_dir() else (T5, "tokenizer_3")
    for name, kind in index.items():
        listed = isinstance(kind, list) and kind[0] and name not in optional
        if listed and not (folder / name).is_dir():
            raise ModelError(f"{SETTING} is {folder}, where there is no {name}/. Use {SOURCE}.")


def _networks(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Loads all networks, complete or not at all; T5 only if it is there."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    kinds = {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    if (folder / T5 / "config.json").is_file():
        kinds[T5] = T5EncoderModel
    return {
        name: open_network(kind, folder / name, f"{SETTING}, {name},", SOURCE, dtype, device)
        for name, kind in kinds.items()
    }


def _check_tokenizers(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Refuses a tokenizer without its vocabulary, which transformers makes of a missing folder."""
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name)
        if tokenizer and tokenizer("girl").input_ids == tokenizer("boys").input_ids:
            raise ModelError(
                f"{SETTING} is {folder}, whose {name} is missing or damaged: it does not tell "
                f"one word from another. Use {SOURCE}."
            )
