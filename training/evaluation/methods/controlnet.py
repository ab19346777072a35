"""ControlNet (Zhang et al. 2023, arXiv:2302.05543): the reference's lines guide the drawing.

A copy of the UNet's encoder reads the lines and adds to the UNet's skip connections what they say.
The v1.1 models (https://github.com/lllyasviel/ControlNet-v1-1-nightly) expect white lines on black,
and the one for scribbles hard ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor, nn

from animesketchnet_core.weight_container import open_weights
from training.loading import ModelError, load_strictly
from training.models import Base, fingerprint, frozen
from training.sample import Residuals
from training.settings import ConfigError

from ..cases import Case
from ..config import DrawSettings
from .on_base import draw_on, recipe_of

CONTROLS = ("scribble", "lineart", "lineart_anime")
SCRIBBLE_THRESHOLD = 0.5  # of the darkest line: what is at least as dark is line, all else paper
SD15: dict[str, Any] = {"cross_attention_dim": 768}  # v1.1's config.json, beside the defaults
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
MARKS = (  # what reads the lines, in the three ways that files name it; diffusers' is the last
    "control_model.input_hint_block.0.weight",
    "input_hint_block.0.weight",
    "controlnet_cond_embedding.conv_in.weight",
)


@dataclass
class ControlNetMethod:
    """A base and a ControlNet that reads the reference.

    Attributes:
        base: on the device that draws, in the precision that it draws in.
        controlnet: on the same device, in the same precision.
        control: what it reads: "scribble", "lineart" or "lineart_anime".
        alpha: factor of what it adds; 1 is its own.
        settings: size, steps, guidance and batch.
        weights: hashes of all weights.
    """

    base: Base
    controlnet: ControlNetModel
    control: str
    alpha: float
    settings: DrawSettings
    weights: str

    @property
    def recipe(self) -> str:
        """All that decides a picture beside its case."""
        drawn = recipe_of(self.base, self.settings)
        return f"controlnet 1, {self.weights}, {drawn}, {self.control}, alpha {self.alpha:g}"

    @torch.inference_mode()
    def draw(self, cases: Sequence[Case]) -> list[Tensor]:
        """Draws one picture for each case, [h, w, 3] float32 in [0, 1] on the CPU.

        Raises:
            DataError: a reference cannot be read.
            ValueError: a pair has none.
        """
        size = (self.settings.height, self.settings.width)
        references = [case.pair.reference_picture() for case in cases]
        lines = torch.cat([control_image(each, self.control, size) for each in references])
        return draw_on(
            self.base, self.settings, cases, control=lambda chosen: self._residuals(lines[chosen])
        )

    def _residuals(self, lines: Tensor) -> Residuals:
        """What the ControlNet adds for these lines [b, 3, h, w]."""
        lines = lines.to(self.base.device, self.controlnet.dtype)

        def residuals(
            noisy: Tensor, timesteps: Tensor, text: Tensor
        ) -> tuple[tuple[Tensor, ...], Tensor]:
            copies = len(noisy) // len(lines)  # 2 with guidance
            seen = lines.repeat(copies, 1, 1, 1)
            down, middle = self.controlnet(
                noisy, timesteps, text, seen, self.alpha, return_dict=False
            )
            return tuple(down), middle

        return residuals


def control_image(picture: Tensor, control: str, size: tuple[int, int]) -> Tensor:
    """Makes what a ControlNet reads of sketches: the whole of them, white lines on black.

    Args:
        picture: [n, h, w, 3] in [0, 1], dark lines on white.
        control: "scribble" makes the lines hard, 0 or 1 (see SCRIBBLE_THRESHOLD).
        size: (height, width); the sketch lies in the middle, what it does not fill is paper.

    Returns:
        float32 [n, 3, *size] in [0, 1], the channels equal.
    """
    grey = picture.mean(-1).unsqueeze(1)  # [n, 1, h, w]
    scale = min(size[0] / grey.shape[2], size[1] / grey.shape[3])
    height, width = (max(1, round(scale * side)) for side in grey.shape[2:])
    if (height, width) != tuple(grey.shape[2:]):
        grey = F.interpolate(grey, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    lines = F.pad(1 - grey, (left, size[1] - width - left, top, size[0] - height - top))
    if control == "scribble":
        darkest = lines.amax((1, 2, 3), keepdim=True)
        lines = ((lines > 0) & (lines >= SCRIBBLE_THRESHOLD * darkest)).float()
    return lines.repeat(1, 3, 1, 1)


def open_controlnet(
    base: Base, base_weights: str, weights: Path, control: str, alpha: float, settings: DrawSettings
) -> ControlNetMethod:
    """Loads a ControlNet and puts it beside the base.

    Args:
        base: on its device, in its precision.
        base_weights: hash of the base's weights.
        weights: the ControlNet's folder or file (see `read_controlnet`).
        control: what it reads: "scribble", "lineart" or "lineart_anime".
        alpha: factor of what it adds.
        settings: how it draws.

    Raises:
        ConfigError: an unknown control.
        ModelError: there is no ControlNet, or it is made for another base.
    """
    if control not in CONTROLS:
        raise ConfigError(f"control is {control!r}; expected one of {', '.join(CONTROLS)}.")
    controlnet = read_controlnet(weights)
    _check_fits(base, controlnet, weights)
    hashes = f"{base_weights} {fingerprint(controlnet)}"
    nn.Module.to(controlnet, base.device, base.unet.dtype)  # ModelMixin.to warns at each cast
    return ControlNetMethod(base, controlnet, control, alpha, settings, hashes)


def read_controlnet(path: Path) -> ControlNetModel:
    """Reads a ControlNet of Stable Diffusion v1 in float32 on the CPU, frozen.

    Args:
        path: a diffusers folder, or a single file as ComfyUI reads it.

    Raises:
        ModelError: it is missing, damaged, incomplete, or no such ControlNet.
    """
    try:
        return frozen(_from_file(path) if path.is_file() else _from_folder(path))
    except Exception as error:  # diffusers raises whatever a damaged file leads it to
        raise ModelError(
            f"The ControlNet {path} cannot be loaded. {error} Expected is one of Stable Diffusion "
            f"v1.5: a diffusers folder (config.json, {FILES[0]}), or a file such as "
            "control_v11p_sd15_lineart_fp16.safetensors."
        ) from error


def _from_folder(folder: Path) -> ControlNetModel:
    weights = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if weights is None or not (folder / "config.json").is_file():
        raise ModelError(f"There is no config.json, or no {FILES[0]} beside it.")
    config = ControlNetModel.load_config(folder)
    if (name := config.get("_class_name", "ControlNetModel")) != "ControlNetModel":  # type: ignore[union-attr]
        raise ModelError(f"Its config.json says that it is a {name}.")
    model: ControlNetModel = ControlNetModel.from_config(config)  # type: ignore[assignment]
    load_strictly(model, _read(weights), weights)
    return model


def _from_file(path: Path) -> ControlNetModel:
    weights = _read(path)
    if not any(mark in weights for mark in MARKS):
        raise ModelError(f"It holds no ControlNet: it has none of {', '.join(MARKS)}.")
    model = ControlNetModel(**SD15)
    if MARKS[-1] not in weights:
        weights = convert_controlnet_checkpoint(weights, model.config)
    present = {key: value for key, value in weights.items() if value is not None}
    load_strictly(model, present, path)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    file = open_weights(path)
    return {key: file.read(key).float() for key in file.shapes}


def _check_fits(base: Base, controlnet: ControlNetModel, path: Path) -> None:
    """Refuses a ControlNet that copies another encoder than this UNet's."""
    for key in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        theirs, ours = controlnet.config[key], base.unet.config[key]
        if _plain(theirs) != _plain(ours):
            raise ModelError(
                f"The ControlNet {path} has {key} {_plain(theirs)} and the UNet of {base.name} "
                f"{_plain(ours)}: it is made for another base model."
            )
    scale = 2 ** (len(controlnet.config["conditioning_embedding_out_channels"]) - 1)
    if scale != base.latent_scale:
        raise ModelError(
            f"The ControlNet {path} reads {scale} x {scale} pixels for one latent, and {base.name} "
            f"has {base.latent_scale} x {base.latent_scale}: it is made for another base model."
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value
