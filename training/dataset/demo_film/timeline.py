"""Lays a film's shots out in time: which frame shows what, before any pulldown.

Frames count from 0; first and last frames are inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from PIL import Image

from .scenes import art
from .script import Drawing, Film, Paint, Shot, Transition

FAULTS = {"from black": "fade", "to black": "fade", "dissolve": "dissolve"}
PULLDOWN = ((0, 0), (1, 1), (1, 2), (2, 3), (3, 3))
"""FFmpeg's telecine filter, pattern 23, top field first: (top, bottom) of five frames from four."""


@dataclass(frozen=True)
class Run:
    """A drawing in its place; `shot` is "" within a transition, and between two fields' shots."""

    first: int
    shot: str
    drawing: Drawing

    @property
    def last(self) -> int:
        """Its last frame."""
        return self.first + self.drawing.frames - 1


@dataclass
class Timeline:
    """A film's frames.

    Attributes:
        runs: what each frame shows, in order.
        cuts: frames that begin a shot after a hard cut.
        shots: {name, first, last} each.
        transitions: {kind, first, last} each.
    """

    runs: list[Run] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    shots: list[dict[str, Any]] = field(default_factory=list)
    transitions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """In frames."""
        return self.runs[-1].last + 1 if self.runs else 0

    def each(self) -> list[Run]:
        """The run of each frame."""
        return [run for run in self.runs for _ in range(run.drawing.frames)]

    def show(self, shot: str, drawing: Drawing) -> None:
        """Appends a drawing, or goes on with the last one if it is the same."""
        last = self.runs[-1] if self.runs else None
        if last and (last.shot, last.drawing.name) == (shot, drawing.name):
            longer = replace(drawing, frames=last.drawing.frames + drawing.frames)
            self.runs[-1] = Run(last.first, shot, longer)
        else:
            self.runs.append(Run(self.length, shot, drawing))

    def add(self, shot: str, drawings: Sequence[Drawing]) -> dict[str, int]:
        """Appends drawings; returns the place that they take."""
        first = self.length
        for drawing in drawings:
            self.show(shot, drawing)
        return {"first": first, "last": self.length - 1}


def lay_out(film: Film) -> Timeline:
    """Lays a film out."""
    timeline = Timeline()
    cut = False
    for number, part in enumerate(film.parts):
        if isinstance(part, Shot):
            if cut and part.kind != "black":  # black after a fade to black is no cut
                timeline.cuts.append(timeline.length)
            place = timeline.add(part.name, part.drawings)
            timeline.shots.append({"name": part.name, **place})
        else:
            place = timeline.add("", _between(film, number, part))
            timeline.transitions.append({"kind": part.kind, **place})
        # What follows a fade to black begins with a cut, unless it fades in.
        cut = isinstance(part, Shot) or part.kind == "to black"
    return timeline


def _between(film: Film, number: int, part: Transition) -> tuple[Drawing, ...]:
    nothing = partial(art, "black")
    before = nothing if part.kind == "from black" else _shown(film.parts[number - 1], -1)
    after = nothing if part.kind == "to black" else _shown(film.parts[number + 1], 0)
    steps = range(1, part.frames + 1)
    return tuple(
        Drawing(
            f"{film.name}/{number}/{k:02}",
            1,
            partial(_mix, before, after, k / (part.frames + 1)),
            (FAULTS[part.kind],),
        )
        for k in steps
    )


def _shown(part: Shot | Transition, end: int) -> Paint:
    if isinstance(part, Transition):
        raise ValueError(f"A {part.kind} needs a shot beside it.")
    return part.drawings[end].paint


def _mix(before: Paint, after: Paint, share: float) -> Image.Image:
    return Image.blend(before(), after(), share)


def fields(count: int) -> list[tuple[int, int]]:
    """Which frames the fields of a telecined film are from.

    Args:
        count: of frames before the pulldown.

    Returns:
        (top, bottom) for each frame after it.
    """
    pairs = [
        (first + top, first + bottom) for first in range(0, count, 4) for top, bottom in PULLDOWN
    ]
    return [pair for pair in pairs if max(pair) < count]


def telecined(timeline: Timeline) -> Timeline:
    """What each frame shows after the pulldown; a combed one shows two drawings at once.

    A shot's frames are those that show nothing else.
    """
    told = Timeline()
    each, pairs = timeline.each(), fields(timeline.length)
    for top, bottom in pairs:
        told.show(*_woven(each[top], each[bottom]))
    told.cuts = [_first(pairs, cut) for cut in timeline.cuts]
    for shot in timeline.shots:
        last = max(k for k, pair in enumerate(pairs) if max(pair) <= shot["last"])
        place = {"first": _first(pairs, shot["first"]), "last": last}
        told.shots.append({"name": shot["name"], **place})
    return told


def _first(pairs: Sequence[tuple[int, int]], frame: int) -> int:
    return next(k for k, pair in enumerate(pairs) if min(pair) >= frame)


def _woven(top: Run, bottom: Run) -> tuple[str, Drawing]:
    shot = top.shot if top.shot == bottom.shot else ""
    if top.drawing.name == bottom.drawing.name:
        return shot, replace(top.drawing, frames=1)
    faults = (*dict.fromkeys((*top.drawing.faults, *bottom.drawing.faults, "combed")),)
    name = f"{top.drawing.name}+{bottom.drawing.name}"
    return shot, Drawing(name, 1, top.drawing.paint, faults)
