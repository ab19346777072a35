"""Makes the two pictures of a pair as they are exported: size, polarity, which is the target.

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

from ..images import PictureError, Pixels, sha256_of
from ..ledger import Form, Outcome, Picture
from ..stages import Examine
from ..work import Work

NAME = "export"
INK = 128  # grey values below it count as ink


@dataclass(frozen=True)
class Preparation:
    """What a prepared pair follows from; the settings of the same names."""

    target: str
    longest_side: int
    invert: bool


class Prepare:
    """The part of the stage `export` that looks at one picture at a time."""

    name = NAME
    reads: tuple[str, ...] = ("colour", "sketch", "adjusted")

    def settings(self, work: Work) -> Preparation:
        """Gathers what the result follows from."""
        settings = work.config.export
        invert = settings.target == "colour" and settings.invert_conditioning
        return Preparation(settings.target, settings.longest_side, invert)

    @contextmanager
    def open(self, work: Work) -> Iterator[Examine]:
        """Gives the function that prepares a pair."""
        yield partial(_prepare, work, self.settings(work))


def _prepare(work: Work, settings: Preparation, picture: Picture) -> Outcome:
    forms = work.ledger.forms_of(picture.id)
    drawn = "adjusted" if "adjusted" in forms else "sketch"
    colour, sketch = _read(work, picture, "colour"), _read(work, picture, drawn)
    if colour.shape[:2] != sketch.shape[:2]:
        raise PictureError(
            f"{picture.id}: the {drawn} has {_size(sketch)} pixels and the colour picture "
            f"{_size(colour)}; expected one size. Run the stages from sketch on again."
        )
    ink = round(float((sketch < INK).mean()), 6)
    size = _fitting(colour.shape[1], colour.shape[0], settings.longest_side)
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
            f"{known.sha256}. Put the file back, or drop the picture in the review."
        )
    return pixels


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


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
