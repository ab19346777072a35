"""Tells what was laid over a source's drawings: subtitles, a station's mark, credits.

One picture alone does not say which: a sign in the street is text, too. All pictures of a source
together do. What stands at one place in most shots is a mark, with or without letters; text low in
the middle that is not there all the time is a subtitle; text that fills the picture, or stands on
nothing, is a title or credits. Any other text belongs to the drawing.

Shapes: k two kinds of edges, steep downwards and sideways, a two halves up and down, b two halves
sideways, y and x a corner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images import Pixels
from .lettering import TextBox
from .medium import Mask

CORNER = 54, 96
"""Rows and columns of a corner's map of edges: a quarter of 216 x 384, each way."""
THUMBNAIL = 36, 64
"""Rows and columns of the copy in which two drawings are compared."""
SHOTS = 5
"""So many are needed to tell what stays from what happens to be there."""

_SURE = 0.6  # of a reading; what is read into leaves and railings is less sure
_STEEP = 8  # grey values a pixel; half transparent marks have 20 and more
_STAYS = 0.75  # part of the shots in which a mark's edge is seen; others hide it now and then
_CHANCE = 5.0  # standard deviations above what is common in this corner, so that leaves are no mark
_LEAST = 12  # pixels of a mark's edges
_FILLED = 0.1  # least part of the mark's box that its edges fill
_SEEN = 0.5  # part of a mark's edges that a picture with it shows
_SAME = 2.5  # grey values of a 4 x 4 field of THUMBNAIL; a smile changes 4, a coded hold 0.1


@dataclass(frozen=True)
class Seen:
    """What is known of one picture.

    Attributes:
        id: the picture's.
        shot: pictures of one shot have the same.
        boxes: the text in it.
        content: see `medium.Medium.content`.
        corners: [k, a, b, y, x], where its edges are.
        thumbnail: [36, 64], grey.
    """

    id: str
    shot: str
    boxes: Sequence[TextBox]
    content: Mask
    corners: Mask
    thumbnail: Pixels


@dataclass(frozen=True)
class Overlays:
    """What was found over one picture.

    Attributes:
        subtitle: how sure the surest reading of one is; 0 for none.
        subtitles: their boxes.
        logo: part of the source's shots that show the mark that this picture shows; 0 for none.
        logos: where: texts, or names of corners.
        credits: letters' part of all that is to be seen, 0 to 1.
        other: boxes that belong to the drawing, or to credits.
        clean: pictures of the same drawing without subtitles.
    """

    subtitle: float
    subtitles: tuple[TextBox, ...]
    logo: float
    logos: tuple[str, ...]
    credits: float
    other: tuple[TextBox, ...]
    clean: tuple[str, ...] = ()


def corners_of(grey: Pixels) -> Mask:
    """Maps where the edges in a picture's [h, w] corners are, [k, a, b, y, x]."""
    rows, columns = CORNER
    size = columns * 4, rows * 4
    small = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BOX), np.float32)
    down, right = np.gradient(small)
    steep, falls = np.hypot(down, right) > _STEEP, np.abs(down) > np.abs(right)
    kinds = np.stack([steep & falls, steep & ~falls])  # [k, 216, 384]
    halves = np.stack([kinds[:, :rows], kinds[:, -rows:]], axis=1)  # [k, a, y, 384]
    return np.stack([halves[..., :columns], halves[..., -columns:]], axis=2)


def thumbnail_of(grey: Pixels) -> Pixels:
    """A picture [h, w] as small as THUMBNAIL."""
    size = THUMBNAIL[1], THUMBNAIL[0]
    return np.array(Image.fromarray(grey).resize(size, Image.Resampling.BOX))


def find_overlays(pictures: Sequence[Seen]) -> dict[str, Overlays]:
    """Looks at all pictures of one source together.

    Returns:
        By picture what lies over it.
    """
    texts = _lasting_texts(pictures)
    marks = _lasting_marks(pictures)
    found = {}
    for picture in pictures:
        lasting = {box.text: share for box, share in texts[picture.id]}
        found[picture.id] = _judge(picture, lasting, marks[picture.id])
    return {
        picture.id: _with_clean(picture, found, pictures) for picture in pictures
    }  # fmt: skip


def _judge(picture: Seen, texts: Mapping[str, float], marks: Mapping[str, float]) -> Overlays:
    lasting = {**texts, **marks}
    sure = [box for box in picture.boxes if _is_text(box) and box.text not in texts]
    outside = _outside(picture.content, sure)
    alone = outside < 0.05 * picture.content.size
    subtitles = tuple(box for box in sure if not alone and _is_subtitle(box))
    other = tuple(box for box in sure if box not in subtitles)
    letters = sum(box.area for box in other) * picture.content.size
    return Overlays(
        subtitle=max((box.score for box in subtitles), default=0.0),
        subtitles=subtitles,
        logo=max(lasting.values(), default=0.0),
        logos=tuple(sorted(lasting)),
        credits=letters / (letters + outside) if letters else 0.0,
        other=other,
    )


def _is_text(box: TextBox) -> bool:
    """Railings are read as "mmmm"."""
    return box.score >= _SURE and len(set(box.letters)) > 1


