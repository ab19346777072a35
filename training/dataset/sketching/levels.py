"""Histogram analysis of a sketch: where paper and ink lie, and the curve that corrects them.

The paper (AnimeSketch-1818, section 3.1.1) "adjusted image parameters based on histogram analysis";
here that is a rule. Paper is the most frequent tone among the brighter ones, and becomes white with
its grain; the darkest hundredth becomes black; an exponent brings the ink into a band. All of it is
one curve of 256 levels, so a picture is read once to count its tones and once to change them.

A tone is a level of 0 (black) to 255 (white). Coverage is the mean darkness, 0 (white) to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from animesketchnet_core.sketch_extraction import lightness

from ..config import AdjustSettings
from ..images import Pixels

Counts = NDArray[np.int64]
"""How many pixels have each tone, [256]."""


@dataclass(frozen=True)
class Levels:
    """A curve: black and white are tones, gamma the exponent of what lies between."""

    black: int
    white: int
    gamma: float = 1.0

    @property
    def changes(self) -> bool:
        """Whether the curve does anything."""
        return self != Levels(0, 255)

    def curve(self) -> Pixels:
        """The new tone of each tone, uint8 [256]."""
        tones = (np.arange(256) - self.black) / (self.white - self.black)
        return (tones.clip(0, 1) ** self.gamma * 255).round().astype(np.uint8)


def count_tones(sketch: Pixels) -> Counts:
    """Counts the tones of a sketch [h, w]."""
    counts = np.zeros(256, dtype=np.int64)
    for top in range(0, len(sketch), 256):
        counts += np.bincount(sketch[top : top + 256].ravel(), minlength=256)
    return counts


def coverage(counts: Counts) -> float:
    """Mean darkness."""
    return float(1 - (counts * np.arange(256)).sum() / (255 * counts.sum()))


def find_levels(counts: Counts, settings: AdjustSettings) -> Levels:
    """Finds the curve that a sketch needs; gamma is 1 where its ink is in the band already."""
    white = paper_tone(counts, settings)
    black = min(_black(counts, white, settings.black_percentile), white - _LEAST_CONTRAST)
    levels = Levels(max(0, black), white)
    return Levels(levels.black, levels.white, _gamma(counts, levels, settings))


def adjusted_coverage(counts: Counts, levels: Levels) -> float:
    """Coverage after the curve."""
    return float(1 - (counts * levels.curve().astype(np.int64)).sum() / (255 * counts.sum()))


def paper_tone(counts: Counts, settings: AdjustSettings) -> int:
    """The tone that becomes white: below the paper's by as much as its grain reaches above it."""
    low, high = (percentile(counts, share) for share in settings.white_percentiles)
    near = np.convolve(counts, np.ones(3), mode="same")  # a peak may fall between two levels
    paper = low + int(near[low : high + 1].argmax())
    paper = 255 if paper == 254 and counts[255] > counts[254] else paper
    above = np.where(np.arange(256) >= paper, counts, 0)
    grain = percentile(above, 95) - paper  # the darker half has faint strokes in it
    return max(_LEAST_CONTRAST, paper - grain)


def contrast(counts: Counts, settings: AdjustSettings) -> float | None:
    """Difference in lightness L* (0 to 1) of paper and ink (its darkest twentieth).

    The range of all pixels would say little: of thin lines' sketches 95% are paper.

    Returns:
        None if nothing is drawn.
    """
    white = paper_tone(counts, settings)
    drawn = _drawn(counts, white)
    if not drawn.any():
        return None
    tones = torch.tensor([white, percentile(drawn, 5)], dtype=torch.uint8)
    paper, ink = lightness(tones[:, None]).tolist()
    return paper - ink


def percentile(counts: Counts, share: float) -> int:
    """The lowest tone that has at least `share` percent of the pixels at or below it."""
    return int(np.searchsorted(counts.cumsum(), counts.sum() * share / 100))


_LEAST_CONTRAST = 64  # levels from ink to paper; stretching less makes noise of 8 bits
_GRAIN = 12  # levels below the paper's tone that are no ink yet


def _drawn(counts: Counts, white: int) -> Counts:
    return np.where(np.arange(256) < white - _GRAIN, counts, 0)


def _black(counts: Counts, white: int, share: float) -> int:
    """The tone that becomes black.

    Of a sketch with little ink the darkest hundredth is paper; there the darkest quarter of what is
    drawn counts.
    """
    drawn = _drawn(counts, white)
    if not drawn.any():
        return 0
    return min(percentile(counts, share), percentile(drawn, 25))


def _gamma(counts: Counts, levels: Levels, settings: AdjustSettings) -> float:
    """The exponent that brings the coverage into the band, as near to 1 as can be."""
    low, high = settings.least_coverage, settings.most_coverage
    now = adjusted_coverage(counts, levels)
    if low <= now <= high:
        return 1.0
    inside = 0.05 * (high - low)  # not on its edge, where rounding would count
    target = low + inside if now < low else high - inside
    ends = (1.0, settings.most_gamma) if now < low else (1 / settings.most_gamma, 1.0)
    for _ in range(30):  # coverage grows with the exponent
        middle = sum(ends) / 2
        covered = adjusted_coverage(counts, Levels(levels.black, levels.white, middle))
        ends = (middle, ends[1]) if covered < target else (ends[0], middle)
    return round(sum(ends) / 2, 4)
