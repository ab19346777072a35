"""What has to be known of a film as a whole before its frames are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .colour import colours_of, planar
from .films import Film, FilmError, Shown
from .interlacing import is_combed
from .letterbox import Crop, Letterbox
from .looks import luma8, tiles

SHORT = 120.0  # seconds; a film that is no longer is looked at from end to end
PLACES = 48  # in a longer one
FEW = 12  # places that a seek leads to are too few to know a film by
BURST = 8  # frames at each place: more than telecine's pattern of five
MOVED = 4.0  # levels in the tile that changed most; what stands still is never combed
INTERLACED = 0.75  # of the frames that move; telecine combs two in five


@dataclass(frozen=True)
class Survey:
    """A film as a whole.

    Attributes:
        crop: the picture without bars.
        combs: whether any frame is combed.
        interlaced: whether all are that move.
        moving: frames that were looked at and moved.
        combed: how many of them are combed.
    """

    crop: Crop
    combs: bool
    interlaced: bool
    moving: int
    combed: int


def survey(film: Film) -> Survey:
    """Looks at frames spread over a film.

    Raises:
        FilmError: no frame can be decoded.
    """
    box = Letterbox(film.width, film.height)
    counts = [0, 0, 0]
    for burst in _bursts(film):
        _look_at(film, burst, box, counts)
    seen, moving, combed = counts
    if not seen:
        raise FilmError(
            f"{film.path} has no frame that can be decoded; expected a film coded in "
            f"{film.codec}{f' ({film.trouble})' if film.trouble else ''}. It may be encrypted or "
            "damaged; replace it by a whole one, or remove it."
        )
    return Survey(box.crop(), combed > 0, combed > INTERLACED * moving, moving, combed)


def _bursts(film: Film) -> Iterator[Iterable[Shown]]:
    """Frames from places all over a film; all of it, if it is short or has few keyframes."""
    places: set[int] = set()
    if film.seconds > SHORT:
        for place in range(PLACES):
            burst = list(film.burst(film.seconds * (place + 0.5) / PLACES, BURST))
            if burst and (burst[0].frame.pts or 0) not in places:
                places.add(burst[0].frame.pts or 0)
                yield burst
    if len(places) < FEW:
        yield film.frames()


def _look_at(film: Film, frames: Iterable[Shown], box: Letterbox, counts: list[int]) -> None:
    """Counts frames seen, moving and combed."""
    import cv2

    before = None
    for number, shown in enumerate(s for s in frames if not s.damaged):
        frame = planar(film, shown.frame)
        luma = luma8(frame)
        counts[0] += 1
        if number % BURST == 0:
            full = colours_of(film, shown.frame).range == "full"
            box.add(luma, 0 if full else 16)
        small = np.asarray(cv2.resize(luma, (256, 144), interpolation=cv2.INTER_AREA), np.uint8)
        if before is not None and tiles(small, before).max() > MOVED:
            counts[1] += 1
            counts[2] += is_combed(luma)
        before = small
