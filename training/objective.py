"""The loss: predict the noise, with conditions that are dropped at times.

    L = E |eps - eps_theta(z_t, t, text, sketch)|^2        (Ye et al. 2023, arXiv:2308.06721, eq. 6)

All that is random comes from draws.py and depends on the seed and the sample's position only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import draws
from .config import ObjectiveSettings
from .draws import Purpose


@dataclass(frozen=True)
class Chance:
    """What chance decides for each sample of a batch.

    Attributes:
        timesteps: int64 [b].
        drop_image: bool [b]; True: the sample sees no reference.
        drop_text: bool [b]; True: the sample sees no caption.
        alpha: float32 [b].
        noise: float32 [b, *latent shape].
        latent: float32, as noise: picks the sample from the autoencoder's posterior.
    """

    timesteps: Tensor
    drop_image: Tensor
    drop_text: Tensor
    alpha: Tensor
    noise: Tensor
    latent: Tensor

    def to(self, device: torch.device) -> Chance:
        """Moves every tensor."""
        return Chance(**{name: value.to(device) for name, value in vars(self).items()})


def draw(
    settings: ObjectiveSettings,
    seed: int,
    positions: Sequence[int],
    latent_shape: tuple[int, ...],
    timesteps: int = 1000,
) -> Chance:
    """Draws a batch's chance from its samples' positions in the stream."""
    positions = list(positions)
    drops = torch.tensor([draws.uniform(seed, Purpose.DROP, p) for p in positions])
    image, text, both = settings.drop_image, settings.drop_text, settings.drop_both
    low, high = settings.alpha
    part = torch.tensor([draws.uniform(seed, Purpose.ALPHA, p) for p in positions])
    steps = [draws.integer(seed, Purpose.TIMESTEP, p, timesteps) for p in positions]
    return Chance(
        timesteps=torch.tensor(steps),
        drop_image=(drops < image) | ((drops >= image + text) & (drops < image + text + both)),
        drop_text=(drops >= image) & (drops < image + text + both),
        alpha=low + (high - low) * part,
        noise=draws.normal(seed, Purpose.NOISE, positions, latent_shape),
        latent=draws.normal(seed, Purpose.LATENT, positions, latent_shape),
    )


def sample_latents(moments: Tensor, unit: Tensor, scaling_factor: float) -> Tensor:
    """Draws latents from the autoencoder's posterior.

    Args:
        moments: mean and log variance, [b, 8, h, w].
        unit: standard normal numbers, [b, 4, h, w].
        scaling_factor: the base's factor that gives latents unit variance (SD v1: 0.18215).

    Returns:
        float32 [b, 4, h, w].
    """
    mean, log_variance = moments.float().chunk(2, dim=1)
    std = (0.5 * log_variance.clamp(-30, 20)).exp()  # the bounds are AutoencoderKL's
    return (mean + std * unit) * scaling_factor


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Diffuses latents (Ho et al. 2020, eq. 4).

    Args:
        latents: [b, 4, h, w].
        noise: as latents.
        alphas_cumprod: of each sample's timestep, [b].
    """
    kept = alphas_cumprod.view(-1, 1, 1, 1)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def drop(conditions: Tensor, unconditional: Tensor, dropped: Tensor) -> Tensor:
    """Replaces the dropped samples' conditions [b, n, d] by the unconditional one [1, n, d]."""
    return torch.where(dropped.view(-1, 1, 1), unconditional, conditions)


def noise_loss(
    predicted: Tensor, noise: Tensor, alphas_cumprod: Tensor, min_snr_gamma: float = 0.0
) -> Tensor:
    """Computes each sample's loss.

    Args:
        predicted: [b, 4, h, w].
        noise: as predicted.
        alphas_cumprod: of each sample's timestep, [b].
        min_snr_gamma: weighs a sample by min(SNR, gamma) / SNR (Hang et al. 2023, arXiv:2303.09556,
            section 3.4, for predicted noise); 0: every sample weighs 1.

    Returns:
        float32 [b].
    """
    loss = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
    if min_snr_gamma == 0:
        return loss
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return loss * (min_snr_gamma / snr).clamp(max=1)
