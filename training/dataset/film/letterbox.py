"""Black bars around a film's picture: found once per film, from many of its frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Luma = NDArray[np.uint8]
"""[h, w], 8 bits."""

Crop = tuple[int, int, int, int]
"""(left, top, right, bottom) of what is kept, in pixels."""

LIT = 10  # levels above black
LINE = 0.4  # of a line's pixels are lit where it is picture; those of a line of text are fewer
SEEN = 0.1  # of the frames in which a line of the picture is lit
BRIGHT = 0.2  # of a frame's pixels are lit if it can say anything; night scenes are left out
LEAST = 0.25  # of the frame's area is picture, or there are no bars but a dark film


class Letterbox:
    """Gathers frames, and says where the picture lies in them."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self._rows = np.zeros(height)
        self._columns = np.zeros(width)
        self._count = 0

    def add(self, luma: Luma, black: int) -> None:
        """Looks at one more frame.

        Args:
            luma: [h, w].
            black: the level of black: 16, or 0 in films of full range.
        """
        import cv2

        _, lit = cv2.threshold(luma, black + LIT, 1, cv2.THRESH_BINARY)
        rows = cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0] / lit.shape[1]
        if rows.mean() < BRIGHT:
            return
        self._count += 1
        self._rows += rows > LINE
        inside = lit[rows > LINE] if (rows > LINE).any() else lit  # bars would thin the columns
        columns = cv2.reduce(inside, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0] / len(inside)
        self._columns += columns > LINE

    def crop(self) -> Crop:
        """What is left without the bars: the whole frame, if there are none or no light."""
        width, height = self._size
        whole = 0, 0, width, height
        if not self._count:
            return whole
        rows = np.flatnonzero(self._rows >= max(1.0, SEEN * self._count))
        columns = np.flatnonzero(self._columns >= max(1.0, SEEN * self._count))
        if not len(rows) or not len(columns):
            return whole
        # Two pixels share their colour: half of such a pair at the edge has the bar's.
        left, top = _even_up(columns[0]), _even_up(rows[0])
        right, bottom = _even_down(columns[-1] + 1, width), _even_down(rows[-1] + 1, height)
        if (right - left) * (bottom - top) < LEAST * width * height:
            return whole
        return left, top, right, bottom


def _even_up(place: int) -> int:
    return int(place) + int(place) % 2


def _even_down(place: int, end: int) -> int:
    return end if place == end else int(place) - int(place) % 2
