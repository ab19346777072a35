"""Makes a drawing's lines thinner or thicker by fractions of a pixel, their edges smooth.

A thicker line is the darkest of the drawing's copies moved in all directions (a dilation of the
ink), a thinner one the lightest. Moving by a fraction of a pixel interpolates, which keeps the
summed ink of an edge, so widths change by exactly twice the distance.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def change_width(picture: Tensor, change: float) -> Tensor:
    """Widens the lines of a drawing, or narrows them.

    Args:
        picture: dark on light [h, w, 3], float32 in [0, 1].
        change: how much wider lines become, in pixels; below 0 thinner, and finer ones fade.

    Returns:
        The drawing [h, w, 3].
    """
    ink = 1 - picture.movedim(-1, 0)[:, None]  # [3, 1, h, w]
    distance = abs(change) / 2
    steps = math.ceil(distance)  # a step reaches a pixel at most
    for _ in range(steps):
        grown = _grow(ink if change > 0 else 1 - ink, distance / steps)
        ink = grown if change > 0 else 1 - grown
    return 1 - ink[:, 0].movedim(0, -1)


_DIRECTIONS = 16


def _grow(ink: Tensor, distance: float) -> Tensor:
    """The most of ink [c, 1, h, w] within a distance of 0 to 1 pixel."""
    padded = F.pad(ink, (1, 1, 1, 1), mode="replicate")
    most = ink
    for i in range(_DIRECTIONS):
        angle = 2 * math.pi * i / _DIRECTIONS
        x, y = distance * math.cos(angle), distance * math.sin(angle)
        most = torch.maximum(most, F.conv2d(padded, _move(x, y).to(ink)))
    return most


def _move(x: float, y: float) -> Tensor:
    """The kernel [1, 1, 3, 3] that moves a picture by -1 to 1 pixel each way, bilinearly."""

    def weights(d: float) -> Tensor:
        return torch.tensor([max(0.0, -d), 1 - abs(d), max(0.0, d)])

    return (weights(y)[:, None] * weights(x)[None, :])[None, None]
