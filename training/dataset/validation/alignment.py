"""Whether a sketch lies on its colour picture: the shift at which their edges agree best.

Edges are gradients, smoothed so far that the two sides of a line become one; they are correlated
over the whole of the parts with the strongest edges (Lewis, "Fast Normalized Cross-Correlation",
1995). On the demo art, drawn by lines of any width and by ink, the best shift is 0 to the pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..images import Pixels, to_grey

PART = 512  # side of the parts, in pixels
PARTS = 8  # at most; as many see a shift of the whole, and take half a second at 4K
REACH = 32  # pixels; farther shifts are not looked for
EDGE, WIDTH = 1.0, 2.0  # sigmas before and after the gradient, in pixels

Plane = NDArray[np.float32]


class Shift(NamedTuple):
    """Where a sketch lies on its colour picture.

    Attributes:
        x: pixels to the right.
        y: pixels down.
        there: correlation at that shift, -1 to 1; near 0 where the two show different things.
        here: the best correlation within the tolerance.
    """

    x: int
    y: int
    there: float
    here: float


def find_shift(colour: Pixels, sketch: Pixels, tolerance: int) -> Shift:
    """Finds the shift at which a sketch fits best.

    Args:
        colour: [h, w, 3].
        sketch: [h, w], of the same size.
        tolerance: pixels.
    """
    seen, drawn = _edges(to_grey(colour)), _edges(to_grey(sketch))
    total = np.zeros((2 * REACH + 1,) * 2)
    parts = _strongest(seen, drawn)
    for rows, columns in parts:
        total += _correlation(seen[rows, columns], drawn[rows, columns]) / len(parts)
    y, x = (int(place) - REACH for place in np.unravel_index(total.argmax(), total.shape))
    near = slice(REACH - tolerance, REACH + tolerance + 1)
    return Shift(x, y, float(total.max()), float(total[near, near].max()))


def _edges(grey: Pixels) -> Plane:
    import cv2  # takes a moment, and most of the command line needs none

    soft = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), EDGE)
    steepness = cv2.magnitude(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    return np.asarray(cv2.GaussianBlur(steepness, (0, 0), WIDTH), np.float32)


def _strongest(seen: Plane, drawn: Plane) -> list[tuple[slice, slice]]:
    """The parts in which both have most edges; the last ones of a row or column are narrower."""
    height, width = seen.shape
    parts = [
        (slice(top, top + PART), slice(left, left + PART))
        for top in range(0, height, PART)
        for left in range(0, width, PART)
        if min(PART, height - top) > REACH and min(PART, width - left) > REACH
    ] or [(slice(0, height), slice(0, width))]
    parts.sort(key=lambda part: -float(seen[part].std() * drawn[part].std()))
    return parts[:PARTS]


def _correlation(seen: Plane, drawn: Plane) -> NDArray[np.float64]:
    """Correlation at the shifts -REACH to REACH down and right; [2 REACH + 1, 2 REACH + 1]."""
    height, width = seen.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    one, other = ((plane - plane.mean()) * window for plane in (seen, drawn))
    size = (height + REACH, width + REACH)  # so that what leaves one side does not enter the other
    product = np.fft.rfft2(other, size) * np.conj(np.fft.rfft2(one, size))
    found = np.roll(np.fft.irfft2(product, size), (REACH, REACH), (0, 1))
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return found[: 2 * REACH + 1, : 2 * REACH + 1] / max(float(scale), 1e-6)