def _is_subtitle(box: TextBox) -> bool:
    """Low, and in the middle; lines of two words are off it by some letters."""
    across, down = box.centre
    return down > 0.75 and abs(across - 0.5) < 0.08 and box.bottom - box.top < 0.15


def _outside(content: Mask, boxes: Sequence[TextBox]) -> int:
    """Counts fields with something in them that is no text."""
    rows, columns = content.shape
    left = content.copy()
    for box in boxes:
        top, bottom = np.floor(box.top * rows - 0.25), np.ceil(box.bottom * rows + 0.25)
        start, end = np.floor(box.left * columns - 0.25), np.ceil(box.right * columns + 0.25)
        left[int(max(0, top)) : int(bottom), int(max(0, start)) : int(end)] = False
    return int(left.sum())


def _lasting_texts(pictures: Sequence[Seen]) -> dict[str, list[tuple[TextBox, float]]]:
    """By picture its texts that most shots have at the same place, with the shots' share."""
    places: dict[str, list[tuple[TextBox, set[str]]]] = defaultdict(list)
    for picture in pictures:
        for box in filter(_is_text, picture.boxes):
            near = (shots for at, shots in places[box.letters] if at.overlap(box) > 0.3)
            shots = next(near, None)
            if shots is None:
                places[box.letters].append((box, shots := set()))
            shots.add(picture.shot)
    count = len({picture.shot for picture in pictures})
    lasting: dict[str, list[tuple[TextBox, float]]] = {picture.id: [] for picture in pictures}
    if count < SHOTS:
        return lasting
    for picture in pictures:
        for box in filter(_is_text, picture.boxes):
            shots = next(shots for at, shots in places[box.letters] if at.overlap(box) > 0.3)
            if len(shots) >= count / 2:
                lasting[picture.id].append((box, len(shots) / count))
    return lasting


_CORNERS = (("upper left", "upper right"), ("lower left", "lower right"))


def _lasting_marks(pictures: Sequence[Seen]) -> dict[str, dict[str, float]]:
    """By picture the corners in which it shows a mark without letters, with the shots' share.

    The median gradient over many pictures keeps what they share; for edges that are there or not,
    this is the part of the shots that have one.
    """
    by_shot: dict[str, list[Seen]] = defaultdict(list)
    for picture in pictures:
        by_shot[picture.shot].append(picture)
    shown: dict[str, dict[str, float]] = {picture.id: {} for picture in pictures}
    if len(by_shot) < SHOTS:
        return shown
    often = np.zeros((2, 2, 2, *CORNER))  # [k, a, b, y, x]
    for shot in by_shot.values():
        often += np.mean([p.corners for p in shot], axis=0) / len(by_shot)
    for a, b in np.ndindex(2, 2):
        mark = _mark(often[:, a, b].clip(0, 1), len(by_shot))
        if mark is None:
            continue
        ids = {p.id for p in pictures if p.corners[:, a, b][mark].mean() >= _SEEN}
        share = sum(any(p.id in ids for p in shot) for shot in by_shot.values()) / len(by_shot)
        for picture in ids:
            shown[picture][_CORNERS[a][b]] = share
    return shown


def _mark(often: NDArray[np.float64], shots: int) -> Mask | None:
    """Edges [k, y, x] that stay in a corner, unless they are few, or scattered."""
    common = often.mean((1, 2), keepdims=True)
    chance = common + _CHANCE * np.sqrt(common * (1 - common) / shots)
    stays = often >= np.clip(chance, _STAYS, 1) - 1e-9  # sums of thirds are not quite one
    _, y, x = np.nonzero(stays)
    if len(y) < _LEAST:
        return None
    # The outermost tenth may be chance.
    (top, bottom), (left, right) = np.percentile(y, (10, 90)), np.percentile(x, (10, 90))
    box = (bottom - top + 1) * (right - left + 1)
    return stays if len(y) >= _FILLED * box and box <= stays[0].size / 2 else None


def _with_clean(picture: Seen, found: Mapping[str, Overlays], pictures: Sequence[Seen]) -> Overlays:
    """Adds the pictures of the same shot that show the same drawing without a subtitle."""
    here = found[picture.id]
    if not here.subtitles:
        return here
    clean = tuple(
        other.id
        for other in pictures
        if other.shot == picture.shot
        and not found[other.id].subtitles
        and _same_drawing(picture, other)
    )
    return Overlays(**{**here.__dict__, "clean": clean})


def _same_drawing(subtitled: Seen, other: Seen) -> bool:
    """Whether two thumbnails are one but for the text in the first."""
    rows, columns = THUMBNAIL
    difference = np.abs(subtitled.thumbnail.astype(np.float32) - other.thumbnail)
    for box in subtitled.boxes:
        top, bottom = int(box.top * rows) - 1, int(np.ceil(box.bottom * rows)) + 1
        left, right = int(box.left * columns) - 1, int(np.ceil(box.right * columns)) + 1
        difference[max(0, top) : bottom, max(0, left) : right] = 0
    fields = difference.reshape(rows // 4, 4, columns // 4, 4).mean((1, 3))
    return bool(fields.max() < _SAME)
