"""Finds shots: cuts by PySceneDetect, dissolves, fades and flashes by what surrounds a frame.

A frame's marks follow from the frames near it alone (`lag` of them on either side), and a shot
knows nothing of the one before. So a film can be taken up again at any shot with the same result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from ..config import FramesSettings
from .looks import Look, Small, tiles

CHANGED = 12.0  # levels; a tile that changes by more shows something else
MOST = 0.5  # of the tiles show something else after a cut or a dissolve
FEWER = 0.1  # do after a cut before one background, if all stands still around it
QUIET = 5  # frames around such a cut; movements on twos and threes have others within them
SAME = 0.3  # of the tiles at most do when a flash is over; characters may have moved

APART = 3  # frames before and after, between which a dissolve is even
MIXED = 0.25  # of the change is what a dissolve may be off its even course; motion is off by half
SLIGHT = 1.0  # levels of change over 2 * APART frames; less is noise
RUN = 4  # even frames in a row make a dissolve
EDGE = APART  # frames at its ends that cannot be told, left out with it

STEADY = 0.6  # what is left of a change once a camera's move is taken out, if it is no cut
FAR = 1 / 12  # of the width or height that a camera moves in one step; a farther one is a cut
FLASH = 1 / 3  # seconds a flash lasts at most


def lag(fps: float) -> int:
    """Frames on either side that a frame's marks follow from."""
    return max(EDGE + RUN + APART, _flash(fps), QUIET)


def marked(looks: Iterable[Look], settings: FramesSettings, fps: float) -> Iterator[Look]:
    """Marks cuts, dissolves, fades and flashes, `lag` frames later."""
    return _Marks(settings, fps).run(looks)


def changed(a: Small, b: Small) -> float:
    """The part, in [0, 1], of a small picture that shows something else."""
    return float((tiles(a, b) > CHANGED).mean())


class _Marks:
    """Small pictures and measures around the frame whose marks are to be found, by number."""

    def __init__(self, settings: FramesSettings, fps: float) -> None:
        self._lag, self._flash = lag(fps), _flash(fps)
        self._detector = _Detector(settings)
        self._greys: dict[int, Small] = {}
        self._changed: dict[int, float] = {}  # since the frame before
        self._even: dict[int, bool] = {}
        self._found: dict[int, bool] = {}  # by the detector
        self._flashes: dict[int, int] = {}  # first frame: the one after the last
        self._cuts: dict[int, bool] = {}

    def run(self, looks: Iterable[Look]) -> Iterator[Look]:
        ahead: deque[Look] = deque()
        for look in looks:
            self._see(look)
            ahead.append(look)
            if len(ahead) > self._lag:
                yield self._mark(ahead.popleft())
        yield from (self._mark(look) for look in ahead)

    def _see(self, look: Look) -> None:
        self._greys[look.index] = look.grey
        before = self._greys.get(look.index - 1)
        self._changed[look.index] = 0.0 if before is None else changed(before, look.grey)
        self._found.update((index, True) for index in self._detector.cuts(look))
        middle = look.index - APART
        three = [self._greys.get(middle + step) for step in (-APART, 0, APART)]
        if all(grey is not None for grey in three):
            self._even[middle] = is_even(*three)  # type: ignore[arg-type]
        past = look.index - 2 * self._lag - 1
        for kept in (self._greys, self._changed, self._even, self._found, self._flashes,
                     self._cuts):  # fmt: skip
            kept.pop(past, None)

    def _mark(self, look: Look) -> Look:
        index = look.index
        self._cuts[index] = self._found.get(index, False) and self._is_cut(index)
        if self._cuts[index] and (end := self._flash_end(index)):
            self._flashes[index] = end
        spans = self._flashes.items()
        look.flash = any(first <= index < end for first, end in spans)
        look.cut = self._cuts[index] and not any(first <= index <= end for first, end in spans)
        runs = range(index - EDGE - RUN + 1, index + EDGE + 1)
        look.mixing = any(all(self._even.get(s + n, False) for n in range(RUN)) for s in runs)
        return look

    def _is_cut(self, index: int) -> bool:
        before, here = self._greys.get(index - 1), self._greys[index]
        part = self._changed[index]
        if before is None or part < FEWER or is_move(before, here):
            return False
        around = [n for n in range(index - QUIET, index + QUIET + 1) if n != index]
        return part >= MOST or part > 3 * max(self._changed.get(n, 0.0) for n in around)

    def _flash_end(self, cut: int) -> int | None:
        """The frame after a cut where the picture before it is back."""
        before = self._greys[cut - 1]
        for end in range(cut + 1, cut + self._flash + 1):
            after = self._greys.get(end)
            if after is not None and changed(before, after) <= min(SAME, self._changed[cut] / 3):
                return end
        return None


class _Detector:
    """PySceneDetect's AdaptiveDetector, fed by us."""

    def __init__(self, settings: FramesSettings) -> None:
        from scenedetect import AdaptiveDetector

        self._inner = AdaptiveDetector(
            adaptive_threshold=settings.cut_ratio,
            min_content_val=settings.cut_content,
            min_scene_len=0,  # a length would make a cut depend on the one before
        )

    def cuts(self, look: Look) -> list[int]:
        """The frames that it finds cuts at, some frames behind."""
        from scenedetect import FrameTimecode

        # It wants a rate, but counts frames.
        found = self._inner.process_frame(FrameTimecode(look.index, 24.0), look.colour)
        return [time.frame_num for time in found]


def is_even(before: Small, here: Small, after: Small) -> bool:
    """Whether a frame is the mean of two others that differ: part of a dissolve or fade."""
    import cv2

    change = float(cv2.absdiff(before, after).mean())
    if change < SLIGHT:
        return False
    mean = cv2.addWeighted(before, 0.5, after, 0.5, 0)
    return float(cv2.absdiff(mean, here).mean()) < MIXED * change


def is_move(before: Small, after: Small) -> bool:
    """Whether a camera's move explains a change: the same picture, shifted."""
    import cv2

    a, b = before.astype(np.float32), after.astype(np.float32)
    (right, down), _ = cv2.phaseCorrelate(a, b)
    height, width = before.shape
    x, y = round(abs(right)), round(abs(down))
    if x > FAR * width or y > FAR * height:
        return False
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(a, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
    inner = np.s_[y : height - y, x : width - x]  # what came in at the edge was not there
    return bool(np.abs(moved - b)[inner].mean() < STEADY * np.abs(a - b)[inner].mean())


def _flash(fps: float) -> int:
    return max(2, min(round(FLASH * fps), 20))
