"""Checks one pair: its files, and that the sketch is one, of that picture, on that place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from training.files import sha256_of

from ..export.prepare import fits, size_of
from ..images import PictureError, Pixels, to_grey
from ..ledger import Form, Picture
from ..work import Work
from .alignment import find_shift

DARKEST = 128  # mean of a sketch on white paper; half of it would have to be solid black
TOLERANCE = 2  # pixels; networks draw at half the picture's size and less
SAME = 0.15  # correlation of edges; of right pairs 0.5 and more, of wrong ones up to 0.2
BETTER = 0.03  # by so much a shift must fit better than none, for edges are soft


@dataclass(frozen=True)
class Fault:
    """Something that is not as it must be.

    Attributes:
        item: a picture's id, or what else is concerned.
        check: what was looked at.
        expected: what should have been there.
        found: what was there.
        fix: what to do.
    """

    item: str
    check: str
    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        return (
            f"{self.item}: {self.check}: expected {self.expected}; found {self.found}. {self.fix}"
        )


def pair_faults(work: Work, picture: Picture) -> Iterator[Fault]:
    """Looks for all that can be wrong with a pair's pictures."""
    forms = work.ledger.forms_of(picture.id)
    drawn = "adjusted" if "adjusted" in forms else "sketch"
    broken = False
    for name in dict.fromkeys(("colour", drawn, *forms)):
        for fault in _file_faults(work, picture.id, name, forms.get(name)):
            broken = True
            yield fault
    if broken:
        return
    try:
        colour, sketch = work.read(picture, "colour"), work.read(picture, drawn)
    except PictureError as error:
        yield Fault(picture.id, "files", "pictures that can be read", str(error), _AGAIN)
        return
    yield from _sketch_faults(picture.id, sketch)
    if not fits(colour, sketch, work.config.sketch.keep_large):
        yield Fault(picture.id, "size", f"a sketch of {size_of(colour)} pixels, as its colour "
                    "picture", size_of(sketch), _AGAIN)  # fmt: skip
        return
    yield from _place_faults(picture.id, colour, to_grey(sketch))


_MISSING = "Run build, which makes it again."
_OTHER = "Delete the file and run build, which makes it again."
_AGAIN = "Run build; if it stays so, reject the picture in the review, or sketch in another way."


def _file_faults(work: Work, item: str, name: str, form: Form | None) -> Iterator[Fault]:
    if form is None:
        yield Fault(item, "files", f"a {name}", "none", f"Run the stages up to {name}.")
        return
    path = work.folder / form.path
    if not path.is_file():
        yield Fault(item, "files", f"a file {form.path}", "none", _MISSING)
        return
    if (found := sha256_of(path)) != form.sha256:
        yield Fault(item, "hash", f"{form.path} with SHA-256 {form.sha256}", found, _OTHER)
        return
    mode = _mode(path)
    wanted = ("RGB", "L") if name in ("colour", "target", "conditioning") else ("L",)
    if mode not in wanted:
        yield Fault(item, "kind", f"{form.path} with 8 bits, {' or '.join(wanted)}", mode, _AGAIN)


def _mode(path: object) -> str:
    try:
        with Image.open(str(path)) as picture:
            return picture.mode
    except OSError as error:
        return f"no picture ({error})"


def _sketch_faults(item: str, sketch: Pixels) -> Iterator[Fault]:
    mean = float(sketch.mean())
    if mean < DARKEST:
        yield Fault(item, "polarity", f"dark lines on white, a mean of {DARKEST} or more",
                    f"a mean of {mean:.0f}", _AGAIN)  # fmt: skip


def _place_faults(item: str, colour: Pixels, sketch: Pixels) -> Iterator[Fault]:
    if colour.shape[:2] != sketch.shape:  # an enlarged one
        sketch = _resized(sketch, colour.shape[1], colour.shape[0])
    tolerance = max(TOLERANCE, max(sketch.shape) // 1000)  # a network's pixel at 4K is four
    shift = find_shift(colour, sketch, tolerance)
    if shift.there < SAME:
        yield Fault(item, "alignment", f"edges where its colour picture has them, a correlation of "
                    f"{SAME} or more", f"{shift.there:.2f}", _AGAIN)  # fmt: skip
    elif shift.there > shift.here + BETTER:
        yield Fault(item, "alignment", f"a sketch on its place to {tolerance} pixels",
                    f"one that fits better {shift.x} pixels to the right and {shift.y} down "
                    f"(correlation {shift.there:.2f}, here {shift.here:.2f})", _AGAIN)  # fmt: skip


def _resized(grey: Pixels, width: int, height: int) -> Pixels:
    import numpy as np

    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))
