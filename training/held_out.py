"""Losses on pictures that training never shows: does the model listen to sketch and to text?

The loss of a diffusion model says little by itself. Compared are the losses of the same pictures,
noise and timesteps with the right reference, with another picture's, with none, and without the
caption. A model that listens to the sketch loses when it is taken away or exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        for number in range(bins):
            for part in self._parts(self._samples, places):
                sums[:-1, number] += self._losses(model, part, number)
            for part in self._parts(self._training, places):
                batch = self._batch(self._training, part, number)
                sums[-1, number] += self._sum(model, batch)
        means = self._workers.sum(sums.float()).cpu() / max(1, len(self._samples))
        return {name: row.tolist() for name, row in zip(CONDITIONS, means, strict=True)}

    def _parts(self, samples: list[Sample], places: Sequence[int]) -> Iterator[list[int]]:
        """Splits places into batches of pictures of one size."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for place in places:
            by_shape.setdefault(self._batches.latent_shape(samples[place]), []).append(place)
        size = self._config.cache.batch
        for alike in by_shape.values():
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _losses(self, model: AdaptedUNet, places: list[int], number: int) -> Tensor:
        """Held-out pictures' summed losses under each condition [c - 1], at one timestep."""
        right = self._batch(self._samples, places, number)
        others = [self._samples[(place + len(self) // 2) % len(self)] for place in places]
        variants = (
            right,
            replace(right, features=self._batches.features(others)),
            replace(right, features=self._batches.no_features.expand_as(right.features)),
            replace(right, text=self._batches.no_text.expand_as(right.text)),
        )
        return torch.stack([self._sum(model, variant) for variant in variants])

    def _sum(self, model: AdaptedUNet, batch: Batch) -> Tensor:
        losses = batch.losses(model, self._precision, self._config.objective)
        return losses.sum().double().cpu()

    def _batch(self, samples: list[Sample], places: list[int], number: int) -> Batch:
        bins, count = self._config.held_out.timesteps, len(places)
        total = len(self._base.alphas_cumprod)
        chosen = [samples[place] for place in places]
        shape = self._batches.latent_shape(chosen[0])
        nothing = torch.zeros(count, dtype=torch.bool)
        positions = [place * bins + number for place in places]
        chance = Chance(
            timesteps=torch.full((count,), int((number + 0.5) * total / bins)),
            drop_image=nothing,
            drop_text=nothing,
            taught=nothing,
            alpha=torch.full((count,), self._config.objective.alpha[1]),
            noise=draws.normal(self._config.run.seed, Purpose.HELD_OUT, positions, shape),
            latent=torch.zeros(count, *shape),
        )
        return self._batches.make(chosen, chance)
