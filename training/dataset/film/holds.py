"""Chooses a shot's frames: settled ones, one of each drawing, the sharpest of those alike.

Anime is drawn on twos and threes and often stands still, so a shot falls into holds: frames that
show one drawing. Each hold of some length offers its sharpest frame. Of the most alike offers the
worse goes, until there are few enough and all differ. The measure of likeness is the tile that
differs most, as a mouth that opens changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import FramesSettings
from .colour import planar
from .films import Film
from .letterbox import Crop
from .looks import Look, sharpness, tiles

OFFERS = 12  # kept in memory for a shot: 25 MB each at 3840 x 2160 in 10 bits
MEASURED = 12  # frames of a hold whose sharpness is measured; one of them is well coded


@dataclass(eq=False)
class Offer:
    """A frame that may be chosen.

    Attributes:
        look: the frame.
        sharpness: see `looks.sharpness`.
        held: how many frames show the same drawing.
        settled: whether they are enough.
    """

    look: Look
    sharpness: float
    held: int
    settled: bool


@dataclass(eq=False)
class _Hold:
    anchor: Look
    best: Look
    sharpness: float
    last: Look
    held: int = 1


@dataclass
class Chooser:
    """Sees a shot's frames in order, and ends with a few of them."""

    film: Film
    crop: Crop
    settings: FramesSettings
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("frames", "held", "moving", "combed", "transition", "flash", "damaged", "lost"), 0
    ))  # fmt: skip
    offers: list[Offer] = field(default_factory=list)
    moving: Offer | None = None
    _hold: _Hold | None = None

    def add(self, look: Look) -> None:
        """Looks at the next frame."""
        self.counts["frames"] += 1
        self.counts["lost"] += look.lost
        if not look.stable:
            kind = "damaged" if look.damaged else "flash" if look.flash else "transition"
            self.counts[kind] += 1
            self._finish()
        elif look.combed:
            self.counts["combed"] += 1  # the drawing may go on after it
        elif self._hold and self._same(self._hold.anchor, look):
            self._extend(self._hold, look)
        else:
            self._finish()
            self._hold = _Hold(look, look, self._sharpness(look), look)

    def chosen(self) -> list[Offer]:
        """The frames that are chosen, in order of time; call it once, at the shot's end."""
        self._finish()
        offers = self.offers
        if not offers and self.moving and self.settings.moving == "sharpest":
            offers = [self.moving]
        while len(offers) > 1:
            difference, worse = self._most_alike(offers)
            if len(offers) <= self.settings.per_shot and difference >= self.settings.different:
                break
            offers.remove(worse)
        return offers

    def _finish(self) -> None:
        """Ends a hold and offers its best frame."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        frames = hold.last.index - hold.anchor.index + 1
        seconds = (hold.last.pts - hold.anchor.pts) * self.film.time_base + 1 / self.film.fps
        settled = float(seconds) > self.settings.min_hold - 1e-3 and frames > 1
        self.counts["held" if settled else "moving"] += hold.held
        offer = Offer(hold.best, hold.sharpness, hold.held, settled)
        if settled:
            self.offers.append(offer)
            if len(self.offers) > OFFERS:
                self.offers.remove(self._most_alike(self.offers)[1])
        elif self.moving is None or offer.sharpness > self.moving.sharpness:
            self.moving = offer

    def _extend(self, hold: _Hold, look: Look) -> None:
        hold.last = look
        hold.held += 1
        if hold.held <= MEASURED and (value := self._sharpness(look)) > hold.sharpness:
            hold.best, hold.sharpness = look, value

    def _same(self, a: Look, b: Look) -> bool:
        return float(tiles(a.grey, b.grey).max()) <= self.settings.held

    def _sharpness(self, look: Look) -> float:
        return sharpness(planar(self.film, look.frame), self.crop)

    @staticmethod
    def _most_alike(offers: list[Offer]) -> tuple[float, Offer]:
        """The difference of the two most alike, and the worse of them."""
        difference, a, b = min(
            ((float(tiles(a.look.grey, b.look.grey).max()), a, b)
             for n, a in enumerate(offers) for b in offers[:n]),
            key=lambda found: found[0],
        )  # fmt: skip
        return difference, min((a, b), key=lambda offer: (offer.sharpness, offer.held))
