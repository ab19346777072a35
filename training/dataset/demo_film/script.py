"""What the demo film shows: its shots one after the other, and what must become of each.

Each fault and each likeness that the pipeline has to deal with is planted here once, in drawn
pictures, so that what should come out is known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from .scenes import (
    Box,
    Figure,
    art,
    coarse,
    credits,
    darkened,
    defocused,
    drawn,
    grained,
    letterboxed,
    marked,
    scene,
    seen,
    smeared,
    subtitled,
    titled,
)  # fmt: skip

Paint = Callable[[], Image.Image]

MUST_GO = (
    "subtitle", "title", "credits", "fade", "dissolve", "flash", "black", "line art", "combed",
)  # fmt: skip
"""Faults that no picture of the data set may have."""
DOUBTFUL = ("blurred", "motion blur", "low resolution", "dark", "logo")
"""Faults after which a picture may be dropped, or a person asked."""
BAR = 92  # rows above and below, which leave 1280 x 536, 2.39:1


@dataclass(frozen=True)
class Drawing:
    """A picture that is held for some frames.

    Attributes:
        name: the same name is the same picture, wherever it is.
        frames: for how long.
        paint: makes it, 1280 x 720.
        faults: of MUST_GO and DOUBTFUL.
    """

    name: str
    frames: int
    paint: Paint
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shot:
    """What lies between two cuts.

    Attributes:
        name: the same name is the same shot, in another place or film.
        drawings: one after the other.
        kind: of likeness between its drawings, or what is wrong with it.
        what: in words.
        pictures: how few and how many of its group must survive, all its places together.
        group: shots that are each other's duplicates; by itself where there is none.
    """

    name: str
    drawings: tuple[Drawing, ...]
    kind: str = "held"
    what: str = "one drawing, held"
    pictures: tuple[int, int] = (1, 1)
    group: str = ""


@dataclass(frozen=True)
class Transition:
    """What lies between two shots: "from black", "to black" or "dissolve"."""

    kind: str
    frames: int


@dataclass(frozen=True)
class Film:
    """One file.

    Attributes:
        name: of the file, without suffix.
        parts: in order.
        bar: black rows above and below.
        mark: whether a station's mark is in the corner.
        telecined: whether it is 29.97 frames a second, interlaced.
    """

    name: str
    parts: tuple[Shot | Transition, ...]
    bar: int = 0
    mark: bool = False
    telecined: bool = False

    def finish(self, picture: Image.Image) -> Image.Image:
        """Lays over a frame what the whole film has."""
        if self.bar:
            picture = letterboxed(picture, self.bar)
        return marked(picture) if self.mark else picture


FULL: Box = (0, 0, 1280)
LEFT: Box = (0, 90, 1040)
RIGHT: Box = (240, 130, 1040)
MIDDLE: Box = (120, 60, 1040)
BASS, GUITAR, DRUMS = (0.0, 330.0, 1280.0), (1100.0, 60.0, 1280.0), (540.0, 470.0, 1140.0)
STAGE: Box = (0, 100, 2400)

NAMES = (
    "Cast", "Sylvie   drawn by Ren'Py's artists", "Band   the concert's three", "",
    "Backgrounds", "Club   Hall   Meadow   Avenue", "", "Thank you for watching",
)  # fmt: skip

FADE_IN, FADE_OUT = Transition("from black", 12), Transition("to black", 12)


def films() -> tuple[Film, ...]:
    """The demo: two episodes with one opening, one from television, and a film in 2.39:1."""
    opening = (FADE_IN, *_opening(), FADE_OUT)
    return (
        Film("episode-1", (*opening, *_first_half(), *_second_half())),
        Film("episode-2", (*opening, *_second_episode())),
        Film("episode-3", _third_episode(), mark=True, telecined=True),
        Film("movie", _movie(), bar=BAR),
    )


def _opening() -> tuple[Shot, ...]:
    walk = partial(_walk, "op-walk", "uni", "green_smile", 12, 2, 160, 10)
    empty = scene("meadow", FULL, flipped=True)
    return (
        still("op-road", 20, "meadow", FULL),
        walk(),
        still("op-guitar", 18, "concert1", GUITAR),
        still("op-bass", 16, "concert1", BASS),
        still("op-drums", 14, "concert1", DRUMS),
        _spoilt("op-title", 24, "title", partial(titled, empty, "Concert\nafter Class")),
        still("op-pair", 16, "club", FULL, Figure("blue_smile", 300, 40, 900),
               Figure("green_smile", 640, 40, 900)),
    )  # fmt: skip


def _first_half() -> tuple[Shot | Transition, ...]:
    talk = _expressions(
        "talk", (("normal", 12), ("smile", 9), ("giggle", 12), ("surprised", 11)), "club", MIDDLE,
        "blue", 430, 60, 900,
    )  # fmt: skip
    return (
        still("school", 24, "club", FULL),
        talk,
        still("answer", 22, "club", MIDDLE, Figure("green_normal", 330, 60, 900, True)),
        Shot("talk", (Drawing("talk/normal", 14, talk.drawings[0].paint),), talk.kind, talk.what,
             talk.pictures),
        _walk("hall-walk", "lecturehall", "green_normal", 8, 3, 820, -14),
        _pan("pan", "concert1", (0, 780, 1280), 8, 60),
        _zoom("zoom", scene("uni", FULL, Figure("blue_smile", 90, 50, 860)), 1280, 1180, 40),
        *_relit(),
        still("autumn", 18, "uni", LEFT, Figure("green_giggle", 620, 40, 880), flipped=True),
        Transition("dissolve", 16),
        still("road-meeting", 18, "meadow", RIGHT, Figure("blue_smile", 150, 40, 880, True)),
    )  # fmt: skip


def _second_half() -> tuple[Shot | Transition, ...]:
    lines = scene("white", FULL, Figure("blue_normal", 220, 20), Figure("green_surprised", 640, 20))
    soft = scene("lecturehall", LEFT, Figure("green_giggle", 560, 60, 860, True))
    small = scene("uni", RIGHT, Figure("green_normal", 260, 40, 900))
    night = scene("lecturehall", MIDDLE, Figure("blue_smile", 760, 50, 880), flipped=True)
    said = scene("uni", MIDDLE, Figure("blue_giggle", 640, 50, 900, True))
    return (
        _flash(),
        _subtitled_in_part(),
        _spoilt("subtitled", 30, "subtitle", partial(subtitled, said, "I would not miss it.")),
        _spoilt("line-art", 18, "line art", partial(drawn, lines)),
        _doubtful("defocused", 16, "blurred", partial(defocused, soft, 6)),
        _whip(),
        _doubtful("low-resolution", 20, "low resolution", partial(coarse, small)),
        _doubtful("dark", 18, "dark", partial(darkened, night, 0.08)),
        _grain(),
        still("evening", 16, "uni", FULL, Figure("blue_normal", 860, 60, 880, True)),
        FADE_OUT,
        _spoilt("black", 8, "black", partial(art, "black")),
        FADE_IN,
        still("alone", 16, "club", RIGHT, Figure("green_surprised", 300, 50, 900)),
        Shot("credits", tuple(
            Drawing(f"credits/{k:02}", 1, partial(credits, NAMES, 420 - 6 * k), ("credits",))
            for k in range(48)
        ), "credits", "a roll of names", (0, 0)),
    )  # fmt: skip


def _second_episode() -> tuple[Shot | Transition, ...]:
    said = scene("lecturehall", RIGHT, Figure("green_smile", 220, 50, 900, True))
    pair = still("seats", 18, "lecturehall", LEFT, Figure("blue_normal", 250, 60, 880),
                  Figure("green_normal", 680, 60, 880))  # fmt: skip
    return (
        still("hall", 16, "lecturehall", FULL, flipped=True),
        pair,
        _expressions("reaction", (("normal", 12), ("surprised", 13)), "meadow", LEFT, "green",
                     500, 40, 960, flipped=True),
        _zoom("road-zoom", scene("meadow", FULL, Figure("blue_giggle", 820, 60, 840)), 1190, 1280,
              32),
        still("clouds", 14, "meadow", (380, 0, 900)),
        still("turn", 16, "uni", FULL, Figure("blue_surprised", 500, 40, 940), flipped=True),
        pair,
        still("court", 30, "club", (0, 120, 1060), flipped=True),
        _spoilt("hall-subtitled", 20, "subtitle", partial(subtitled, said, "Shall we go, then?")),
        still("leaving", 16, "uni", RIGHT, Figure("green_surprised", 500, 30, 930, True)),
        FADE_OUT,
    )  # fmt: skip


def _third_episode() -> tuple[Shot | Transition, ...]:
    shots = (
        still("tv-club", 12, "club", LEFT, Figure("blue_giggle", 120, 40, 900)),
        still("tv-hall", 12, "lecturehall", FULL, Figure("blue_smile", 520, 30, 920)),
        _walk("tv-walk", "uni", "green_surprised", 12, 2, 220, 24),
        still("tv-road", 11, "meadow", RIGHT, Figure("green_normal", 690, 40, 900, True)),
        _pan("tv-pan", "meadow", (0, 120, 1000), 6.25, 24),
        still("tv-court", 12, "club", FULL, Figure("green_giggle", 760, 40, 900), flipped=True),
        still("tv-band", 12, "concert2", (700, 330, 1600)),
        still("tv-two", 11, "uni", LEFT, Figure("blue_giggle", 180, 60, 880),
               Figure("green_smile", 620, 60, 880)),
        _walk("tv-leave", "lecturehall", "blue_normal", 8, 3, 260, 20),
        still("tv-laugh", 12, "meadow", FULL, Figure("green_giggle", 380, 30, 930), flipped=True),
        still("tv-desk", 12, "lecturehall", RIGHT, Figure("green_surprised", 200, 50, 900)),
        still("tv-end", 13, "club", MIDDLE, Figure("blue_surprised", 900, 50, 900, True)),
    )  # fmt: skip
    return tuple(
        Shot(
            s.name, tuple(_also(d, "logo") for d in s.drawings), s.kind, s.what, (0, s.pictures[1])
        )
        for s in shots
    )


def _movie() -> tuple[Shot | Transition, ...]:
    return (
        FADE_IN,
        still("m-avenue", 18, "uni", (60, 0, 1160)),
        still("m-friends", 16, "meadow", MIDDLE, Figure("blue_smile", 260, 120, 900),
               Figure("green_giggle", 600, 120, 900)),
        _expressions("m-secret", (("smile", 12), ("surprised", 12), ("giggle", 10)), "lecturehall",
                     LEFT, "green", 120, 110, 940),
        still("m-gate", 14, "club", FULL, Figure("green_normal", 80, 110, 880)),
        still("m-stage", 16, "concert1", (0, 0, 1500)),
        still("m-crowd", 16, "concert1", (1500, 700, 900)),
        still("m-bench", 15, "uni", RIGHT, Figure("blue_normal", 330, 110, 900), flipped=True),
        _walk("m-street", "meadow", "blue_surprised", 8, 3, 700, -12),
        still("m-why", 16, "club", LEFT, Figure("blue_surprised", 640, 110, 920), flipped=True),
        still("m-lamp", 12, "lecturehall", (200, 40, 1060), Figure("blue_giggle", 60, 110, 900)),
        still("m-smile", 14, "uni", (200, 60, 900), Figure("green_smile", 420, 120, 920)),
        still("m-sky", 12, "meadow", (0, 0, 800), flipped=True),
        still("m-last", 16, "club", (40, 30, 1200), Figure("green_smile", 560, 110, 880, True)),
        FADE_OUT,
    )  # fmt: skip


def still(
    name: str, frames: int, background: str, box: Box, *figures: Figure, flipped: bool = False
) -> Shot:
    """A shot of one drawing; for the arguments see `scene`."""
    paint = partial(scene, background, box, *figures, flipped=flipped)
    return Shot(name, (Drawing(f"{name}/0", frames, paint),))


def _spoilt(name: str, frames: int, fault: str, paint: Paint) -> Shot:
    return Shot(name, (Drawing(f"{name}/0", frames, paint, (fault,)),), fault, fault, (0, 0))


def _doubtful(name: str, frames: int, fault: str, paint: Paint) -> Shot:
    return Shot(name, (Drawing(f"{name}/0", frames, paint, (fault,)),), fault, fault, (0, 1))


def _also(drawing: Drawing, fault: str) -> Drawing:
    return Drawing(drawing.name, drawing.frames, drawing.paint, (*drawing.faults, fault))


def _expressions(
    name: str, held: Sequence[tuple[str, int]], background: str, box: Box, dress: str, left: int,
    top: int, height: int, flipped: bool = False,
) -> Shot:  # fmt: skip
    drawings = tuple(
        Drawing(f"{name}/{face}", frames, partial(
            scene, background, box, Figure(f"{dress}_{face}", left, top, height), flipped=flipped
        ))
        for face, frames in held
    )  # fmt: skip
    # frames.per_shot may allow fewer than there are.
    count = (min(3, len(held)), len(held))
    return Shot(name, drawings, "expression", f"one figure, {len(held)} expressions", count)


def _walk(
    name: str, background: str, sprite: str, steps: int, held: int, left: int, stride: int
) -> Shot:
    drawings = tuple(
        Drawing(f"{name}/{k:02}", held, partial(
            scene, background, FULL, Figure(sprite, left + stride * k, 60, 880, stride > 0)
        ))
        for k in range(steps)
    )  # fmt: skip
    return Shot(name, drawings, "moving figure", f"slides {stride} px, drawn on {held}s", (1, 3))


def _pan(name: str, background: str, box: Box, stride: float, frames: int) -> Shot:
    left, top, width = box
    steps = [0] * 12 + list(range(1, frames)) + [frames] * 12
    return Shot(name, _camera(name, art(background), [(left + stride * k, top, width)
                for k in steps]), "camera", "pan of 8 px a frame, still at both ends",
                (1, 3))  # fmt: skip


def _zoom(name: str, picture: Image.Image, first: float, last: float, frames: int) -> Shot:
    steps = [0] * 8 + list(range(1, frames)) + [frames] * 8
    widths = [first + (last - first) * k / frames for k in steps]
    boxes = [((1280 - width) / 2, (1280 - width) * 9 / 32, width) for width in widths]
    return Shot(name, _camera(name, picture, boxes), "camera", "slow zoom", (1, 2))


def _camera(name: str, picture: Image.Image, boxes: Sequence[Box]) -> tuple[Drawing, ...]:
    drawings: list[Drawing] = []
    for number, box in enumerate(boxes):
        if number and box == boxes[number - 1]:
            last = drawings.pop()
            drawings.append(Drawing(last.name, last.frames + 1, last.paint))
        else:
            drawings.append(Drawing(f"{name}/{number:03}", 1, partial(seen, picture, box)))
    return tuple(drawings)


def _relit() -> tuple[Shot, ...]:
    return tuple(
        Shot(name, (Drawing(f"{name}/0", 20, partial(scene, background, STAGE)),), "relit",
             "one picture in two lights, with a cut between", (1, 2), "relit")
        for name, background in (("spotlight", "concert1"), ("floodlight", "concert2"))
    )  # fmt: skip


def _flash() -> Shot:
    paint = partial(scene, "lecturehall", RIGHT, Figure("blue_surprised", 420, 50, 920))
    drawings = (
        Drawing("flash/0", 12, paint),
        Drawing("flash/white", 2, partial(art, "white"), ("flash",)),
        Drawing("flash/0", 14, paint),
    )
    return Shot("flash", drawings, "flash", "two white frames in a held drawing; no cut")


def _subtitled_in_part() -> Shot:
    picture = scene("club", LEFT, Figure("green_smile", 180, 50, 900), flipped=True)
    said = partial(subtitled, picture, "The concert begins at six.")
    drawings = (
        Drawing("speech/0", 12, picture.copy),
        Drawing("speech/subtitled", 18, said, ("subtitle",)),
        Drawing("speech/0", 10, picture.copy),
    )
    return Shot("speech", drawings, "subtitle", "one drawing, with a subtitle for a while")


def _whip() -> Shot:
    drawings = tuple(
        Drawing(f"whip/{k:02}", 1, partial(_flown, 60 * k, 60), ("motion blur",)) for k in range(14)
    )
    return Shot("whip", drawings, "motion blur", "a whip pan", (0, 1))


def _flown(left: int, stride: int) -> Image.Image:
    return smeared(seen(art("concert2"), (left, 560, 1280)), stride)


def _grain() -> Shot:
    picture = scene("meadow", LEFT, Figure("green_smile", 560, 40, 900, True), flipped=True)
    drawings = tuple(Drawing(f"grain/{k:02}", 1, partial(grained, picture, k)) for k in range(20))
    return Shot("grain", drawings, "held", "one drawing, held, under film grain")
