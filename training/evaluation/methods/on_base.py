"""Draws on a base of Stable Diffusion v1: each case from its own noise, whatever guides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter
from training.models import Base
from training.sample import Residuals, ddim_sample

from ..cases import Case
from ..config import DrawSettings
from ..noise import noise


@torch.inference_mode()
def draw_on(
    base: Base,
    settings: DrawSettings,
    cases: Sequence[Case],
    *,
    adapter: AnimeSketchAdapter | None = None,
    features: Tensor | None = None,
    no_features: Tensor | None = None,
    alpha: float = 0.0,
    control: Callable[[slice], Residuals] | None = None,
) -> list[Tensor]:
    """Draws one picture for each case, [h, w, 3] float32 in [0, 1] on the CPU.

    Args:
        base: on the device that draws, in the precision that it draws in.
        settings: size, steps, guidance and batch.
        cases: what to draw.
        adapter: see `ddim_sample`, and for all that follows.
        features: of the references.
        no_features: of "no sketch".
        alpha: strength of the adapter.
        control: a ControlNet's part.
    """
    size = (settings.height // base.latent_scale, settings.width // base.latent_scale)
    channels = int(base.unet.config["in_channels"])
    latents = ddim_sample(
        base,
        adapter,
        [case.pair.prompt for case in cases],
        features,
        no_features,
        alpha,
        torch.cat([noise(case, channels, *size) for case in cases]),
        steps=settings.steps,
        guidance=settings.guidance,
        batch=settings.batch,
        control=control,
    )
    pictures = [base.decode_latents(one) for one in latents.split(1)]
    return [picture[0].movedim(0, -1).float().cpu() for picture in pictures]


def recipe_of(base: Base, settings: DrawSettings) -> str:
    """What of the settings decides the pictures on a base."""
    s = settings
    return f"{s.height} x {s.width}, {s.steps} steps, guidance {s.guidance:g}, {base.unet.dtype}"
