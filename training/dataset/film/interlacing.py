"""Combed frames: two moments woven into one picture, every other line from each.

A telecined film (24 frames a second made 30) has two combed frames in five, and the other three
are whole. A film shot interlaced is combed wherever something moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .films import Film, Shown

if TYPE_CHECKING:
    from av.filter import Graph

Luma = NDArray[np.uint8]
"""[h, w], 8 bits."""

LINES = 1152  # nothing taller is interlaced: 1,080 lines is the tallest interlaced format
SPIKE = 10  # levels by which a line lies above or below both its neighbours
BLOCK = 16  # pixels, as FFmpeg's fieldmatch has it
PART = 0.25  # of a block's pixels that are combed; fieldmatch takes 80 of 256


def combing(luma: Luma) -> float:
    """Measures how combed a frame is, where it is worst.

    A pixel is combed if it lies above both its neighbours in the column, or below both, and its
    own field goes on smoothly. Thin lines fail the second.

    Args:
        luma: [h, w] at full height.

    Returns:
        The largest part, in [0, 1], of a block's pixels that are combed.
    """
    import cv2

    height, width = luma.shape
    if height > LINES or height < 4 * BLOCK or width < BLOCK:
        return 0.0
    here, up, down = luma[2:-2], luma[1:-3], luma[3:-1]
    above = cv2.min(cv2.subtract(here, up), cv2.subtract(here, down))
    below = cv2.min(cv2.subtract(up, here), cv2.subtract(down, here))
    spike = cv2.max(above, below)
    field = cv2.max(cv2.absdiff(here, luma[:-4]), cv2.absdiff(here, luma[4:]))
    # Twice the field's change must stay below the spike, which saturates at 0 otherwise.
    clear = cv2.subtract(spike, cv2.add(field, field))
    _, combed = cv2.threshold(clear, SPIKE, 1, cv2.THRESH_BINARY)
    rows, columns = combed.shape[0] // BLOCK, combed.shape[1] // BLOCK
    blocks = combed[: rows * BLOCK, : columns * BLOCK].astype(np.float32)
    parts = cv2.resize(blocks, (columns, rows), interpolation=cv2.INTER_AREA)
    return float(parts.max())


def is_combed(luma: Luma) -> bool:
    """Whether a frame is combed anywhere."""
    return combing(luma) > PART


def deinterlaced(film: Film, frames: Iterable[Shown]) -> Iterator[Shown]:
    """Makes whole frames of woven ones, with FFmpeg's bwdif; one frame each, at its time."""
    from av.filter import Graph

    graph: Graph | None = None
    given: dict[int, Shown] = {}
    for shown in frames:
        frame = shown.frame
        if graph is None:
            graph = Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format,
                time_base=film.time_base,
            )  # fmt: skip
            bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=all")
            sink = graph.add("buffersink")
            source.link_to(bwdif)
            bwdif.link_to(sink)
            graph.configure()
        given[int(frame.pts or 0)] = shown
        graph.push(frame)
        yield from _pulled(film, graph, given)
    if graph is not None:
        graph.push(None)
        yield from _pulled(film, graph, given)


def _pulled(film: Film, graph: Graph, given: dict[int, Shown]) -> Iterator[Shown]:
    from av import VideoFrame
    from av.error import BlockingIOError, EOFError

    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        if isinstance(frame, VideoFrame) and frame.pts is not None and frame.time_base:
            # bwdif counts in halves, for the fields.
            frame.pts = round(frame.pts * frame.time_base / film.time_base)
            if frame.pts in given:
                yield replace(given.pop(frame.pts), frame=frame)
