"""Which row each position of the endless stream of samples shows.

Rows that are trained at one size share a shelf. Every step takes its batch from one shelf, chosen
by chance in proportion to what lies on it, and every shelf is shown from end to end, shuffled anew,
again and again: no row is left over, and none is shown oftener than its weight says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import draws
from .draws import Purpose


class Stream:
    """The order of the rows, a function of the seed and the position alone.

    Attributes:
        epoch_length: positions in which each row is shown `weight` times, on the average.
    """

    def __init__(
        self, weights: Sequence[float], sizes: Sequence[tuple[int, int]], batch_size: int = 1
    ) -> None:
        """Sorts the rows by size.

        Args:
            weights: how often an epoch shows each row; a fraction: that share of such rows.
            sizes: at which each row is trained, (height, width).
            batch_size: positions of a step, which need one size; of no matter if all have one.
        """
        self._batch_size = batch_size
        self.sizes = sorted(set(sizes))
        shelf_of = np.array([self.sizes.index(size) for size in sizes], dtype=int)
        row_weights = np.array(weights)
        self._shelves = [
            _Shelf(np.flatnonzero(shelf_of == number), row_weights, number, len(self.sizes))
            for number in range(len(self.sizes))
        ]
        self.epoch_length = sum(shelf.length for shelf in self._shelves)
        contents = np.cumsum([shelf.content for shelf in self._shelves])
        self._bounds = contents[:-1] / contents[-1] if self.epoch_length else contents
        self._seed = -1
        self._steps: list[tuple[int, int]] = []  # shelf, and how many steps took from it before
        self._taken: list[int] = []

    def row(self, seed: int, position: int) -> int:
        """The number of the row at a position."""
        if len(self._shelves) == 1:
            return self._shelves[0].row(seed, position)
        step, place = divmod(position, self._batch_size)
        shelf, before = self._step(seed, step)
        return self._shelves[shelf].row(seed, before * self._batch_size + place)

    def largest_step(self, seed: int) -> int:
        """The first step whose pictures are of the largest size that is shown."""
        shown = [number for number, shelf in enumerate(self._shelves) if shelf.length]
        largest = max(shown, key=lambda number: np.prod(self.sizes[number]))
        step = 0
        while len(self._shelves) > 1 and self._step(seed, step)[0] != largest:
            step += 1
        return step

    def _step(self, seed: int, step: int) -> tuple[int, int]:
        if seed != self._seed:
            self._seed, self._steps, self._taken = seed, [], [0] * len(self._shelves)
        while len(self._steps) <= step:
            chance = draws.uniform(seed, Purpose.SIZE, len(self._steps))
            shelf = int(np.searchsorted(self._bounds, chance, side="right"))
            self._steps.append((shelf, self._taken[shelf]))
            self._taken[shelf] += 1
        return self._steps[step]


class _Shelf:
    """Rows of one size, shown epoch after epoch."""

    def __init__(self, rows: np.ndarray, weights: np.ndarray, number: int, shelves: int) -> None:
        self._number, self._shelves = number, shelves
        kinds = dict.fromkeys(weights[rows])
        self._blocks = [(weight, rows[weights[rows] == weight]) for weight in kinds]
        self.content = weights[rows].sum()
        self.length = sum(_shown(weight, len(rows)) for weight, rows in self._blocks)
        self._epoch: tuple[int, int] | None = None
        self._order = np.empty(0, dtype=int)

    def row(self, seed: int, place: int) -> int:
        epoch, within = divmod(place, self.length)
        if self._epoch != (seed, epoch):
            self._epoch, self._order = (seed, epoch), self._shuffled(seed, epoch)
        return int(self._order[within])

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """The rows in the order in which an epoch shows them, [length]."""
        turn = epoch * self._shelves + self._number
        parts = []
        for block, (weight, rows) in enumerate(self._blocks):
            parts += [rows] * int(weight)
            chance = draws.generator(seed, Purpose.SHARE, turn * len(self._blocks) + block)
            rest = _shown(weight, len(rows)) - int(weight) * len(rows)
            parts.append(chance.permutation(rows)[:rest])
        shown = np.concatenate(parts)
        return shown[draws.epoch_order(seed, turn, len(shown))]


def _shown(weight: float, rows: int) -> int:
    """How many positions of an epoch show rows that share a weight."""
    return max(1, round(weight * rows)) if weight else 0
