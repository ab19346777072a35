"""How sharp a picture really is: effective resolution, width of edges, and motion.

A file's size says little, as most films "in 4K" were enlarged. Two measures look at it instead:

- `effective_share`: up to which part of the finest possible detail the picture holds any. Where its
  edges are strongest, the spectrum of a picture made at a quarter of the size ends at a quarter.
  This is the error of making the picture small and large again, read off in one go.
- `edge_widths`: over how many pixels its edges spread (Marziliano et al., "A no-reference
  perceptual blur metric", ICIP 2002), in four directions, as motion widens them in one only.

Both look at edges alone, so that a large flat area, of which drawn pictures have many, makes no
picture blurred. The variance of the Laplacian does not have this property.

Shapes: n tiles, t the side of a tile, o the order of a frequency, h and w the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images import Pixels

Floats = NDArray[np.float32]

SIDE = 720
"""Edges are measured in pictures of this short side at most, so that widths can be compared."""

_TILE = 64
_TILES = 128  # of the strongest edges: enough for a steady figure, few enough for 4K in no time
_LOSS = 0.07  # part of the amplitude that is no loss; coding leaves up to 0.05 beyond the real end
_QUIET = 0.05  # part of all tiles that shows the noise
_REACH = 24  # pixels to each side in which an edge's ends are looked for
_CONTRAST = 40.0  # of 255; weaker edges drown in grain and coding
_SLOPE = 1.0  # per step; what is flatter ends an edge, and twice that begins one
_EDGES = 20_000  # of each direction
_ENOUGH = 40  # edges for a figure to mean something


@dataclass(frozen=True)
class EdgeWidths:
    """Widths of edges, in pixels of a picture whose short side is `SIDE` at most.

    Attributes:
        width: of the sharper quarter, in the direction in which they are sharpest; 1 to 1.7 in a
            sharp drawing. None if there are too few edges.
        ratio: the direction with the widest edges against the one with the sharpest; about 1
            unless something moved. None if there are edges in one direction only.
        count: how many edges were measured.
    """

    width: float | None
    ratio: float | None
    count: int


def effective_share(grey: Pixels) -> float | None:
    """Measures the part of the finest detail that a picture could hold, and does hold.

    Args:
        grey: [h, w], at its full size.

    Returns:
        0 to 1; 0.7 to 0.95 for pictures made at their size, about 1 / f for those enlarged f times.
        None for a picture without edges, or smaller than a tile.
    """
    tiles = _tiles(grey)
    if not len(tiles):
        return None
    strength = _strength(tiles)
    order = np.argsort(-strength, kind="stable")[:_TILES]
    strong = order[strength[order] >= max(_LEAST_STRENGTH, strength[order[0]] / 8)]
    if not len(strong):
        return None
    powers = _powers(tiles[strong])  # [n, o]
    powers -= _noise(tiles, strength)
    powers = powers[powers.sum(1) > 0]
    if not len(powers):
        return None
    mean = (powers / powers.sum(1, keepdims=True)).mean(0)  # [o]
    beyond = np.sqrt(np.maximum(1 - np.cumsum(mean), 1e-9))  # amplitude above each order
    return _crossing(beyond, _LOSS)


def edge_widths(grey: Pixels) -> EdgeWidths:
    """Measures the widths of a picture's strong edges in four directions.

    Args:
        grey: [h, w], of any size; larger ones are made smaller first.
    """
    small = shrink(grey, SIDE).astype(np.float32)
    if min(small.shape) < 8:
        return EdgeWidths(None, None, 0)
    found = [_widths(small, dy, dx) for dy, dx in _DIRECTIONS]
    enough = [np.percentile(widths, 25) for widths in found if len(widths) >= _ENOUGH]
    count = sum(map(len, found))
    if not enough:
        return EdgeWidths(None, None, count)
    ratio = max(enough) / min(enough) if len(enough) > 1 else None
    return EdgeWidths(float(min(enough)), None if ratio is None else float(ratio), count)


def shrink(pixels: Pixels, short_side: int) -> Pixels:
    """Makes a picture's short side this long by averaging; smaller ones stay as they are.

    Args:
        pixels: [h, w] or [h, w, 3].
        short_side: in pixels.
    """
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _tiles(grey: Pixels) -> Pixels:
    """Cuts a picture into whole tiles [n, t, t]."""
    rows, columns = (length // _TILE for length in grey.shape)
    cut = grey[: rows * _TILE, : columns * _TILE].reshape(rows, _TILE, columns, _TILE)
    return cut.swapaxes(1, 2).reshape(-1, _TILE, _TILE)


def _strength(tiles: Pixels) -> NDArray[np.float64]:
    """Mean square of the steps between neighbours, [n]."""
    across = np.subtract(tiles[:, :, 1:], tiles[:, :, :-1], dtype=np.int16).astype(np.float32)
    down = np.subtract(tiles[:, 1:], tiles[:, :-1], dtype=np.int16).astype(np.float32)
    squares = np.einsum("nij,nij->n", across, across) + np.einsum("nij,nij->n", down, down)
    return squares.astype(np.float64) / _TILE**2


def _powers(tiles: Pixels) -> NDArray[np.float64]:
    """Power of tiles [n, t, t] by the larger of both frequencies' orders, [n, o]."""
    means = tiles.mean((1, 2), keepdims=True, dtype=np.float64)
    spectra = np.abs(np.fft.fft2((tiles - means) * _WINDOW)) ** 2
    return spectra.reshape(len(tiles), -1) @ _ORDERS


