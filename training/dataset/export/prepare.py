"""Makes the two pictures of a pair as they are exported: size, polarity, which is the target.

A sketch that was kept larger than its colour picture (sketch.keep_large) sets the size of both.
What need not be changed is not written again: the form `target` or `conditioning` is then the very
file of the form it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from training.files import sha256_of

from ..images import PictureError, Pixels, to_grey
from ..ledger import Form, Outcome, Picture
from ..sketching.levels import count_tones, coverage
from ..stages import Examine
from ..work import Work

NAME = "export"


@dataclass(frozen=True)
class Preparation:
    """What a prepared pair follows from; the settings of the same names."""

    target: str
    longest_side: int
    invert: bool
    keep_large: bool


class Prepare:
    """The part of the stage `export` that looks at one picture at a time."""

    name = NAME
    reads: tuple[str, ...] = ("colour", "sketch", "adjusted")

    def settings(self, work: Work) -> Preparation:
        """Gathers what the result follows from."""
        settings = work.config.export
        invert = settings.target == "colour" and settings.invert_conditioning
        keep_large = work.config.sketch.keep_large
        return Preparation(settings.target, settings.longest_side, invert, keep_large)

    @contextmanager
    def open(self, work: Work) -> Iterator[Examine]:
        """Gives the function that prepares a pair."""
        yield partial(_prepare, work, self.settings(work))


def _prepare(work: Work, settings: Preparation, picture: Picture) -> Outcome:
    forms = work.ledger.forms_of(picture.id)
    drawn = "adjusted" if "adjusted" in forms else "sketch"
    colour, sketch = _read(work, picture, "colour"), _read(work, picture, drawn)
    if not fits(colour, sketch, settings.keep_large):
        raise PictureError(
            f"{picture.id}: the {drawn} has {size_of(sketch)} pixels and the colour picture "
            f"{size_of(colour)}; expected one size. Run the stages from sketch on again."
        )
    ink = round(coverage(count_tones(to_grey(sketch))), 6)
    size = _fitting(sketch.shape[1], sketch.shape[0], settings.longest_side)
    names = {"colour": "conditioning", drawn: "target"}
    if settings.target == "colour":
        names = {"colour": "target", drawn: "conditioning"}
    outcome = {}
    for form, pixels in (("colour", colour), (drawn, sketch)):
        invert = settings.invert and form != "colour"
        finished = _finished(pixels, size, invert)
        details = {"width": size[0], "height": size[1], "made_of": form, "inverted": invert}
        if form != "colour":
            details["ink"] = ink
        if finished is pixels:
            (work.folder / work.path(picture.id, names[form])).unlink(missing_ok=True)
            outcome[names[form]] = Form(forms[form].path, forms[form].sha256, details)
        else:
            outcome[names[form]] = work.write(picture, names[form], finished, **details)
    return Outcome(forms=outcome)


def _read(work: Work, picture: Picture, form: str) -> Pixels:
    """Decodes a picture's form, and makes sure that it is the file that the ledger means."""
    pixels = work.read(picture, form)
    known = work.ledger.forms_of(picture.id)[form]
    found = sha256_of(work.folder / known.path)
    if found != known.sha256:
        raise PictureError(
            f"{work.folder / known.path} is another file (SHA-256 {found}); expected "
            f"{known.sha256}. Delete it and run build, which makes it again, or reject the picture "
            "in the review."
        )
    return pixels


def fits(colour: Pixels, sketch: Pixels, keep_large: bool) -> bool:
    """Whether a sketch lies on its colour picture, pixel for pixel or enlarged."""
    if not keep_large:
        return colour.shape[:2] == sketch.shape[:2]
    scales = [sketch.shape[axis] / colour.shape[axis] for axis in (0, 1)]
    return abs(scales[0] - scales[1]) * max(colour.shape) <= 1  # a pixel, for rounding


def size_of(pixels: Pixels) -> str:
    """A picture's size in words."""
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _finished(pixels: Pixels, size: tuple[int, int], invert: bool) -> Pixels:
    """Scales to (width, height) and inverts; the very same array if there is nothing to do."""
    if (pixels.shape[1], pixels.shape[0]) != size:
        small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        pixels = np.array(small)
    return np.subtract(255, pixels, dtype=np.uint8) if invert else pixels


def _fitting(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) with no side above `longest`; 0: as they are."""
    if not longest or max(width, height) <= longest:
        return width, height
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
