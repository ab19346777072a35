"""Lays one small picture upon another: by how much the camera moved or zoomed between them.

The shift is found by phase correlation (Kuglin and Hines 1975) at a few zooms; shift and zoom are
then refined together with the light by least squares (Lucas and Kanade 1981), coarse first, and
without the tenth of the pixels that fits worst: a figure may move, or change its face.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

ZOOMS = (1.0, 0.95, 1.05, 0.9, 1.1, 0.85, 1.18)  # of the first look; phase correlation bears 3 %
FAINTEST = 0.12  # peak of the phase correlation; unrelated pictures have less
ROUNDS = ((4, 8, 1e-3), (2, 4, 1e-4))  # (pixels averaged to one, steps, the step that is the last,
# in widths), from coarse to fine; the last one is a tenth of a pixel of a film of 1920
AGREEING = 0.6  # correlation of lines below which the pictures are not the same
FITTING = 0.9  # share of the pixels that are heeded


@dataclass(frozen=True)
class Motion:
    """Where a pixel of the first picture lies in the second: place * zoom + shift, from the middle.

    Attributes:
        zoom: (across, down).
        shift: (across, down), in widths and heights.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def farthest(self) -> float:
        """How far a corner moves, in widths or heights, whichever is more."""
        return max(
            abs(s) + abs(z - 1) / 2 for s, z in zip(self.shift, self.zoom, strict=True)
        )  # fmt: skip

    def laid(self, values: Plane) -> Plane:
        """Draws the second picture, [h, w] or [h, w, c], as the first shows it; outside 0."""
        import cv2

        height, width = values.shape[:2]
        rows = [
            (self.zoom[0], 0.0, _offset(width, self.zoom[0], self.shift[0])),
            (0.0, self.zoom[1], _offset(height, self.zoom[1], self.shift[1])),
        ]
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        matrix = np.array(rows, np.float64)
        laid = cv2.warpAffine(values, matrix, (width, height), flags=flags)
        return np.asarray(laid, np.float32)

    def seen(self, height: int, width: int, margin: int = 2) -> NDArray[np.bool_]:
        """Which pixels of the first picture the second shows, too, borders left out; [h, w]."""
        inside = []
        for size, zoom, shift in zip((width, height), self.zoom, self.shift, strict=True):
            places = np.arange(size) * zoom + _offset(size, zoom, shift)
            inside.append((places >= margin) & (places <= size - 1 - margin))
        return inside[1][:, None] & inside[0][None]


def _offset(size: int, zoom: float, shift: float) -> float:
    """Where pixel 0 goes; the middle of the picture stays, but for the shift."""
    middle = (size - 1) / 2
    return middle - zoom * middle + shift * size


def motion_between(a: Plane, b: Plane) -> Motion | None:
    """Finds the motion of the camera between two pictures, [h, w]; None where they have none."""
    motion = _first_look(a, b)
    if motion is None:
        return None
    for part, rounds, enough in ROUNDS:
        level = _Level.of(_averaged(a, part), _averaged(b, part))
        for _ in range(rounds):
            stepped = level.step(motion)
            if stepped is None:
                return None
            motion, size = stepped
            if size < enough:
                break
        if level.agreement(motion) < AGREEING:
            return None
    return motion


def _first_look(a: Plane, b: Plane) -> Motion | None:
    import cv2

    a, b = _averaged(a, 4), _averaged(b, 4)
    height, width = a.shape
    window = _window(height, width)
    best, found = FAINTEST, None
    for zoom in ZOOMS:
        other = b if zoom == 1 else Motion((zoom, zoom)).laid(b)
        (x, y), peak = cv2.phaseCorrelate(a, other, window)
        if peak > best:
            best = peak
            found = Motion((zoom, zoom), (x * zoom / width, y * zoom / height))
        if peak > 0.5:
            break
    return found


