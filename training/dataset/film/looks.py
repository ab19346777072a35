"""A film's frames as the search for shots sees them: small, with what changed since the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .colour import depth, planar, planes_of
from .films import Film, Shown
from .interlacing import is_combed
from .letterbox import Crop

if TYPE_CHECKING:
    from av import VideoFrame

Small = NDArray[np.uint8]
"""[h, WIDTH] grey, as coded."""

WIDTH = 256  # enough for a mouth that moves; PySceneDetect works at this size by default, too
ENOUGH = 540  # rows that the small picture is made from; of taller frames rows are left out
TILE = 8  # pixels of the small picture; a mouth fills one
WOVEN = 2  # combed frames in a row in a telecined film
BLANK = 3.0  # levels of deviation in the small picture; less is one colour

_KINDS = {1: "I", 2: "P", 3: "B"}


@dataclass(eq=False)
class Look:
    """One frame, small.

    Attributes:
        frame: as decoded.
        index: its number in the film, from 0.
        pts: its time.
        damaged: whether it was decoded from damaged data.
        lost: packets before it that could not be decoded.
        grey: its luma without the bars; in a telecined film's combed frames that of the frame
            before.
        colour: [h, w, 3] BGR, for the detector of cuts.
        blank: whether it is all of one colour.
        combed: whether two moments are woven into it.
        cut: whether a shot starts with it.
        mixing: whether it is part of a dissolve or fade.
        flash: whether it is one of a few frames that interrupt a shot.
    """

    frame: VideoFrame
    index: int
    pts: int
    damaged: bool
    lost: int
    grey: Small
    colour: Small
    blank: bool
    combed: bool
    cut: bool = False
    mixing: bool = False
    flash: bool = False

    @property
    def kind(self) -> str:
        """I, P, B, or "?"."""
        return _KINDS.get(int(self.frame.pict_type), "?")

    @property
    def stable(self) -> bool:
        """Whether it shows its shot and nothing else."""
        return not (self.mixing or self.flash or self.damaged or self.blank)


def looks(
    film: Film, frames: Iterable[Shown], crop: Crop, combs: bool, index: int = 0
) -> Iterator[Look]:
    """Looks at frames in order.

    Args:
        film: that they are from.
        frames: decoded.
        crop: what is left without the bars.
        combs: whether combed frames are to be expected.
        index: the first one's number in the film.
    """
    whole: tuple[Small, Small] | None = None
    woven = 0
    for number, shown in enumerate(frames, index):
        frame = planar(film, shown.frame)
        grey, colour = _small(frame, crop)
        combed = combs and is_combed(luma8(frame, crop))
        woven = woven + 1 if combed else 0
        if not combed:
            whole = grey, colour
        elif whole and woven <= WOVEN:  # half of it is the next drawing, and would hide a cut
            grey, colour = whole
        yield Look(
            frame=shown.frame,
            index=number,
            pts=int(shown.frame.pts or 0),
            damaged=shown.damaged,
            lost=shown.lost,
            grey=grey,
            colour=colour,
            blank=_deviation(grey) < BLANK,
            combed=combed,
        )


def tiles(a: Small, b: Small) -> NDArray[np.float32]:
    """The mean difference of each tile of two small pictures, in levels."""
    import cv2

    change = cv2.absdiff(a, b).astype(np.float32)
    size = max(1, a.shape[1] // TILE), max(1, a.shape[0] // TILE)
    return np.asarray(cv2.resize(change, size, interpolation=cv2.INTER_AREA), np.float32)


def luma8(frame: VideoFrame, crop: Crop | None = None) -> NDArray[np.uint8]:
    """The luma of a frame from `planar` as 8 bits, [h, w]."""
    left, top, right, bottom = crop or (0, 0, frame.width, frame.height)
    plane = planes_of(frame)[0][top:bottom, left:right]
    if depth(frame) == 8:
        return plane
    return (plane >> (depth(frame) - 8)).astype(np.uint8)


def sharpness(frame: VideoFrame, crop: Crop) -> float:
    """The mean of the Laplacian's magnitude, in 8-bit levels, at full size."""
    import cv2

    left, top, right, bottom = crop
    plane = planes_of(frame)[0][top:bottom, left:right]
    edges = cv2.Laplacian(plane, cv2.CV_16S if depth(frame) == 8 else cv2.CV_32F)
    return cv2.norm(edges, cv2.NORM_L1) / plane.size / 2 ** (depth(frame) - 8)


def _deviation(grey: Small) -> float:
    import cv2

    return float(cv2.meanStdDev(grey)[1][0, 0])


def _small(frame: VideoFrame, crop: Crop) -> tuple[Small, Small]:
    import cv2

    left, top, right, bottom = crop
    planes, shift = planes_of(frame), depth(frame) - 8
    step = max(1, (bottom - top) // ENOUGH)
    height, width = planes[0].shape
    size = WIDTH, max(TILE, round(WIDTH * (bottom - top) / (right - left)))
    parts: list[Small] = []
    for plane in planes:
        part = plane[
            top * plane.shape[0] // height : bottom * plane.shape[0] // height : step,
            left * plane.shape[1] // width : right * plane.shape[1] // width,
        ]
        shrunk: Any = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        parts.append((shrunk >> shift).astype(np.uint8))
    if len(parts) < 3:
        return parts[0], np.stack([parts[0]] * 3, axis=2)
    if frame.format.is_rgb:
        green, blue, red = parts
        return green, np.stack([blue, green, red], axis=2)
    # The detector compares frames with each other, so BT.601 at full range will do for all.
    luma, blue, red = parts
    colour = cv2.cvtColor(np.stack([luma, red, blue], axis=2), cv2.COLOR_YCrCb2BGR)
    return luma, np.asarray(colour, np.uint8)
