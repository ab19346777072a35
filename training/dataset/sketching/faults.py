"""Finds the known failures of networks that sketch, each with a score and a place.

    polarity  white lines on black
    empty     next to nothing was drawn
    wash      flat grey instead of white paper
    blobs     dark areas became solid black
    dark      dark areas lost their lines
    pattern   a checkerboard: transposed convolutions repeat with period 2, 4 or 8

The first five are looked for in a smaller picture, against the lines that FDoG draws there. The
pattern lives on the network's own grid of pixels, so a drawing is examined before it is resized.
Anime2Sketch's faults in dark areas: https://github.com/Mukosame/Anime2Sketch/issues/21; the
pattern: Odena et al., "Deconvolution and Checkerboard Artifacts" (Distill 2016).

Shapes: h and w the drawing, y and x the smaller picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from animesketchnet_core.sketch_extraction import draw_lines, lightness

from ..images import Pixels, to_grey

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name, as above.
        score: what was measured.
        threshold: what it was compared with.
        faulty: whether it is a fault.
        reason: a sentence about the fault; empty if there is none.
        where: bool, of any size: where in the picture the fault is; None: everywhere.
    """

    check: str
    score: float
    threshold: float
    faulty: bool
    reason: str = ""
    where: Mask | None = None


@dataclass(frozen=True)
class View:
    """A colour picture and its sketch made small, float32 in [0, 1], [y, x] each.

    Attributes:
        light: lightness L* of the colour picture.
        lines: where FDoG draws clear lines, bool.
        tones: of the sketch.
    """

    light: NDArray[np.float32]
    lines: Mask
    tones: NDArray[np.float32]


def view(colour: Pixels, sketch: Pixels) -> View:
    """Makes a colour picture uint8 [h, w, 3] and its sketch uint8 [h, w] small."""
    height, width = sketch.shape
    scale = min(1.0, _SHORT_SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))  # OpenCV: width first
    small = torch.from_numpy(cv2.resize(colour, size, interpolation=cv2.INTER_AREA))
    tones = cv2.resize(sketch, size, interpolation=cv2.INTER_AREA)
    with torch.no_grad():
        lines = draw_lines(small).numpy() < _CLEAR_LINE
        light = lightness(small).numpy()
    return View(light, lines, np.divide(tones, 255, dtype=np.float32))


def is_inverted(seen: View) -> Finding:
    """Whether the sketch is white on black: dark on the whole, and lighter where lines are."""
    dark = float(np.median(seen.tones))
    near = _grown(seen.lines, 6) & ~_grown(seen.lines, 2)
    if not near.any():
        return Finding("polarity", 0.0, _POLARITY, False)
    contrast = float(seen.tones[seen.lines].mean() - seen.tones[near].mean())
    faulty = dark < 0.5 and contrast > _POLARITY
    reason = "its lines are lighter than what is beside them, on black" if faulty else ""
    return Finding("polarity", contrast, _POLARITY, faulty, reason)


def find_faults(colour: Pixels, sketch: Pixels, seen: View | None = None) -> list[Finding]:
    """Runs all checks but that of polarity.

    Args:
        colour: uint8 [h, w, 3], what was sketched.
        sketch: uint8 [h, w], dark on white, as drawn, before it is resized.
        seen: both made small, if that was done already.
    """
    seen = seen or view(colour, sketch)
    tones = (seen.tones / _paper(seen)).clip(max=1)
    return [
        find_emptiness(seen),
        _wash(tones),
        _blobs(tones),
        _lost_lines(seen, tones),
        find_pattern(colour, sketch),
    ]


def find_emptiness(seen: View) -> Finding:
    """Whether next to nothing was drawn."""
    share = float((seen.tones < _INK * _paper(seen)).mean())
    faulty = share < _LEAST_INK
    reason = f"{share:.2%} of it is drawn on" if faulty else ""
    return Finding("empty", share, _LEAST_INK, faulty, reason)


def _paper(seen: View) -> float:
    return max(_DARKEST_PAPER, float(np.percentile(seen.tones, 95)))


def _wash(tones: NDArray[np.float32]) -> Finding:
    """Looks for middle tones without an edge in them."""
    window = np.ones((5, 5), np.uint8)
    flat = cv2.dilate(tones, window) - cv2.erode(tones, window) < 0.08
    grey = flat & (tones > 0.2) & (tones < _INK)
    share = float(grey.mean())
    faulty = share > _MOST_WASH
    reason = f"{share:.0%} of it is flat grey" if faulty else ""
    return Finding("wash", share, _MOST_WASH, faulty, reason, grey if faulty else None)


