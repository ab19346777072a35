"""Removes specks from a drawing: ink that is connected to nothing and small in all directions."""

from __future__ import annotations

import torch
from torch import Tensor

from .sketch_extraction import lightness


def remove_specks(picture: Tensor, size: float) -> Tensor:
    """Paints specks over with white.

    Args:
        picture: a drawing on white paper [h, w, 3], float32 in [0, 1].
        size: a speck's largest height and width in pixels; a thin stroke that is longer stays.

    Returns:
        The drawing without them, [h, w, 3].
    """
    if size < 1:
        return picture
    ink = torch.cat([lightness(rows) < 1 - FAINTEST for rows in picture.split(256)])
    mask = speck_mask(ink.cpu(), size).to(picture.device)
    return torch.where(mask[..., None], picture.new_tensor(1.0), picture)


FAINTEST = 0.04  # of lightness below white


def speck_mask(ink: Tensor, size: float) -> Tensor:
    """Finds the specks among a drawing's ink; masks [h, w] both (see `remove_specks`)."""
    runs = find_runs(ink)
    return _painted(runs, _are_small(runs, connected(runs, ink.shape[1]), size), ink.shape)


def find_runs(ink: Tensor) -> Tensor:
    """Lists the horizontal runs of a mask [h, w], row by row: [n, 3] of row, first, last column."""
    height = ink.shape[0]
    edge = ink.new_zeros(height, 1)
    steps = torch.cat([edge, ink, edge], dim=1).to(torch.int8).diff(dim=1)  # [h, w + 1]
    starts = (steps == 1).nonzero()
    ends = (steps == -1).nonzero()
    return torch.stack([starts[:, 0], starts[:, 1], ends[:, 1] - 1], dim=1)


def connected(runs: Tensor, width: int) -> Tensor:
    """Numbers runs [n, 3] by what they are connected to, diagonally too; [n].

    Runs that touch get the same number, the smallest index among them.
    """
    labels = torch.arange(len(runs))
    above, below = _touching(runs, width)
    while True:
        lower = torch.minimum(labels[above], labels[below])
        joined = labels.clone()
        # Whole groups are hooked by their number's own label, so that long strokes take few rounds.
        for end in (above, below):
            joined.scatter_reduce_(0, labels[end], lower, "amin")
        joined = joined[joined[joined]]
        if torch.equal(joined, labels):
            return labels
        labels = joined


def _touching(runs: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Pairs each run with those that it touches in the row below; indices [m] each."""
    row, first, last = runs.unbind(1)
    pitch = width + 2  # keeps the columns of two rows apart
    lowest = torch.searchsorted(row * pitch + last, (row + 1) * pitch + first - 1)
    beyond = torch.searchsorted(row * pitch + first, (row + 1) * pitch + last + 1, right=True)
    counts = (beyond - lowest).clamp(min=0)
    above = torch.arange(len(runs)).repeat_interleave(counts)
    number = torch.arange(len(above)) - (counts.cumsum(0) - counts)[above]
    return above, lowest[above] + number


def _are_small(runs: Tensor, labels: Tensor, size: float) -> Tensor:
    """Whether the group of each run [n, 3] is at most `size` high and wide; [n]."""
    row, first, last = runs.unbind(1)

    def extreme(values: Tensor, how: str) -> Tensor:
        start = torch.zeros_like(values)
        return start.scatter_reduce(0, labels, values, how, include_self=False)[labels]

    height = extreme(row, "amax") - extreme(row, "amin") + 1
    width = extreme(last, "amax") - extreme(first, "amin") + 1
    return (height <= size) & (width <= size)


def _painted(runs: Tensor, chosen: Tensor, shape: torch.Size) -> Tensor:
    """Makes a mask [h, w] of the chosen ones of runs [n, 3]."""
    height, width = shape
    row, first, last = runs[chosen].unbind(1)
    steps = torch.zeros(height * (width + 1), dtype=torch.int8)  # runs never touch in a row
    steps[row * (width + 1) + first] += 1
    steps[row * (width + 1) + last + 1] -= 1
    return steps.view(height, width + 1).cumsum(1, dtype=torch.int8)[:, :width] > 0