def _noise(tiles: Pixels, strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power that even the quietest tiles have, [o]; those at black or white show no noise."""
    means = tiles.mean((1, 2))
    inside = np.flatnonzero((means > 16) & (means < 239))
    if not len(inside):
        return np.zeros(_ORDERS.shape[1])
    count = max(1, round(_QUIET * len(tiles)))
    quiet = inside[np.argsort(strength[inside], kind="stable")[:count]]
    return np.median(_powers(tiles[quiet]), axis=0)


def _crossing(falling: NDArray[np.float64], level: float) -> float:
    """Where amplitudes above orders 0, 1, ... fall below a level, as part of the highest order."""
    below = int(np.argmax(falling < level))
    if below == 0:
        return 1.0 if falling[0] >= level else 1 / (len(falling) - 1)
    high, low = np.log(falling[below - 1]), np.log(falling[below])
    return float((below - 1 + (high - np.log(level)) / (high - low)) / (len(falling) - 1))


def _orders() -> NDArray[np.float64]:
    """Sums the entries of a spectrum [t * t] by order, [t * t, o]."""
    order = np.abs(np.fft.fftfreq(_TILE) * _TILE).round().astype(int)
    larger = np.maximum(order[:, None], order[None, :]).ravel()
    return (larger[:, None] == np.arange(_TILE // 2 + 1)).astype(np.float64)


_ORDERS = _orders()
_WINDOW = np.outer(np.hanning(_TILE + 2)[1:-1], np.hanning(_TILE + 2)[1:-1])
_LEAST_STRENGTH = 4.0  # the mean square step that one faint edge through a tile gives

_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # steps of rows and columns


def _widths(grey: Floats, dy: int, dx: int) -> Floats:
    """Widths in pixels of the strong edges that are crossed in steps of (dy, dx)."""
    rim = _REACH + 1
    padded = np.pad(grey, rim, mode="edge")
    flat, step = padded.ravel(), dy * padded.shape[1] + dx
    places = _candidates(grey, padded, rim, dy, dx)
    sign = np.sign(flat[places + step] - flat[places])
    ends, steepest = [], (flat[places + step] - flat[places]) * sign
    for side in (-1, 1):
        ends.append(_climb(flat, places if side < 0 else places + step, side * step, sign * side))
    contrast = (ends[1] - ends[0]) * sign
    strong = contrast >= _CONTRAST
    return (contrast[strong] / steepest[strong] * np.hypot(dy, dx)).astype(np.float32)


def _candidates(grey: Floats, padded: Floats, rim: int, dy: int, dx: int) -> NDArray[np.intp]:
    """Places in the padded picture where the step in a direction is steepest; every n-th."""
    height, width = grey.shape

    def step(number: int) -> Floats:
        """Heights of the steps that lie `number` steps further."""
        y, x = rim + number * dy, rim + number * dx
        from_, to = padded[y : y + height, x : x + width], padded[y + dy :, x + dx :]
        return np.abs(to[:height, :width] - from_)

    here = step(0)
    steepest = (here >= step(-1)) & (here > step(1)) & (here > 2 * _SLOPE)
    y, x = np.nonzero(steepest)
    flat, columns = padded.ravel(), padded.shape[1]
    places, heights = (y + rim) * columns + x + rim, here[y, x]
    # An edge belongs to the direction that it is crossed in most nearly at a right angle.
    ends, aside = (places, places + dy * columns + dx), dx * columns - dy
    along = [np.abs(flat[end + way] - flat[end]) for end in ends for way in (aside, -aside)]
    chosen = places[2 * heights > np.add.reduce(along)]
    return chosen[:: max(1, -(-len(chosen) // _EDGES))]


def _climb(flat: Floats, places: NDArray[np.intp], step: int, sign: Floats) -> Floats:
    """Values at the ends of edges: as far as they keep rising (sign 1) or falling (-1)."""
    values, going = flat[places], np.ones(len(places), bool)
    for _ in range(_REACH - 1):
        places = places + step
        following = flat[places]
        going &= (following - values) * sign >= _SLOPE
        values = np.where(going, following, values)
    return values
