"""Which part of a sketch drew which part of a picture, read off the attention.

Two attentions lie between them: the Resampler's, from image tokens to patches of the sketch, and
the UNet's, from places of the picture to image tokens. Both are shares that sum to 1, so that their
product is one too. Through the Resampler's layers they are followed as in Abnar and Zuidema 2020
(attention rollout, arXiv:2005.00928).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


def attention_shares(query: Tensor, key: Tensor) -> Tensor:
    """How much each query attends to each key.

    Args:
        query: [b, h, n, d], heads already split.
        key: [b, h, m, d].

    Returns:
        Mean over heads, [b, n, m] float32; each row sums to 1.
    """
    logits = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
    return logits.softmax(-1).mean(1)


@torch.no_grad()
def patch_shares(resampler: nn.Module, features: Tensor) -> Tensor:
    """Which hidden states of the image encoder each of a Resampler's tokens was read from.

    Args:
        resampler: a `Resampler`.
        features: hidden states [b, n, e], class token included.

    Returns:
        [b, m, n]; each row sums to 1.
    """
    layers = cast(Any, resampler).layers
    reads: list[Tensor] = []
    hooks = [
        attention.register_forward_pre_hook(lambda m, inputs: reads.append(m.shares(*inputs)))
        for attention, _ in layers
    ]
    try:
        resampler(features)
    finally:
        for hook in hooks:
            hook.remove()
    count = features.shape[1]
    followed = torch.zeros_like(reads[0][:, :, :count])  # [b, m, n]: latents start as no patch
    for read in reads:
        # What a layer adds stands beside what the latents held, as in a residual connection.
        followed = followed + read[:, :, :count] + read[:, :, count:] @ followed
    return followed / followed.sum(-1, keepdim=True)


def heat_map(shares: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Shares over a grid of tokens as a picture's heat, 0 to 1.

    Args:
        shares: [k, tokens].
        grid: height and width of the tokens.
        size: height and width of the picture.

    Returns:
        [k, h, w]; the warmest place of each is 1.
    """
    maps = nn.functional.interpolate(shares.unflatten(1, grid)[:, None], size, mode="bicubic")[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def overlay(pictures: Tensor, heat: Tensor) -> Tensor:
    """Lays heat over pictures: cold places fade to white, warm ones turn red.

    Args:
        pictures: [k, h, w, 3] in [0, 1].
        heat: [k, h, w] in [0, 1].
    """
    grey = pictures.mean(-1, keepdim=True)
    faded = 1 - 0.5 * (1 - grey)  # [k, h, w, 1]
    red = torch.tensor([1.0, 0.1, 0.0], device=pictures.device)
    weight = 0.75 * heat[..., None]
    return (faded * (1 - weight) + red * weight * (0.35 + 0.65 * grey)).clamp(0, 1)
