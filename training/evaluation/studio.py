"""Opens the methods of an evaluation, each when it has something to draw; the base is shared."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from animesketchnet_core.mini import adapter_path
from training.models import PRECISIONS, Base, fingerprint, load_base

from .config import EvaluateConfig, MethodSettings
from .methods.adapter import open_adapter, open_text
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
        base = load_base(self._config.draw.base)
        return base.to(self._device, PRECISIONS[self._config.run.precision])

    @cached_property
    def _base_weights(self) -> str:
        parts = (self.base.unet, self.base.vae, self.base.text_encoder)
        return hashlib.sha256(" ".join(map(fingerprint, parts)).encode()).hexdigest()

    def method(self, name: str, alpha: float) -> Method:
        """A method, ready to draw at an alpha.

        Raises:
            ModelError, WrongAdapterError, FileNotFoundError: its weights are missing or wrong.
        """
        settings = self._config.method(name)
        if name not in self._open:
            self._open = {name: self._opened(settings)}  # one at a time: a GPU has little room
        method = self._open[name]
        if settings.kind in ("adapter", "controlnet") and alpha != settings.alpha:
            return replace(method, alpha=alpha)  # type: ignore[type-var]
        return method

    def _opened(self, settings: MethodSettings) -> Method:
        draw, weights = self._config.draw, Path(settings.weights)
        if settings.kind == "text":
            return open_text(self.base, self._base_weights, draw)
        if settings.kind == "adapter":
            file = adapter_path() if settings.weights == "mini" else weights
            return open_adapter(self.base, self._base_weights, file, settings.alpha, draw)
        raise NotImplementedError(settings.kind)
