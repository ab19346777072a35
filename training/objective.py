"""The loss: predict the noise, with conditions that are dropped at times.

    L = E |eps - eps_theta(z_t, t, text, sketch)|^2        (Ye et al. 2023, arXiv:2308.06721, eq. 6)

A share of the samples (objective.taught) learns from words instead. Their target is what the frozen
base predicts of a fuller text, which says what the sketch shows (data.teacher_column):

    L = E |eps_theta(z_t, t, fuller text) - eps_theta(z_t, t, text, sketch)|^2

That target hardly varies with the noise, so a few steps tell the adapter what it should read from
the sketch, as far as the base knows the words: what it does not, must come from the other samples.
Samples that lost a condition are not taught.

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

_GOLDEN_RATIO = (1 + 5**0.5) / 2


@dataclass(frozen=True)
class Chance:
    """What chance decides for each sample of a batch.

    Attributes:
        timesteps: int64 [b].
        drop_image: bool [b]; True: the sample sees no reference.
        drop_text: bool [b]; True: the sample sees no caption.
        taught: bool [b]; True: the sample learns from a fuller text.
        alpha: float32 [b].
        noise: float32 [b, *latent shape].
        latent: float32, as noise: picks the sample from the autoencoder's posterior.
    """

    timesteps: Tensor
    drop_image: Tensor
    drop_text: Tensor
    taught: Tensor
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
    spread = settings.timesteps == "spread"
    steps = [_timestep(seed, position, timesteps, spread) for position in positions]
    learns = torch.tensor([draws.uniform(seed, Purpose.TAUGHT, p) for p in positions])
    return Chance(
        timesteps=torch.tensor(steps),
        drop_image=(drops < image) | ((drops >= image + text) & (drops < image + text + both)),
        drop_text=(drops >= image) & (drops < image + text + both),
        taught=(learns < settings.taught) & (drops >= image + text + both),
        alpha=low + (high - low) * part,
        noise=draws.normal(seed, Purpose.NOISE, positions, latent_shape),
        latent=draws.normal(seed, Purpose.LATENT, positions, latent_shape),
    )


def _timestep(seed: int, position: int, timesteps: int, spread: bool) -> int:
    """Draws a sample's timestep, below `timesteps`."""
    if not spread:
        return draws.integer(seed, Purpose.TIMESTEP, position, timesteps)
    # Multiples of the golden ratio fill [0, 1) ever more evenly, from any of them on (Weyl 1916).
    begin = draws.uniform(seed, Purpose.TIMESTEP, 0)
    return int((begin + position * _GOLDEN_RATIO) % 1 * timesteps)


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
    """Replaces the dropped samples' conditions [b, ...] by the unconditional one [1, ...]."""
    ones = (1,) * (conditions.ndim - 1)
    return torch.where(dropped.view(-1, *ones), unconditional, conditions)


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Computes each sample's loss: float32 [b], of [b, 4, h, w] both."""
    return (predicted.float() - noise).square().mean(dim=(1, 2, 3))


def loss_weights(
    alphas_cumprod: Tensor, min_snr_gamma: float = 0.0, high_noise_weight: float = 1.0
) -> Tensor:
    """Weighs samples by their SNR, the share of the picture by that of the noise.

    Where almost all is noise, only the conditions can say what the picture will be, but the noise
    loss is all but blind to it: 1 / sqrt(SNR), up to high_noise_weight, brings it back.

    Args:
        alphas_cumprod: of each sample's timestep, [b].
        min_snr_gamma: weight min(SNR, gamma) / SNR (Hang et al. 2023, arXiv:2303.09556, section
            3.4, for predicted noise); 0: none.
        high_noise_weight: largest weight where there is more noise than picture; 1: none.

    Returns:
        [b].
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr.rsqrt().clamp(1, high_noise_weight)
    return weights * (min_snr_gamma / snr).clamp(max=1) if min_snr_gamma else weights
