"""Compares many pairs of pictures, with the thumbnails read in blocks and a bounded memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tqdm import tqdm

from .clusters import Edge
from .fingerprint import Summary, Thumbnail, thumbnails
from .kinds import kind_of
from .ledger import Picture
from .likeness import compare
from .work import Work

BLOCK = 512  # pairs whose thumbnails are read at once; at most 80 MB
REMEMBERED = 2048  # thumbnails, 80 kB each


class Comparer:
    """Names the kinds of pairs of pictures."""

    def __init__(self, work: Work, prints: dict[str, Summary], pictures: Sequence[Picture]) -> None:
        self._work = work
        self._settings = work.config.dedup
        self._prints = prints
        self._sources = {picture.id: picture.source for picture in pictures}
        self._shots = {picture.id: shot_of(picture) for picture in pictures}
        self._thumbnails: OrderedDict[str, Thumbnail] = OrderedDict()
        self._threads = work.config.run.threads or os.cpu_count() or 1
        self.compared = 0

    def compare(self, one: str, other: str, mirrored: bool = False) -> Edge | None:
        """Names what one pair has to do with each other; None for different pictures."""
        return self.compare_all([(one, other)], mirrored).get((one, other))

    def compare_all(
        self, pairs: Sequence[tuple[str, str]], mirrored: bool = False, name: str = ""
    ) -> dict[tuple[str, str], Edge]:
        """Names the kinds of pairs; those of different pictures are left out.

        Args:
            pairs: of pictures.
            mirrored: compare with the second one's mirror image.
            name: of the progress bar; without, none is shown.
        """
        found: dict[tuple[str, str], Edge] = {}
        with (
            _one_thread_each(),
            ThreadPoolExecutor(self._threads) as pool,
            tqdm(total=len(pairs), desc=name, unit="pair", disable=not name) as bar,
        ):
            for start in range(0, len(pairs), BLOCK):
                block = pairs[start : start + BLOCK]
                self._read(picture for pair in block for picture in pair)
                edges = pool.map(lambda pair: self._edge(pair[0], pair[1], mirrored), block)
                found.update(
                    (pair, edge)
                    for pair, edge in zip(block, edges, strict=True)
                    if edge is not None
                )
                bar.update(len(block))
        self.compared += len(pairs)
        return found

    def _edge(self, one: str, other: str, mirrored: bool) -> Edge | None:
        same_source = self._sources[one] == self._sources[other]
        if not mirrored and self._prints[one].pixels == self._prints[other].pixels:
            return Edge("exact" if same_source else "across")
        there = self._thumbnails[other]
        like = compare(
            self._thumbnails[one], there.mirrored() if mirrored else there,
            self._settings.expression_change,
        )  # fmt: skip
        shot = self._shots[one]
        same_shot = shot is not None and shot == self._shots[other]
        kind = kind_of(like, same_source, same_shot, self._settings)
        if mirrored:
            kind = "mirrored" if kind in ("held", "across", "camera") else None
        if kind is None:
            return None
        texted = (one if like.strokes > 1 else other) if kind == "subtitled" else ""
        return Edge(kind, like, texted)

    def _read(self, wanted: Iterable[str]) -> None:
        names = list(dict.fromkeys(wanted))
        for name in names:
            if name in self._thumbnails:
                self._thumbnails.move_to_end(name)
        missing = [name for name in names if name not in self._thumbnails]
        self._thumbnails.update(thumbnails(self._work.ledger, missing))
        while len(self._thumbnails) > max(REMEMBERED, len(names)):
            self._thumbnails.popitem(last=False)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keeps OpenCV from dividing pictures this small among threads of its own."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def shot_of(picture: Picture) -> tuple[str, str] | None:
    """Names a picture's shot; None for a picture from a folder."""
    shot = picture.provenance.get("shot")
    return None if shot is None else (picture.source, str(shot))
