"""Opens the methods of an evaluation, each when it has something to draw; the base is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from animesketchnet_core.mini import adapter_path
from animesketchnet_core.weight_file import read_adapter
from training.files import sha256_of
from training.models import PRECISIONS, Base, load_base
from training.settings import ConfigError

from .cases import Pair
from .config import ON_BASE, WITH_ALPHA, EvaluateConfig, MethodSettings
from .methods.adapter import open_adapter, open_text
from .methods.comfyui import ComfyUIMethod
from .methods.controlnet import open_controlnet
from .methods.folder import FolderMethod
from .methods.method import Method


class Studio:
    """The methods of an evaluation, by name and alpha."""

    def __init__(self, config: EvaluateConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._open: dict[str, Method] = {}

    @cached_property
    def base(self) -> Base:
        """The base of all diffusers methods, on the device, in its precision."""
        base, draw = load_base(self._config.draw.base), self._config.draw
        for name, side in (("height", draw.height), ("width", draw.width)):
            if side % base.size_step:
                raise ConfigError(
                    f"draw.{name} is {side}; expected a multiple of {base.size_step}, as the "
                    f"UNet of {base.name} halves it so often."
                )
        return base.to(self._device, PRECISIONS[self._config.run.precision])

    @cached_property
    def _base_weights(self) -> str:
        return self.base.fingerprint()

    def method(self, name: str, alpha: float) -> Method:
        """A method, ready to draw at an alpha.

        Raises:
            ModelError, WrongAdapterError, FileNotFoundError: its weights are missing or wrong.
        """
        settings = self._config.method(name)
        if name not in self._open:
            self._open = {name: self._opened(settings)}  # one at a time: a GPU has little room
        method = self._open[name]
        if settings.kind in WITH_ALPHA and alpha != settings.alpha:
            return replace(method, alpha=alpha)  # type: ignore[type-var]
        return method

    def warnings(self, pairs: Sequence[Pair]) -> list[str]:
        """Says how many prompts are longer than the base's text encoder reads."""
        if not any(method.kind in ON_BASE for method in self._config.methods):
            return []
        tokenizer = self.base.tokenizer
        places = self.base.text_encoder.config.max_position_embeddings
        prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
        counts = {prompt: len(tokenizer(prompt, verbose=False).input_ids) for prompt in prompts}
        cut = [prompt for prompt, count in counts.items() if count > places]
        if not cut:
            return []
        return [
            f"{len(cut)} of {len(prompts)} prompts are longer than the base's text encoder reads "
            f"({places - 2} tokens) and are drawn without their ends; the "
            f"first is {cut[0][:60]!r} ..."
        ]

    def _opened(self, settings: MethodSettings) -> Method:
        draw, weights = self._config.draw, weights_of(settings)
        if settings.kind == "text":
            return open_text(self.base, self._base_weights, draw)
        if settings.kind == "adapter":
            return open_adapter(self.base, self._base_weights, weights, settings.alpha, draw)
        if settings.kind == "controlnet":
            return open_controlnet(
                self.base, self._base_weights, weights, settings.control, settings.alpha, draw
            )
        if settings.kind == "comfyui":
            return ComfyUIMethod(Path(settings.workflow), settings.address)
        if settings.kind == "folder":
            return FolderMethod(Path(settings.pictures))
        from .methods.stable_diffusion_3 import open_stable_diffusion_3  # takes seconds

        dtype = PRECISIONS[self._config.run.precision]
        return open_stable_diffusion_3(weights, draw, self._device, dtype)


def weights_of(method: MethodSettings) -> Path:
    """Where a method's weights lie."""
    return adapter_path() if method.weights == "mini" else Path(method.weights)


def describe_weights(method: MethodSettings) -> str:
    """Says which files a method has drawn with, and what they tell of their training."""
    if not method.weights:
        return f"{method.name}: none of its own"
    path = weights_of(method)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    hashes = [f"{file.name} SHA-256 {sha256_of(file)[:16]}" for file in files]
    _, metadata = read_adapter(path) if method.kind == "adapter" else ({}, None)
    budget = {key: value for key, value in (metadata.training if metadata else {}).items()
              if key in ("steps", "pictures_seen", "optimizer.learning_rate")}  # fmt: skip
    told = [*hashes, *(f"{key} {value}" for key, value in budget.items())]
    return f"{method.name}: {', '.join(told)}"
