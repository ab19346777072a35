"""Replaces a faulty sketch by lines: where the faults are, or all of it.

The replacement fades into what is left over some pixels. Both were drawn from one picture, so that
strokes go on where they meet.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..images import Pixels
from .faults import Finding, Mask, find_emptiness, find_faults, mask_of, view
from .sketchers import Sketcher


def repair(
    colour: Pixels, drawing: Pixels, lines: Sketcher, findings: list[Finding]
) -> tuple[Pixels, list[Finding], float]:
    """Replaces a faulty drawing by lines: where the faults are, or all of it.

    Args:
        colour: uint8 [h, w, 3].
        drawing: uint8 [h, w].
        lines: draws the replacement.
        findings: what is wrong.

    Returns:
        The drawing, what is still wrong with it, and the share of it that was replaced.
    """
    replacement = lines(colour)
    where = mask_of([f for f in findings if f.faulty], _mask_shape(drawing))
    if where is not None:
        weights = _feathered(where)
        share = float(weights.mean())
        if share <= _MOST_PATCHED:
            patched = _blended(drawing, replacement, weights)
            left = find_faults(colour, patched)
            if not any(f.faulty for f in left):
                return patched, left, share
    return replacement, [find_emptiness(view(colour, replacement))], 1.0


_MASK_SIDE = 540  # of a mask's shorter side, in pixels
_FEATHER = 8  # pixels of the mask over which one drawing fades into the other
_MOST_PATCHED = 0.5  # beyond that two kinds of line side by side look worse than one


def _mask_shape(drawing: Pixels) -> tuple[int, int]:
    scale = min(1.0, _MASK_SIDE / min(drawing.shape))
    return max(1, round(drawing.shape[0] * scale)), max(1, round(drawing.shape[1] * scale))


def _feathered(where: Mask) -> np.ndarray:
    """Weights of the replacement, float32 [y, x]: 1 where the faults are, and fading around."""
    side = 4 * _FEATHER + 1
    grown = cv2.dilate(where.astype(np.float32), np.ones((side, side), np.uint8))
    return cv2.GaussianBlur(grown, (0, 0), _FEATHER)


def _blended(drawing: Pixels, replacement: Pixels, weights: np.ndarray) -> Pixels:
    """Fades between two drawings [h, w], strip by strip."""
    height, width = drawing.shape
    levels = (weights * 255).round().astype(np.uint8)
    alpha = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
    blended = np.empty_like(drawing)
    for top in range(0, height, 256):
        rows = slice(top, top + 256)
        a = alpha[rows].astype(np.uint32)
        blended[rows] = (drawing[rows] * (255 - a) + replacement[rows] * a + 127) // 255
    return blended
