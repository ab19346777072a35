"""What a measure has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..cases import Pair


@dataclass(frozen=True)
class Column:
    """A figure that a measure gives for each picture.

    Attributes:
        key: its name in CSV files.
        label: its name in tables.
        better: 1 if more is better, -1 if less is, 0 if neither.
        meaning: a sentence for people: what it is, its range, its source.
        percent: shown times 100 with "%".
        digits: decimals in tables.
    """

    key: str
    label: str
    better: int
    meaning: str
    percent: bool = False
    digits: int = 3


class Measure(Protocol):
    """Gives figures for pictures.

    Attributes:
        columns: what it gives.
        recipe: all that decides its figures beside the pictures and their pair: hashes of weights,
            settings, a version of the code.
    """

    columns: tuple[Column, ...]
    recipe: str

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Measures all pictures that one method drew for a pair, from different noise.

        Args:
            pictures: [n, h, w, 3] float32 in [0, 1] on the CPU.
            pair: what they were asked to show.

        Returns:
            For each column's key float32 [n]; NaN where it does not apply (no reference, one
            picture alone).
        """
        ...