def _blobs(tones: NDArray[np.float32]) -> Finding:
    """Looks for black that is wider than any stroke: what an opening leaves."""
    side = 2 * max(1, round(min(tones.shape) * _STROKE / 2)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    black = (tones < _BLACK).astype(np.uint8)
    blobs = cv2.morphologyEx(black, cv2.MORPH_OPEN, disc) > 0
    share = float(blobs.mean())
    faulty = share > _MOST_BLOBS
    reason = f"{share:.0%} of it is solid black" if faulty else ""
    return Finding("blobs", share, _MOST_BLOBS, faulty, reason, blobs if faulty else None)


def _lost_lines(seen: View, tones: NDArray[np.float32]) -> Finding:
    """Compares the lines in dark areas with those that FDoG draws there."""
    dark = cv2.blur(seen.light, (31, 31)) < _DARK
    expected = seen.lines & dark
    if expected.mean() < _LEAST_LINES:
        return Finding("dark", 1.0, _LEAST_RECALL, False)
    drawn = _grown(tones < _INK, 2)
    recall = float(drawn[expected].mean())
    faulty = recall < _LEAST_RECALL
    reason = f"{1 - recall:.0%} of the lines in its dark areas are missing" if faulty else ""
    where = _grown(expected & ~drawn, 4) if faulty else None
    return Finding("dark", recall, _LEAST_RECALL, faulty, reason, where)


def find_pattern(colour: Pixels, sketch: Pixels) -> Finding:
    """Looks for blocks that repeat with a period of 8 pixels or a part of it, locked to the grid.

    What repeats in the colour picture too, such as a screen tone, is no fault.
    """
    blocks = patterned_blocks(sketch, _VISIBLE, _AGREEMENT)
    if blocks.any():
        blocks &= ~patterned_blocks(to_grey(colour), _HINT, _LOOSE_AGREEMENT)
        near = cv2.boxFilter(blocks.astype(np.uint8), -1, (3, 3), normalize=False)
        blocks &= near > 1  # one alone is chance, or a drawn grid
    share = float(blocks.mean()) if blocks.size else 0.0
    faulty = share > _MOST_PATTERN
    reason = f"{share:.0%} of it has a pattern of period 2, 4 or 8 pixels" if faulty else ""
    # Beside a block that has it, strokes may hide it.
    where = _unfolded(_grown(blocks, 1, cv2.MORPH_RECT), sketch.shape) if faulty else None
    return Finding("pattern", share, _MOST_PATTERN, faulty, reason, where)


def patterned_blocks(grey: Pixels, amplitude: float, agreement: float) -> Mask:
    """Which blocks of 64 x 64 pixels of a picture [h, w] repeat each 8 pixels; [h / 64, w / 64].

    A block is cut into cells of 8 x 8. What repeats is the median of the cells, strokes that cross
    some of them aside. Those on the black fields of a chessboard must have the same as those on the
    white fields.

    Args:
        grey: uint8 [h, w].
        amplitude: standard deviation of a pattern, in levels, from which on it is one.
        agreement: least correlation of the two halves.
    """
    rows, columns = (length // _BLOCK for length in grey.shape)
    found = np.zeros((rows, columns), dtype=bool)
    black = np.add.outer(np.arange(8), np.arange(8)).ravel() % 2 == 0
    for row in range(rows):
        strip = grey[row * _BLOCK : (row + 1) * _BLOCK, : columns * _BLOCK].astype(np.float32)
        cells = strip.reshape(8, 8, columns, 8, 8).transpose(2, 0, 3, 1, 4)
        cells = cells.reshape(columns, 64, 64)  # [x, cell, pixel]
        cells = cells - np.median(cells, axis=2, keepdims=True)
        one, other = (np.median(cells[:, half], axis=1) for half in (black, ~black))  # [x, pixel]
        one -= one.mean(1, keepdims=True)
        other -= other.mean(1, keepdims=True)
        # The product of two independent estimates has no bias from what is chance in each.
        common = (one * other).mean(1)
        agreeing = common > agreement * one.std(1) * other.std(1)
        found[row] = agreeing & (common > amplitude**2)
    return found


def _unfolded(blocks: Mask, shape: tuple[int, ...]) -> Mask:
    """Blocks as a mask of the picture [h, w]; what is left beside the last one is as that one."""
    rows = np.minimum(np.arange(shape[0]) // _BLOCK, blocks.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // _BLOCK, blocks.shape[1] - 1)
    return blocks[rows][:, columns]


def mask_of(findings: Sequence[Finding], shape: tuple[int, int]) -> Mask | None:
    """Joins the places of faults into one mask of (y, x); None if one of them is everywhere."""
    joined = np.zeros(shape, dtype=bool)
    for finding in findings:
        if finding.where is None:
            return None
        size = shape[::-1]  # OpenCV: width first
        where = cv2.resize(finding.where.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        joined |= where > 0
    return joined


def _grown(mask: Mask, radius: int, shape: int = cv2.MORPH_ELLIPSE) -> Mask:
    element = cv2.getStructuringElement(shape, (2 * radius + 1,) * 2)
    return cv2.dilate(mask.astype(np.uint8), element) > 0


_SHORT_SIDE = 540  # of the smaller picture, in pixels; strokes are a pixel or more there
_CLEAR_LINE = 0.5
_POLARITY = 0.05
_DARKEST_PAPER = 0.6  # a darker "paper" is a wash, not paper
_INK = 0.85  # of the paper's tone; the same as in sketch_cleaning
_BLACK = 0.3
_LEAST_INK = 0.003  # a fine drawing of one small figure has 0.01
_MOST_WASH = 0.15
_STROKE = 1 / 36  # of the shorter side; brush strokes are finer, and so are pupils
_MOST_BLOBS = 0.05  # a drawing in ink, which wants its blacks, has up to 0.03
_DARK = 0.3  # of lightness L* / 100
_LEAST_LINES = 5e-4  # of the picture; with fewer of them nothing can be said
_LEAST_RECALL = 0.4
_BLOCK = 64
_VISIBLE, _HINT = 2.0, 0.5  # levels of 255
_AGREEMENT, _LOOSE_AGREEMENT = 0.8, 0.4
_MOST_PATTERN = 0.02
