"""How much a picture is a sketch: how much ink there is, how much bare paper, how much colour.

A sketch is dark on one tone of paper. Tones are CIE lightness relative to that of the picture's own
paper, so that a drawing on grey paper, or in grey ink, counts as one on white. What is measured:

- ink: the mean darkness, so that it does not change with the picture's size;
- paper: the part of the picture that has the paper's tone. Painted pictures have no such tone;
- chroma: how far colours lie from the picture's usual one, so that yellowed paper is no colour.

Pictures are in ComfyUI's IMAGE layout: [n, h, w, c], float, values in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip_input import check_image, flatten_onto_white, unit_range
from .progress import OnProgress


@dataclass(frozen=True)
class SketchLikeness:
    """Figures of n pictures, each [n] float32.

    Attributes:
        ink_ratio: mean darkness relative to the paper, 0 (a bare sheet) to 1 (black).
        paper_share: part of the picture that is bare paper, 0 to 1.
        chroma: distance of the colours from the usual one, 95th percentile, in CIE Lab; coding
            leaves up to 3 in a drawing in black and white.
        likeness: 0 (no sketch) to 1; above 0.5 it is one.
    """

    ink_ratio: Tensor
    paper_share: Tensor
    chroma: Tensor
    likeness: Tensor


def sketch_likeness(images: Tensor, on_progress: OnProgress | None = None) -> SketchLikeness:
    """Says how much pictures are sketches.

    The figure `likeness` is the weakest of four signs, since each can rule a sketch out: no
    colours, bare paper, light paper, and something drawn on it. It cannot tell a figure that is
    painted in greys on a bare sheet from shading in pencil, and takes a drawing in coloured ink
    for a coloured picture, once a twentieth of it has that colour.

    Args:
        images: pictures [n, h, w, c], c = 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        on_progress: told of the pictures; it may raise to stop the work.

    Raises:
        TypeError: the values are not floats.
        ValueError: no such layout, an empty picture, or values that are not finite.
    """
    check_image(images)
    small = []
    for done, picture in enumerate(images.split(1), 1):  # large ones take most of the time
        small.append(_shrink(flatten_onto_white(unit_range(picture))))
        if on_progress is not None:
            on_progress(done, len(images))
    lab = _to_lab(torch.cat(small))
    tones = lab[..., 0] / 100
    paper, ink = _paper_tone(tones), _ink(tones)
    ink_ratio = ink.mean((1, 2))
    paper_share = (ink < _NEAR_PAPER).float().mean((1, 2))
    chroma = _chroma(lab)
    signs = (
        1 - _rise(chroma, *_COLOUR),
        _rise(paper_share, *_BARE),
        _rise(paper, *_LIGHT),
        _rise(ink_ratio, *_DRAWN),
    )
    return SketchLikeness(ink_ratio, paper_share, chroma, torch.stack(signs).amin(0))


def ink_map(images: Tensor) -> Tensor:
    """How much ink is where.

    Args:
        images: pictures [n, h, w, c], float in [0, 1], c = 1, 3 or 4.

    Returns:
        [n, h, w] float32: darkness relative to the picture's own paper, 0 (paper) to 1 (black).

    Raises:
        TypeError: the values are not floats.
        ValueError: no such layout, an empty picture, or values that are not finite.
    """
    check_image(images)
    return _ink(_to_lab(flatten_onto_white(unit_range(images)))[..., 0] / 100)


_SIDE = 480  # pixels of the shorter side; the data set's figures are taken at this size, too
_NEAR_PAPER = 0.1  # grain, and what coding leaves beside a line, stay within it
# Where each sign begins to count, and where it counts fully; halfway between is the verdict.
_COLOUR = 4.0, 12.0  # the data set builder takes a picture for coloured from 8 on
_BARE = 0.25, 0.5  # anime backgrounds in greys have up to 0.22, portraits with black hair 0.5
_LIGHT = 0.4, 0.6  # a night scene has one tone as well, a dark one
_DRAWN = 0.0, 0.004  # one line across the picture, a pixel of 500 wide, has 0.002


def _paper_tone(tones: Tensor) -> Tensor:
    """The tone of each picture's paper [n]: a tenth of the picture [n, h, w] may be lighter."""
    flat = tones.flatten(1)
    # Some highlights or a white border do not make grey paper white.
    return flat.kthvalue(1 + int(0.9 * (flat.shape[1] - 1)), dim=1).values


def _ink(tones: Tensor) -> Tensor:
    """Darkness relative to the paper; both [n, h, w]."""
    paper = _paper_tone(tones).clamp(min=1e-3)  # a black picture is all paper, with no ink on it
    return (1 - tones / paper[:, None, None]).clamp(0, 1)


def _chroma(lab: Tensor) -> Tensor:
    """Distance of the colours from the median one, 95th percentile; [n, h, w, 3] to [n]."""
    colours = lab[..., 1:].flatten(1, 2)  # [n, h * w, 2]
    distance = (colours - colours.median(1, keepdim=True).values).norm(dim=2)
    return distance.kthvalue(1 + int(0.95 * (distance.shape[1] - 1)), dim=1).values


def _rise(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on, a straight line between."""
    return ((values - low) / (high - low)).clamp(0, 1)


def _shrink(rgb: Tensor) -> Tensor:
    """Scales pictures [n, h, w, 3] down to a shorter side of `_SIDE`; small ones stay."""
    height, width = rgb.shape[1:3]
    side = min(height, width)
    if side <= _SIDE:
        return rgb
    size = [round(length * _SIDE / side) for length in (height, width)]
    planes = F.interpolate(rgb.movedim(-1, 1), size, mode="bilinear", antialias=True)
    return planes.movedim(1, -1)


def _to_lab(rgb: Tensor) -> Tensor:
    """CIE Lab (D65) of sRGB in [0, 1]; both [..., 3], lightness is 0 to 100."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ rgb.new_tensor(_TO_XYZ).T / rgb.new_tensor(_WHITE)
    roots = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-6) ** (1 / 3), xyz * 841 / 108 + 4 / 29)
    x, y, z = roots.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)  # IEC 61966-2-1, like the matrix
