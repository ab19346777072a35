"""What kind of picture it is: how light, how full, in colour, drawn in lines, drawn or filmed.

All figures come from a copy whose short side is `SIDE` at most, so that they can be compared
between sizes, and cost the same for each. Drawn or filmed is told by what cel animation has and a
camera does not: outlines and edges with even paint on both sides, even areas, strong colours. No
single one is certain (backgrounds are often painted from photographs), so their mean is, at best, a
reason to look.

Shapes: h and w the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..images import Pixels, to_grey
from .sharpness import shrink

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

SIDE = 480
GRID = 9, 16
"""Rows and columns of fields in which a picture is searched for something to see."""


@dataclass(frozen=True)
class Medium:
    """Figures of a picture, all but `chroma` from 0 to 1.

    Attributes:
        darkest: grey value that a twentieth of the picture stays below.
        lightest: grey value that a twentieth of the picture lies above.
        content: for each field of GRID, whether there is anything in it.
        chroma: how far colours lie from the picture's mean colour, 95th percentile, in CIE Lab.
        line_art: part of white paper in a picture without colours; less if the rest is more than
            strokes. 0 in colour.
        even_edges: part of the edges with even paint on both sides.
        outlines: part of the dark lines with even paint on both sides.
        even_area: part of the picture without any texture.
        filmed: 0 (surely drawn) to 1 (nothing of a drawing); about 0.5 is not sure.
    """

    darkest: float
    lightest: float
    content: Mask
    chroma: float
    line_art: float
    even_edges: float
    outlines: float
    even_area: float
    filmed: float


def look_at(picture: Pixels) -> Medium:
    """Takes a picture's figures.

    Args:
        picture: [h, w, 3] or [h, w]; at least 8 x 8.
    """
    small = shrink(picture, SIDE)
    if small.ndim == 2:
        small = np.repeat(small[:, :, None], 3, axis=2)
    grey = to_grey(small).astype(np.float32)
    lab = to_lab(small)
    chroma, strongest = _chroma(lab)
    texture = _deviation(grey)
    even_edges, outlines = _even_edges(grey, texture), _outlines(grey, texture)
    even_area = float(_even(lab).mean())
    signs = (even_edges / 0.09, outlines / 0.18, even_area / 0.1, (strongest - 10) / 30)
    drawn = float(np.mean(np.clip(signs, 0, 1)))  # each sign counts fully where cels have it
    darkest, lightest = np.percentile(grey, (5, 95)) / 255
    return Medium(
        darkest=float(darkest),
        lightest=float(lightest),
        content=_content(grey),
        chroma=chroma,
        line_art=_paper(grey) if chroma < _COLOURLESS else 0.0,
        even_edges=even_edges,
        outlines=outlines,
        even_area=even_area,
        filmed=1 - drawn,
    )


def to_lab(rgb: Pixels) -> Floats:
    """CIE Lab (D65) of an sRGB picture [h, w, 3]; lightness is 0 to 100."""
    linear = _LINEAR[rgb]  # [h, w, 3]
    xyz = linear @ _TO_XYZ
    roots = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (841 / 108) + 4 / 29)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_COLOURLESS = 8.0  # of Lab's chroma; coding leaves up to 3 in a drawing in black and white
_SRGB = np.arange(256) / 255
_LINEAR = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
_TO_XYZ = np.array(  # of IEC 61966-2-1, each row divided by the white point's
    [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]], np.float32
) / np.array([0.9505, 1, 1.089], np.float32)  # fmt: skip


def _chroma(lab: Floats) -> tuple[float, float]:
    """How far colours are from the mean one, and from grey: the 95th and 90th percentile."""
    colours = lab[..., 1:]
    spread = np.hypot(*np.moveaxis(colours - np.median(colours, axis=(0, 1)), -1, 0))
    strength = np.hypot(*np.moveaxis(colours, -1, 0))
    return float(np.percentile(spread, 95)), float(np.percentile(strength, 90))


def _content(grey: Floats) -> Mask:
    """Fields of GRID in which at least one pixel in a hundred lies on an edge."""
    edges = _steepness(grey) > 5
    rows, columns = (
        np.arange(parts + 1) * length // parts
        for parts, length in zip(GRID, edges.shape, strict=True)
    )
    sums = np.pad(edges.cumsum(0).cumsum(1), ((1, 0), (1, 0)))[np.ix_(rows, columns)]
    counts = np.diff(np.diff(sums, axis=0), axis=1)  # GRID
    areas = np.diff(rows)[:, None] * np.diff(columns)[None, :]
    return counts >= np.maximum(1, areas / 100)


def _paper(grey: Floats) -> float:
    """Part of the picture that is white paper, less what is drawn in more than strokes."""
    paper = grey > _PAPER
    drawn = inner = ~paper
    if not drawn.any():
        return 0.0
    for axis in (0, 1):
        inner = _within(inner, axis, 4)
    strokes = 1 - inner.sum() / drawn.sum()
    return float(paper.mean() * strokes)


_PAPER = 229  # grey value; a tenth of all is lighter


def _within(mask: Mask, axis: int, reach: int) -> Mask:
    """Where a mask holds for `reach` pixels to both sides along an axis; it goes on outside."""
    width = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
    sums = np.pad(mask, width, mode="edge").cumsum(axis)
    sums = np.pad(sums, [(1, 0) if a == axis else (0, 0) for a in (0, 1)])
    length = mask.shape[axis]
    return (
        np.take(sums, np.arange(length) + 2 * reach + 1, axis)
        - np.take(sums, np.arange(length), axis)
        == 2 * reach + 1
    )


def _even(lab: Floats) -> Mask:
    """Pixels around which nothing is to be seen, in lightness and colour."""
    limits = (0.4, 0.6, 0.6)  # of Lab, less than the eye tells apart
    return np.logical_and.reduce(
        [_deviation(lab[..., k], 2) < limit for k, limit in enumerate(limits)]
    )


def _even_edges(grey: Floats, texture: Floats) -> float:
    steep = _steepness(grey)
    places = (steep >= 10) & (steep >= _largest(steep))
    down, right = _gradient(grey)
    return _even_beside(places, down, right, texture, 4, 2.0)


def _outlines(grey: Floats, texture: Floats) -> float:
    """Dark lines are where the second derivative across is large (the Hessian's eigenvalue)."""
    smooth = _smoothed(grey)
    down, right = _gradient(smooth)
    (yy, yx), (_, xx) = _gradient(down), _gradient(right)
    half = (xx - yy) / 2
    root = np.hypot(half, yx)
    curvature, angle = (xx + yy) / 2 + root, np.arctan2(yx, half) / 2
    places = (curvature > 2) & (curvature >= _largest(curvature))
    return _even_beside(places, np.sin(angle), np.cos(angle), texture, 5, 3.0)


def _even_beside(
    places: Mask, down: Floats, right: Floats, texture: Floats, distance: int, limit: float
) -> float:
    """Part of the places that have little texture at a distance to both sides."""
    y, x = np.nonzero(places)
    if len(y) < 20:  # too few to say anything
        return 0.0
    length = np.hypot(down[y, x], right[y, x])
    dy, dx = (v[y, x] / np.maximum(length, 1e-6) * distance for v in (down, right))
    most = np.zeros(len(y), np.float32)
    for side in (-1, 1):
        beside = (
            np.clip(np.rint(y + side * dy).astype(int), 0, places.shape[0] - 1),
            np.clip(np.rint(x + side * dx).astype(int), 0, places.shape[1] - 1),
        )
        most = np.maximum(most, texture[beside])
    return float((most < limit).mean())


def _gradient(values: Floats) -> tuple[Floats, Floats]:
    """How much values grow downwards and to the right."""
    down, right = (np.gradient(values, axis=axis) for axis in (0, 1))
    return np.asarray(down, np.float32), np.asarray(right, np.float32)


def _steepness(grey: Floats) -> Floats:
    down, right = _gradient(grey)
    return np.hypot(down, right)


def _largest(values: Floats) -> Floats:
    """The largest value within a pixel's distance."""
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
        wide = np.pad(values, pad, mode="edge")
        length = values.shape[axis]
        parts = [wide.take(np.arange(length) + k, axis) for k in range(3)]
        values = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return values


def _deviation(values: Floats, reach: int = 1) -> Floats:
    """Standard deviation within `reach` pixels' distance."""
    box = np.full(2 * reach + 1, 1 / (2 * reach + 1), np.float32)
    values = values - values.mean()  # so that squares keep their digits
    mean = _filtered(values, box)
    return np.sqrt(np.maximum(_filtered(values * values, box) - mean * mean, 0))


def _smoothed(values: Floats) -> Floats:
    bell = np.exp(-(np.arange(-3, 4) ** 2) / 2).astype(np.float32)
    return _filtered(values, bell / bell.sum())


def _filtered(values: Floats, kernel: Floats) -> Floats:
    """A picture weighted along both axes."""
    reach = len(kernel) // 2
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        wide, length = np.pad(values, pad, mode="edge"), values.shape[axis]
        pieces = [
            weight * (wide[k : k + length] if axis == 0 else wide[:, k : k + length])
            for k, weight in enumerate(kernel)
        ]
        values = np.add.reduce(pieces)
    return values
