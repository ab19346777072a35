"""How alike two pictures are: laid upon each other, brought to one light, and compared in parts.

A mean over the picture says nothing of a face: a smile changes it by less than the coding does. So
what counts is the part that differs most, over what the coding alone makes of the others. Measured
on drawings through H.264 at crf 18, 23 and 28, in levels of 255: one drawing differs by at most
1.9 (just after a cut by 4), in two encodings of different size by 1.8 (95 %); a mouth of 30 pixels
in a frame of 1280 by 16 and more, of 15 pixels by 4.8 (in two encodings 3.4), of 9 pixels by
anything from 0. Where the camera moved, one drawing differs by 1.6 (95 %), a mouth of 30 pixels
by 4.4 and more, of 21 by 1.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fingerprint import HEIGHT, PART, WIDTH, Thumbnail
from .registration import Motion, Plane, motion_between

TILE = 4  # side of the parts: half a mouth; in larger ones it is thinned, smaller ones find noise
NOISIEST = 2.0  # levels of coding noise at most, or a face in close-up would pass for noise
SOFT = 1.2  # sigma, in its pixels, of the blur of colours before they are laid anew
TOLERANCE = 0.1  # share of the local contrast that lines may differ by when they were laid anew
BLOCK = 16  # side of the parts in which structure is compared
TEXTURE = 4.0  # levels; parts that vary less have no structure to compare
ALIKE = 0.85  # correlation from which a part's structure is the same
STEADY = 0.25  # share of the textured parts without any difference; a camera that moves leaves none

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Likeness:
    """What was measured of a pair; levels are of 255.

    Attributes:
        change: by how many levels the part that differs most does, coding noise taken off.
        changed: share of the picture that differs by more than coding makes it, 0 to 1.
        light: by how many levels the light differs, on average.
        structure: share of the textured parts with the same structure, 0 to 1.
        steady: share of the textured parts in which nothing differs, 0 to 1.
        motion: of the camera, from the first picture to the second.
        overlap: share of the first picture that the second shows, too.
        box: (left, top, right, bottom), 0 to 1, of what differs; zeros if nothing does.
        strokes: fine lines in the box, those of the first picture through those of the second.
    """

    change: float = 0.0
    changed: float = 0.0
    light: float = 0.0
    structure: float = 1.0
    steady: float = 1.0
    motion: Motion = field(default_factory=Motion)
    overlap: float = 1.0
    box: Box = (0.0, 0.0, 0.0, 0.0)
    strokes: float = 1.0

    def details(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "tile_difference": round(self.change, 2),
            "changed": round(self.changed, 4),
            "light": round(self.light, 2),
            "structure": round(self.structure, 3),
            "shift": [round(value, 4) for value in self.motion.shift],
            "zoom": [round(value, 4) for value in self.motion.zoom],
            "overlap": round(self.overlap, 3),
        }


def compare(one: Thumbnail, other: Thumbnail, threshold: float) -> Likeness:
    """Measures how alike two pictures are.

    Args:
        one: the first picture.
        other: the second.
        threshold: levels of change from which a part counts as different.
    """
    still = _difference(one, other, Motion(), threshold)
    if still.steady >= STEADY:
        return still
    motion = motion_between(one.soft.astype(np.float32), other.soft.astype(np.float32))
    if motion is None:
        return still
    moved = _difference(one, other, motion, threshold)
    return moved if moved.changed < still.changed else still


def _difference(one: Thumbnail, other: Thumbnail, motion: Motion, threshold: float) -> Likeness:
    import cv2

    a, b = one.luma.astype(np.float32), other.luma.astype(np.float32)
    tolerance, seen = 0.0, _inner(motion)
    if motion != Motion():
        a, b = one.soft.astype(np.float32), motion.laid(other.soft.astype(np.float32))
        tolerance = TOLERANCE
    if seen.mean() < 0.1:
        return Likeness(255.0, 1.0, 255.0, 0.0, 0.0, motion, 0.0)
    gain, offset = _light(a[seen], b[seen])
    lit = gain * b + offset
    errors = np.abs(a - lit)
    if tolerance:
        errors = np.maximum(errors - tolerance * np.minimum(_range(a), _range(lit)), 0)
    parts = np.asarray(cv2.blur(errors, (TILE, TILE)), np.float32)
    change, usual = _peak(parts[seen])
    tint, hue = _tint(one, other, motion)
    differs = (parts > threshold + usual) & seen
    structure, steady = _structure(a, b, seen, differs)
    return Likeness(
        change=max(change, tint),
        changed=float(differs.sum() / seen.sum()),
        light=max(hue, float(np.abs(lit - b)[seen].mean())),
        structure=structure,
        steady=steady,
        motion=motion,
        overlap=float(motion.seen(HEIGHT, WIDTH, 0).mean()),
        box=_box(differs),
        strokes=_strokes(a, lit, differs),
    )


def _inner(motion: Motion, part: int = 1) -> Mask:
    """What both pictures show, less the borders that parts and interpolation reach over; [h, w]."""
    height, width = HEIGHT // part, WIDTH // part
    if motion == Motion():
        return np.ones((height, width), bool)
    margin = TILE + 2 if part == 1 else 1 + int(3 * SOFT)
    seen = motion.seen(height, width, margin)
    seen[:margin] = seen[-margin:] = seen[:, :margin] = seen[:, -margin:] = False
    return seen


def _peak(values: NDArray[np.float32]) -> tuple[float, float]:
    """The largest of the parts' differences over the usual; and the usual, in levels."""
    sample = np.sort(values[::7])  # 7: prime to the widths
    usual = 2 * min(float(sample[int(0.9 * (len(sample) - 1))]), NOISIEST)
    return float(values.max()) - usual, usual