@dataclass(frozen=True)
class _Level:
    """Both pictures at one size: the first, and the second with its gradients; [h, w, 3]."""

    one: Plane
    other: Plane

    @classmethod
    def of(cls, a: Plane, b: Plane) -> _Level:
        import cv2

        height, width = b.shape
        across = cv2.Scharr(b, cv2.CV_32F, 1, 0, scale=width / 32)
        down = cv2.Scharr(b, cv2.CV_32F, 0, 1, scale=height / 32)
        return cls(a, np.stack([b, across, down], -1).astype(np.float32))

    def agreement(self, motion: Motion) -> float:
        """Correlation of the gradients of the two, laid upon each other."""
        import cv2

        height, width = self.one.shape
        seen = motion.seen(height, width)
        here = np.asarray(cv2.Scharr(self.one, cv2.CV_32F, 1, 0, scale=width / 32))[seen]
        there = motion.laid(self.other)[seen][:, 1]
        energy = float((here * here).sum()) * float((there * there).sum())
        return float((here * there).sum()) / max(energy, 1e-6) ** 0.5

    def step(self, motion: Motion) -> tuple[Motion, float] | None:
        """One step of least squares, and its size; None where the pictures say nothing."""
        import cv2

        height, width = self.one.shape
        seen = motion.seen(height, width)
        if seen.mean() < 0.2:
            return None
        there, across, down = motion.laid(self.other)[seen].T
        here = self.one[seen]
        x, y = _places(height, width)
        across_zoom, down_zoom = across * x[seen], down * y[seen]
        one = np.ones_like(here)
        rows = np.stack([across, down, across_zoom, down_zoom, there, one, here], 1)
        errors = np.abs(here - _lit(there, here))
        sample = np.sort(errors[::7])  # 7: prime to the widths
        fits = errors <= sample[int(FITTING * (len(sample) - 1))]
        # Not numpy's product: its threads cost more than a product as small as this.
        products = cv2.mulTransposed(rows[fits], True, dtype=cv2.CV_64F)  # [7, 7]
        normal = products[:6, :6]
        # A little damping: a picture without vertical lines does not say where it lies across.
        normal = normal + np.diag([1e-3 * fits.sum()] * 4 + [1e-6] * 2)
        return _moved(motion, np.linalg.solve(normal, products[:6, 6]).astype(np.float64))


def _moved(motion: Motion, solved: NDArray[np.float64]) -> tuple[Motion, float] | None:
    if abs(solved[4]) < 0.1:
        return None
    dx, dy, zx, zy = (float(value) for value in solved[:4] / solved[4])
    after = Motion(
        (motion.zoom[0] + zx, motion.zoom[1] + zy), (motion.shift[0] + dx, motion.shift[1] + dy)
    )
    if not all(0.5 < zoom < 2 for zoom in after.zoom) or max(map(abs, after.shift)) > 0.8:
        return None
    return after, max(abs(dx) + abs(zx) / 2, abs(dy) + abs(zy) / 2)


def _lit(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """`x` brought to the mean and the contrast of `y`."""
    import cv2

    (middle_x, spread_x), (middle_y, spread_y) = (
        [float(value[0, 0]) for value in cv2.meanStdDev(values)] for values in (x, y)
    )
    gain = spread_y / max(spread_x, 1.0)  # flat pictures have no contrast
    return (x - np.float32(middle_x)) * np.float32(gain) + np.float32(middle_y)


def _averaged(values: Plane, part: int) -> Plane:
    import cv2

    if part == 1:
        return values
    size = (values.shape[1] // part, values.shape[0] // part)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)


@lru_cache(maxsize=4)
def _places(height: int, width: int) -> tuple[Plane, Plane]:
    """Each pixel's place from the middle, in widths and heights; both [h, w]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return (x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5


@lru_cache(maxsize=4)
def _window(height: int, width: int) -> Plane:
    import cv2

    return np.asarray(cv2.createHanningWindow((width, height), cv2.CV_32F), np.float32)
