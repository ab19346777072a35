"""The running average of the adapter's weights, which is what gets shipped when it is on."""

from __future__ import annotations

import copy

import torch

from animesketchnet_core.adapter import AnimeSketchAdapter


class RunningAverage:
    """An adapter whose weights follow another's: average = d average + (1 - d) weights.

    The decay d starts low, min(decay, (1 + step) / (10 + step)), so that the random start is soon
    forgotten (Abadi et al., tf.train.ExponentialMovingAverage).
    """

    def __init__(self, adapter: AnimeSketchAdapter, decay: float) -> None:
        self.decay = decay
        self.adapter = copy.deepcopy(adapter).requires_grad_(False)

    @torch.no_grad()
    def update(self, adapter: AnimeSketchAdapter, step: int) -> None:
        """Follows the weights by one step; steps count from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        pairs = zip(self.adapter.parameters(), adapter.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, weight)
