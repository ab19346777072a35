"""How alpha changes while a picture is sampled: a piecewise linear curve over the steps.

Progress is ComfyUI's percent of the noise schedule: 0 is pure noise, where the composition is
decided, 1 the finished picture, where lines and grain are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""(progress in [0, 1], factor of alpha, 0 or more)"""


@dataclass(frozen=True)
class AlphaCurve:
    """A factor of alpha for each moment of the sampling.

    Attributes:
        points: in ascending order of progress; before the first and after the last the factor
            stays theirs, and two points of equal progress make a jump.
    """

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("An alpha curve needs at least one point, such as 0:1.")
        for progress, factor in self.points:
            if not 0 <= progress <= 1 or not 0 <= factor <= MOST_FACTOR:
                raise ValueError(
                    f"The alpha curve's point {progress:g}:{factor:g} is out of range: the first "
                    "number, progress, goes from 0 to 1, the second, the factor, from 0 to "
                    f"{MOST_FACTOR}."
                )
        if any(before > after for (before, _), (after, _) in pairwise(self.points)):
            raise ValueError(
                f"The alpha curve's points must go from left to right, got {self.to_text()}."
            )

    def at(self, progress: float) -> float:
        """Returns the factor at a moment; of a jump, what comes after it."""
        before = [point for point in self.points if point[0] <= progress]
        after = self.points[len(before) :]
        if not before or not after:
            return (before or after)[-1 if before else 0][1]
        (x0, y0), (x1, y1) = before[-1], after[0]
        return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)

    def to_text(self) -> str:
        """The points as `from_text` reads them."""
        return ", ".join(f"{progress:g}:{factor:g}" for progress, factor in self.points)

    @classmethod
    def from_text(cls, text: str) -> AlphaCurve:
        """Reads "progress:factor" points, such as "0:1, 0.4:1, 0.6:0".

        Raises:
            ValueError: says which piece of the text is no point.
        """
        pieces = [piece for piece in re.split(r"[,;\n]", text) if piece.strip()]
        return cls(tuple(map(_point, pieces)))


MOST_FACTOR = 4  # alpha itself ends at 1

PRESETS: Mapping[str, AlphaCurve] = {
    "constant": AlphaCurve(((0, 1),)),
    "fade out": AlphaCurve(((0, 1), (1, 0))),
    "fade in": AlphaCurve(((0, 0), (1, 1))),
    "composition first": AlphaCurve(((0, 1), (0.35, 1), (0.5, 0))),
    "lines last": AlphaCurve(((0.3, 0), (0.5, 1))),
    "middle": AlphaCurve(((0, 0), (0.3, 1), (0.7, 1), (1, 0))),
    "ends": AlphaCurve(((0, 1), (0.3, 0), (0.7, 0), (1, 1))),
}


def _point(piece: str) -> Point:
    numbers: Sequence[str] = piece.split(":")
    try:
        progress, factor = (float(number) for number in numbers)
    except ValueError:
        raise ValueError(
            f"{piece.strip()!r} is no point of an alpha curve. Write progress:factor, with commas "
            "between the points, such as 0:1, 0.4:1, 0.6:0."
        ) from None
    return progress, factor
