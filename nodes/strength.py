"""How strongly one applied sketch acts: alpha, when, in which layers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import neg
from typing import Any

from ..animesketchnet_core.alpha_curve import AlphaCurve


@dataclass(frozen=True)
class Strength:
    """Alpha over steps and layers.

    Attributes:
        alpha: strength of the sketch, 0 to 1.
        start_percent: from where on it acts, in [0, 1] of the sampling's noise schedule.
        end_percent: up to where.
        curve: factor of alpha over that range's whole schedule, None for 1 throughout.
        layers: factor of alpha by layer index.
    """

    alpha: float
    start_percent: float
    end_percent: float
    curve: AlphaCurve | None
    layers: Mapping[int, float]

    @property
    def constant(self) -> bool:
        """Whether alpha is the same in all steps."""
        return self.start_percent <= 0 and self.end_percent >= 1 and self.curve is None


class NoiseSchedule:
    """ComfyUI's percent of the noise schedule, both ways."""

    def __init__(self, model_sampling: Any) -> None:
        """Keeps the model's `model_sampling`."""
        # Each question may wait for the device, and the same ones are asked in each step.
        self.sigma = cache(lambda percent: float(model_sampling.percent_to_sigma(percent)))
        self._sigmas: list[float] | None = None  # falling, one for each thousandth

    def percent(self, sigma: float) -> float:
        """Returns the percent of a sigma, to a thousandth."""
        if self._sigmas is None:
            self._sigmas = [self.sigma(i / _PARTS) for i in range(_PARTS + 1)]
        return min(bisect_left(self._sigmas, -sigma, key=neg), _PARTS) / _PARTS

    def alpha(self, strength: Strength, sigma: float) -> float:
        """Returns alpha at a moment of the sampling, before layers; 0 while it does not act."""
        if not self.sigma(strength.end_percent) <= sigma <= self.sigma(strength.start_percent):
            return 0.0
        factor = strength.curve.at(self.percent(sigma)) if strength.curve else 1.0
        return strength.alpha * factor


_PARTS = 1000
