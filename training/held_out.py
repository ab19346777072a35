"""Losses on pictures that training never shows: does the model listen to sketch and to text?

The loss of a diffusion model says little by itself. Compared are the losses of the same pictures,
noise and timesteps with the right reference, with another picture's, with none, and without the
caption. A model that listens to the sketch loses when it is taken away or exchanged.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter

from . import draws
from .batch import Batch, Batches
from .config import TrainConfig
from .data import Dataset, Sample
from .draws import Purpose
from .models import Base
from .objective import Chance
from .unet import AdaptedUNet
from .workers import Workers

# The columns, in the order of the log.
CONDITIONS = ("loss", "other_sketch", "no_sketch", "no_text", "training")


class HeldOut:
    """The held-out pictures with fixed noise, at fixed timesteps."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        batches: Batches,
        base: Base,
        precision: torch.dtype,
        workers: Workers,
    ) -> None:
        self._config = config
        self._batches = batches
        self._base = base
        self._precision = precision
        self._workers = workers
        count = min(config.held_out.count, len(dataset.held_out))
        self._samples = [dataset.held_out_sample(number) for number in range(count)]
        self._training = [dataset.sample(config.run.seed, place) for place in range(count)]

    def __len__(self) -> int:
        return len(self._samples)

    @torch.no_grad()
    def measure(self, adapter: AnimeSketchAdapter) -> dict[str, list[float]]:
        """Measures an adapter; all processes must call it, each does its share.

        Returns:
            By condition (CONDITIONS) the mean loss at each of the timesteps, least noise first.
        """
        model = AdaptedUNet(self._base.unet, adapter)
        bins = self._config.held_out.timesteps
        sums = torch.zeros(len(CONDITIONS), bins, dtype=torch.float64)
        places = self._workers.share(range(len(self._samples)))
        step = max(1, self._config.cache.batch)
        for number in range(bins):
            for start in range(0, len(places), step):
                part = list(places[start : start + step])
                sums[:, number] += self._losses(model, part, number).double().cpu()
        means = self._workers.sum(sums.float()).cpu() / max(1, len(self._samples))
        return {name: row.tolist() for name, row in zip(CONDITIONS, means, strict=True)}

    def _losses(self, model: AdaptedUNet, places: list[int], number: int) -> Tensor:
        """The summed losses of some pictures under each condition [c], at one timestep."""
        right = self._batch(self._samples, places, number)
        others = [(place + max(1, len(self) // 2)) % len(self) for place in places]
        other_features = self._batch(self._samples, others, number).features
        variants = (
            right,
            replace(right, features=other_features),
            replace(right, features=self._batches.no_features.expand_as(right.features)),
            replace(right, text=self._batches.no_text.expand_as(right.text)),
            self._batch(self._training, places, number),
        )
        gamma = self._config.objective.min_snr_gamma
        losses = [variant.losses(model, self._precision, gamma).sum() for variant in variants]
        return torch.stack(losses)

    def _batch(self, samples: list[Sample], places: list[int], number: int) -> Batch:
        bins, count = self._config.held_out.timesteps, len(places)
        total = len(self._base.alphas_cumprod)
        shape = self._batches.latent_shape
        nothing = torch.zeros(count, dtype=torch.bool)
        positions = [place * bins + number for place in places]
        chance = Chance(
            timesteps=torch.full((count,), int((number + 0.5) * total / bins)),
            drop_image=nothing,
            drop_text=nothing,
            alpha=torch.full((count,), self._config.objective.alpha[1]),
            noise=draws.normal(self._config.run.seed, Purpose.HELD_OUT, positions, shape),
            latent=torch.zeros(count, *shape),
        )
        return self._batches.make([samples[place] for place in places], chance)
