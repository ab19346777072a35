"""Runs any network over a picture in tiles and blends them: the paper's way (section 3.1.1).

Tiles begin at multiples of 256, since a network that halves the picture eight times sees another
phase of it elsewhere. Their outer pixels, which a network's padding spoils, are dropped where
another tile has them; the rest is weighed by a Gaussian and divided by the summed weights. A
network that looks at the whole picture, as an instance norm does, still draws each tile in its own
way, so that tiles are an approximation: `seam_error` tells against the exact drawing how far off
it is, `seam_metric` how far its seams stand out where there is no exact one.

Shapes: h and w the picture, t a tile's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from animesketchnet_core.anime2sketch_strips import mirrored

from ..images import Pixels

Network = Callable[[Tensor], Tensor]
"""Draws a tile: uint8 [t, t, 3] (sRGB) to float32 [t, t] in [0, 1], 0 black."""


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    Attributes:
        tile: a tile's side in pixels; a smaller picture is mirrored to one tile.
        overlap: pixels that neighbours share.
        margin: pixels at a tile's edge that are dropped where the neighbour has them.
        sigma: of the Gaussian weights, in pixels; 0 for an eighth of a tile.
        multiple: tiles begin at multiples of this, and end there.
    """

    tile: int = 1024
    overlap: int = 256
    margin: int = 32
    sigma: float = 0.0
    multiple: int = 256

    def __post_init__(self) -> None:
        """Refuses tiles that leave gaps.

        Raises:
            ValueError: it names the number and what it must be.
        """
        if self.multiple < 1 or self.tile < 1 or self.tile % self.multiple:
            raise ValueError(f"tile is {self.tile}; expected a multiple of {self.multiple}.")
        if not 0 <= self.overlap < self.tile or self.overlap % self.multiple:
            raise ValueError(
                f"overlap is {self.overlap}; expected a multiple of {self.multiple} below the "
                f"tile, {self.tile}."
            )
        if not 0 <= 2 * self.margin <= self.overlap:
            raise ValueError(
                f"margin is {self.margin}; expected 0 to half the overlap, {self.overlap // 2}."
            )

    def origins(self, length: int) -> list[int]:
        """Where tiles begin along a side of this length."""
        end = max(self.tile, -(-length // self.multiple) * self.multiple)
        last = end - self.tile  # the last tile is moved back to end with the picture
        return [*range(0, last, self.tile - self.overlap), last]

    def seams(self, length: int) -> list[int]:
        """Places along a side where one tile begins or ends to count."""
        origins = self.origins(length)
        begin = [origin + self.margin for origin in origins[1:]]
        end = [origin + self.tile - self.margin for origin in origins[:-1]]
        return sorted({place for place in begin + end if place < length})

    def weights(self, length: int) -> list[Tensor]:
        """Each tile's weights along a side, [t] each; at every pixel they add up to 1."""
        origins = self.origins(length)
        offsets = torch.arange(self.tile, dtype=torch.float64) + 0.5 - self.tile / 2
        gaussian = torch.exp(-((offsets / (self.sigma or self.tile / 8)) ** 2) / 2)
        weights = []
        for number in range(len(origins)):
            weight = gaussian.clone()
            weight[: self.margin if number else 0] = 0
            weight[self.tile - (self.margin if number < len(origins) - 1 else 0) :] = 0
            weights.append(weight)
        total = torch.zeros(origins[-1] + self.tile, dtype=torch.float64)
        for origin, weight in zip(origins, weights, strict=True):
            total[origin : origin + self.tile] += weight
        return [
            (weight / total[origin : origin + self.tile]).float()
            for origin, weight in zip(origins, weights, strict=True)
        ]


def blend_tiles(network: Network, picture: Tensor, tiling: Tiling = Tiling()) -> Iterator[Tensor]:
    """Draws a picture tile by tile, row by row of tiles.

    The weights are a product of one along each side, so their sum is one, too, and nothing as
    large as the picture is kept: a row of tiles takes 4 t w bytes beside what the network takes.

    Args:
        network: draws a tile.
        picture: uint8 [h, w, 3]; it is mirrored beyond its border.
        tiling: how it is cut.

    Yields:
        Rows of the drawing, float32 [y, w] each, from the top.
    """
    height, width = picture.shape[:2]
    tops, lefts = tiling.origins(height), tiling.origins(width)
    down, across = tiling.weights(height), tiling.weights(width)
    band = torch.zeros(tiling.tile, lefts[-1] + tiling.tile)  # [t, w] from the current top on
    for number, top in enumerate(tops):
        for left, weight in zip(lefts, across, strict=True):
            tile = _cut(picture, top, left, tiling.tile)
            drawing = network(tile).to(band)  # [t, t]
            band[:, left : left + tiling.tile] += drawing * weight * down[number][:, None]
        following = tops[number + 1] if number + 1 < len(tops) else top + tiling.tile
        done = min(following, height) - top
        yield band[:done, :width].clone()
        band = torch.cat([band[done:], torch.zeros_like(band[:done])])


def _cut(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    """A tile [t, t, 3] of a picture, mirrored beyond its border as often as it takes."""
    rows = mirrored(torch.arange(top, top + side), picture.shape[0])
    columns = mirrored(torch.arange(left, left + side), picture.shape[1])
    return picture[rows][:, columns]


@dataclass(frozen=True)
class SeamError:
    """How far a tiled drawing is from the exact one, in levels of 0 to 255.

    Attributes:
        mean: of the absolute differences.
        p99: the 99th percentile of them.
        largest: of them.
        in_deviations: root mean square in standard deviations of the exact drawing.
    """

    mean: float
    p99: float
    largest: float
    in_deviations: float


def seam_error(exact: Pixels, tiled: Pixels) -> SeamError:
    """Compares a tiled drawing with the exact one, uint8 [h, w] both."""
    counts, tones = np.zeros((2, 256), dtype=np.int64)
    for a, b in zip(_rows(exact), _rows(tiled), strict=True):
        counts += np.bincount((np.maximum(a, b) - np.minimum(a, b)).ravel(), minlength=256)
        tones += np.bincount(a.ravel(), minlength=256)
    levels = np.arange(256)
    share, tones = counts / counts.sum(), tones / tones.sum()
    mean = float((tones * levels).sum())
    deviation = math.sqrt(float((tones * (levels - mean) ** 2).sum()))
    squares = math.sqrt(float((share * levels**2).sum()))
    return SeamError(
        mean=float((share * levels).sum()),
        p99=float(np.searchsorted(share.cumsum(), 0.99)),
        largest=float(counts.nonzero()[0].max()),
        in_deviations=squares / deviation if deviation else math.inf if squares else 0.0,
    )


def seam_metric(drawing: Pixels, tiling: Tiling) -> float:
    """How far seams stand out: the mean step across them, against steps beside them.

    Steps are capped at a few times the usual one, so that the strokes that cross a seam do not hide
    it. It sees edges between tiles; that two tiles differ in tone, blended smoothly, it does not.

    Args:
        drawing: uint8 [h, w].
        tiling: how it was cut.

    Returns:
        About 1 where seams cannot be told from the rest; also where there are none. Above 1 there
        are edges, below it the drawing is flatter there, as padding makes it.
    """
    on: list[np.ndarray] = []
    beside: list[np.ndarray] = []
    for lines in (drawing, drawing.T):
        for place in tiling.seams(len(lines)):
            near = [place + i for i in _BESIDE if 0 < place + i < len(lines)]
            on.append(_steps(lines, place))
            beside += [_steps(lines, other) for other in near]
    if not on:
        return 1.0
    seams, others = np.concatenate(on), np.concatenate(beside)
    cap = _LEAST_STEP + _CAP * others.mean()
    return float(
        (seams.clip(max=cap).mean() + _LEAST_STEP) / (others.clip(max=cap).mean() + _LEAST_STEP)
    )


_BESIDE = (*range(-8, -1), *range(2, 9))  # pixels from a seam
_CAP = 4.0
_LEAST_STEP = 0.05  # levels; where all is blank there is nothing to compare with


def _steps(lines: np.ndarray, place: int) -> np.ndarray:
    """Steps from the row before a place to it, in levels."""
    return np.abs(lines[place].astype(np.int16) - lines[place - 1])


def _rows(pixels: Pixels) -> Iterator[Pixels]:
    for top in range(0, len(pixels), 256):
        yield pixels[top : top + 256]
