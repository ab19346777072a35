"""Gives a likeness its name: which kind of duplicate, if any, a pair of pictures is."""

from __future__ import annotations

from typing import Literal

from ..config import DedupSettings
from .likeness import Likeness

Kind = Literal[
    "exact", "held", "across", "camera", "mirrored", "subtitled", "expression", "relit", "same shot"
]

STILL = 0.003  # of the width: less than a pixel of the thumbnail is no camera move
RECROPPED = 0.03  # of the width: black bars are cut a little differently in two encodings
PART = 0.05  # share of the picture; more is no expression or gesture
RELIT = 0.93  # share of the lines that stay; of another figure on the same background 0.92 (95 %)
RELATED = 0.3  # share of the lines that stay between two pictures of one shot
TEXT_TOP, TEXT_STROKES = 0.7, 2.5  # subtitles begin below, and have that many more fine lines

SAME_DRAWING = ("exact", "held", "across")
"""Kinds of which one picture tells all that the other does."""


def kind_of(
    like: Likeness, same_source: bool, same_shot: bool, settings: DedupSettings
) -> Kind | None:
    """Names what `like` says of a pair; None if the two are different pictures."""
    moved = like.motion.farthest > STILL
    still = settings.camera_change if moved else settings.expression_change
    if like.light > settings.light_change:
        if like.structure > RELIT:
            return "relit"
    elif like.change <= still:
        if not same_source and like.motion.farthest <= RECROPPED:
            return "across"
        return "camera" if moved else "held"
    elif like.changed <= PART:
        return "subtitled" if not moved and has_text(like) else "expression"
    elif like.structure > RELIT:
        return "relit"
    return "same shot" if same_shot and like.structure > RELATED else None


def has_text(like: Likeness) -> bool:
    """Whether one of the two has a subtitle that the other has not."""
    left, top, right, bottom = like.box
    wide, centred = right - left > 2 * (bottom - top) > 0, abs(left + right - 1) < 0.15
    strokes = max(like.strokes, 1 / like.strokes)
    return top >= TEXT_TOP and wide and centred and strokes >= TEXT_STROKES
