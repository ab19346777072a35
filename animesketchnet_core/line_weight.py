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

from .progress import OnProgress


def change_width(picture: Tensor, change: float, on_progress: OnProgress | None = None) -> Tensor:
    """Widens the lines of a drawing, or narrows them.

    Args:
        picture: dark on light [h, w, 3], float32 in [0, 1].
        change: how much wider lines become, in pixels; below 0 thinner, and finer ones fade.
        on_progress: told of the steps; they are many in a large picture.

    Returns:
        The drawing [h, w, 3].
    """
    grey = torch.equal(picture[..., 0], picture[..., 1]) and torch.equal(
        picture[..., 0], picture[..., 2]
    )
    ink = 1 - picture.movedim(-1, 0)[: 1 if grey else 3]  # [c, h, w]
    distance = abs(change) / 2
    steps = math.ceil(distance)  # a step reaches a pixel at most
    for done in range(1, steps + 1):
        grown = _grow(ink if change > 0 else 1 - ink, distance / steps)
        ink = grown if change > 0 else 1 - grown
        if on_progress is not None:
            on_progress(done, steps)
    return (1 - ink).expand(3, -1, -1).movedim(0, -1)


_DIRECTIONS = 16


def _grow(ink: Tensor, distance: float) -> Tensor:
    """The most of ink [c, h, w] within a distance of 0 to 1 pixel."""
    padded = F.pad(ink, (1, 1, 1, 1), mode="replicate")
    most = ink
    for i in range(_DIRECTIONS):
        angle = 2 * math.pi * i / _DIRECTIONS
        rows = _between(padded, distance * math.sin(angle), dim=1)
        most = torch.maximum(most, _between(rows, distance * math.cos(angle), dim=2))
    return most


def _between(x: Tensor, offset: float, dim: int) -> Tensor:
    """Reads a picture -1 to 1 pixel away, linearly, and cuts its margin of one pixel off."""
    first = math.floor(offset)
    length = x.shape[dim] - 2
    near = x.narrow(dim, 1 + first, length)
    if offset == first:
        return near
    return torch.lerp(near, x.narrow(dim, 2 + first, length), offset - first)