def _softened(values: Plane) -> Plane:
    import cv2

    return np.asarray(cv2.GaussianBlur(values, (0, 0), SOFT), np.float32)


def _range(values: Plane) -> Plane:
    """Highest less lowest of each pixel's neighbours."""
    import cv2

    around = np.ones((3, 3), np.uint8)
    highest, lowest = cv2.dilate(values, around), cv2.erode(values, around)
    return np.asarray(highest - lowest, np.float32)


def _tint(one: Thumbnail, other: Thumbnail, motion: Motion) -> tuple[float, float]:
    """By how many levels the hue differs where it does most, and on the whole."""
    import cv2

    a, b = one.chroma.astype(np.float32), other.chroma.astype(np.float32)
    tolerance = 0.0
    if motion != Motion():
        a, b = _softened(a), motion.laid(_softened(b))
        tolerance = 2 * TOLERANCE  # its pixels are large, so it has aliasing for all the blur
    valid = _inner(motion, PART)
    if not valid.any():
        return 0.0, 0.0
    difference = a - b
    whole = np.median(difference[valid], axis=0)
    # Noise has either sign and paint has one, so the mean is taken before the absolute.
    parts = np.abs(np.asarray(cv2.blur(difference - whole, (2, 2)), np.float32))
    parts = np.maximum(parts - tolerance * np.minimum(_range(a), _range(b)), 0).max(-1)
    return _peak(parts[valid])[0], float(np.abs(whole).max())


def _light(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float]:
    """Gain and offset that bring `b` to the light of `a`, by the three quarters that fit best."""
    x, y = b[::31].astype(np.float64), a[::31].astype(np.float64)  # 31: prime to the width
    fits = np.ones(x.shape, bool)
    gain, offset = 1.0, 0.0
    for _ in range(3):
        gain, offset = _line(x[fits], y[fits])
        errors = np.abs(y - gain * x - offset)
        fits = errors <= np.quantile(errors, 0.75)
    return gain, offset


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Least squares; flat pictures have no gain."""
    spread = float(x.var())
    gain = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 4 else 1.0
    gain = min(max(gain, 0.25), 4.0)
    return gain, float(y.mean() - gain * x.mean())


def _structure(a: Plane, b: Plane, seen: Mask, differs: Mask) -> tuple[float, float]:
    """The shares of the textured blocks that correlate, and in which nothing differs."""
    ma, mb = _blocks(a), _blocks(b)
    va, vb = _blocks(a * a) - ma * ma, _blocks(b * b) - mb * mb
    whole = _blocks(seen.astype(np.float32)) > 0.99
    textured = whole & (np.maximum(va, vb) > TEXTURE**2)
    if not textured.any():
        return 0.0, float(not differs.any())
    correlation = (_blocks(a * b) - ma * mb) / np.sqrt(np.maximum(va, 1) * np.maximum(vb, 1))
    same = _blocks(differs.astype(np.float32)) == 0
    return float((correlation > ALIKE)[textured].mean()), float(same[textured].mean())


def _blocks(values: Plane) -> Plane:
    """Means of the blocks; [h / 16, w / 16]."""
    import cv2

    size = (WIDTH // BLOCK, HEIGHT // BLOCK)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)


def _box(differs: Mask) -> Box:
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return (
        float(columns[0] / WIDTH), float(rows[0] / HEIGHT),
        float((columns[-1] + 1) / WIDTH), float((rows[-1] + 1) / HEIGHT),
    )  # fmt: skip


def _strokes(a: Plane, b: Plane, differs: Mask) -> float:
    import cv2

    if not differs.any():
        return 1.0
    one, other = (float(np.abs(cv2.Laplacian(x, cv2.CV_32F))[differs].mean()) for x in (a, b))
    return (one + 1) / (other + 1)
