"""One batch: what the model is given, what it should answer, and how far off it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cache import Encoded
from .config import ObjectiveSettings
from .data import Sample
from .models import Base
from .objective import Chance, add_noise, drop, loss_weights, noise_loss, sample_latents


@dataclass(frozen=True)
class Batch:
    """The model's arguments and its target.

    Attributes:
        noisy: noisy latents [b, 4, h, w].
        timesteps: int64 [b].
        text: text embeddings [b, 77, t].
        features: penultimate CLIP features of the references [b, n, e].
        alpha: strengths of the sketch [b].
        noise: what is in the noisy latents [b, 4, h, w].
        fuller: text that says in words what the sketch shows [k, 77, t].
        taught: int64 [k], the samples that learn from what the base makes of it.
        kept: share of the picture's variance in `noisy` [b].
    """

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    features: Tensor
    alpha: Tensor
    noise: Tensor
    fuller: Tensor
    taught: Tensor
    kept: Tensor

    def losses(
        self, model: nn.Module, precision: torch.dtype, objective: ObjectiveSettings
    ) -> Tensor:
        """Each sample's weighed loss [b], of an `AdaptedUNet`."""
        target = self.noise
        if len(self.taught):
            k = self.taught
            with torch.no_grad():
                told = model(self.noisy[k], self.timesteps[k], self.fuller, None, 0.0, precision)
            target = target.index_copy(0, k, told)
        predicted = model(
            self.noisy, self.timesteps, self.text, self.features, self.alpha, precision
        )
        weights = loss_weights(self.kept, objective.min_snr_gamma, objective.high_noise_weight)
        return noise_loss(predicted, target) * weights


class Batches:
    """Makes batches of samples and chance, on the device that trains."""

    def __init__(self, encoded: Encoded, base: Base, device: torch.device) -> None:
        self._encoded = encoded
        self._alphas_cumprod = base.alphas_cumprod.to(device)
        self._scaling_factor = base.vae.config["scaling_factor"]
        self._device = device
        self.no_features = encoded.no_features.to(device)  # [1, n, e]
        self.no_text = encoded.no_text.to(device)  # [1, 77, t]

    def latent_shape(self, sample: Sample) -> tuple[int, ...]:
        """Of the sample's target: (4, h, w)."""
        return self._encoded.latent_shape(sample.picture)

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Penultimate CLIP features of the references [b, n, e]."""
        return self._encoded.features([s.reference for s in samples]).to(self._device)

    def _text(self, captions: Sequence[str]) -> Tensor:
        return self._encoded.text(captions).to(self._device)

    def make(self, samples: Sequence[Sample], chance: Chance) -> Batch:
        """Makes a batch of samples of one size: adds noise, drops conditions."""
        taught = chance.taught.nonzero().flatten()  # still on the CPU: no GPU is waited for
        chance = chance.to(self._device)
        moments = self._encoded.moments([s.picture for s in samples]).to(self._device)
        features = self.features(samples)
        latents = sample_latents(moments, chance.latent, self._scaling_factor)  # [b, 4, h, w]
        kept = self._alphas_cumprod[chance.timesteps]  # [b]
        text = self._text([s.caption for s in samples])
        return Batch(
            noisy=add_noise(latents, chance.noise, kept),
            timesteps=chance.timesteps,
            text=drop(text, self.no_text, chance.drop_text),
            features=drop(features, self.no_features, chance.drop_image),
            alpha=chance.alpha,
            noise=chance.noise,
            fuller=self._text([samples[k].teacher for k in taught.tolist()])
            if len(taught)
            else text[:0],
            taught=taught.to(self._device),
            kept=kept,
        )
