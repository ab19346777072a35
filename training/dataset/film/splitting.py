"""Divides a film's marked frames into shots, and says where each can be taken up again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..config import FramesSettings
from .films import Film
from .holds import Chooser
from .letterbox import Crop
from .looks import Look, Small
from .shots import MOST, changed, lag

LEAD = 6  # frames more than marks follow from: the detector of cuts has to fill its window


@dataclass(frozen=True)
class Place:
    """Where a shot's search begins.

    Attributes:
        index: the frame's number in the film.
        lead_index: of the frame to decode from, so that all marks are what they would be.
        lead_pts: its pts.
    """

    index: int = 0
    lead_index: int = 0
    lead_pts: int | None = None


@dataclass
class Shot:
    """Frames from one camera, between cuts, dissolves and fades.

    Attributes:
        chooser: has seen all frames.
        first: (index, pts) of the first frame that shows the shot and nothing else, or None.
        last: of the last such frame, or None.
        following: where the next shot's search begins; None after the last one.
        end: pts of the last frame that was seen.
    """

    chooser: Chooser
    first: tuple[int, int] | None = None
    last: tuple[int, int] | None = None
    following: Place | None = None
    end: int = 0
    _grey: Small | None = field(default=None, repr=False)
    _gap: bool = False

    def ends_before(self, look: Look) -> bool:
        """Whether a frame starts another shot: at a cut, or after a dissolve or damage."""
        if self._grey is None:
            return False
        if look.cut:
            return True
        return self._gap and look.stable and changed(self._grey, look.grey) >= MOST

    def add(self, look: Look) -> None:
        """Takes the next frame in."""
        self.chooser.add(look)
        self.end = look.pts
        self._gap = not look.stable
        if look.stable:
            place = look.index, look.pts
            self.first, self.last, self._grey = self.first or place, place, look.grey

    def seconds(self, film: Film) -> float:
        """How long it shows nothing but itself, its last frame's time included."""
        if self.first is None or self.last is None:
            return 0.0
        return float((self.last[1] - self.first[1]) * film.time_base + 1 / film.fps)

    @property
    def counts(self) -> dict[str, Any]:
        """Frames by kind."""
        return self.chooser.counts


def shots(
    film: Film, looks: Iterable[Look], crop: Crop, settings: FramesSettings, start: Place
) -> Iterator[Shot]:
    """Divides marked frames into shots.

    Args:
        film: that they are from.
        looks: marked, from the place's lead on.
        crop: the picture without bars.
        settings: which frames are chosen.
        start: where the first shot's search begins.
    """
    near: deque[tuple[int, int]] = deque(maxlen=2 * lag(float(film.fps)) + LEAD)
    shot = Shot(Chooser(film, crop, settings))
    for look in looks:
        near.append((look.index, look.pts))
        if look.index < start.index:
            continue
        if shot.ends_before(look):
            shot.following = Place(look.index, *near[0])
            yield shot
            shot = Shot(Chooser(film, crop, settings))
        shot.add(look)
    if shot.counts["frames"]:
        yield shot
