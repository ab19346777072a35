"""One batch: what the model is given, what it should answer, and how far off it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cache import Encoded
from .data import Sample
from .models import Base
from .objective import Chance, add_noise, drop, noise_loss, sample_latents


@dataclass(frozen=True)
class Batch:
    """The model's arguments and its target.

    Attributes:
        noisy: noisy latents [b, 4, h, w].
        timesteps: int64 [b].
        text: text embeddings [b, 77, t].
        features: penultimate CLIP features of the references [b, n, e].
        alpha: strengths of the sketch [b].
        noise: what the model should predict [b, 4, h, w].
        kept: share of the picture's variance in `noisy` [b].
    """

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    features: Tensor
    alpha: Tensor
    noise: Tensor
    kept: Tensor

    def losses(self, model: nn.Module, precision: torch.dtype, min_snr_gamma: float) -> Tensor:
        """Each sample's loss [b], of an `AdaptedUNet`."""
        predicted = model(
            self.noisy, self.timesteps, self.text, self.features, self.alpha, precision
        )
        return noise_loss(predicted, self.noise, self.kept, min_snr_gamma)


class Batches:
    """Makes batches of samples and chance, on the device that trains."""

    def __init__(self, encoded: Encoded, base: Base, device: torch.device) -> None:
        self._encoded = encoded
        self._alphas_cumprod = base.alphas_cumprod.to(device)
        self._scaling_factor = base.vae.config["scaling_factor"]
        self._device = device
        self.no_features = encoded.no_features.to(device)  # [1, n, e]
        self.no_text = encoded.no_text.to(device)  # [1, 77, t]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one picture: (4, h, w)."""
        channels, *size = self._encoded.moments_shape
        return (channels // 2, *size)

    def make(self, samples: Sequence[Sample], chance: Chance) -> Batch:
        """Looks up what the encoders made of the samples, adds noise, drops conditions."""
        chance = chance.to(self._device)
        moments = self._encoded.moments([s.picture for s in samples]).to(self._device)
        features = self._encoded.features([s.reference for s in samples]).to(self._device)
        text = self._encoded.text([s.caption for s in samples]).to(self._device)
        latents = sample_latents(moments, chance.latent, self._scaling_factor)  # [b, 4, h, w]
        kept = self._alphas_cumprod[chance.timesteps]  # [b]
        return Batch(
            noisy=add_noise(latents, chance.noise, kept),
            timesteps=chance.timesteps,
            text=drop(text, self.no_text, chance.drop_text),
            features=drop(features, self.no_features, chance.drop_image),
            alpha=chance.alpha,
            noise=chance.noise,
            kept=kept,
        )
