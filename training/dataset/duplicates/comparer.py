"""Compares many pairs of pictures, in blocks, and in as many processes as there are processors."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from tqdm import tqdm

from ..config import DedupSettings
from ..fingerprint import Summary, thumbnails
from ..ledger import Ledger, Picture
from ..work import Work
from .clusters import Edge
from .kinds import kind_of
from .likeness import compare

BLOCK = 256  # pairs whose thumbnails are read at once; at most 40 MB
MANY = 4096  # pairs from which on other processes are worth the seconds that they take to start

Pair = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """A pair of pictures, with what is known of it."""

    one: str
    other: str
    same_source: bool
    same_shot: bool


Name = Callable[[Sequence[Task]], list[Edge | None]]
"""Names what the pairs of a block have to do with each other; None for different pictures."""


class Comparer:
    """Names the kinds of pairs of pictures.

    Attributes:
        compared: how many pairs were.
    """

    def __init__(
        self, work: Work, prints: Mapping[str, Summary], pictures: Sequence[Picture]
    ) -> None:
        self._ledger = work.ledger
        self._settings = work.config.dedup
        self._processes = work.config.run.threads or os.cpu_count() or 1
        self._prints = prints
        self._sources = {picture.id: picture.source for picture in pictures}
        self._shots = {picture.id: shot_of(picture) for picture in pictures}
        self.compared = 0

    def compare(self, one: str, other: str) -> Edge | None:
        """Names what one pair has to do with each other; None for different pictures."""
        return self.compare_all([(one, other)]).get((one, other))

    def compare_all(
        self, pairs: Sequence[Pair], mirrored: bool = False, name: str = ""
    ) -> dict[Pair, Edge]:
        """Names the kinds of pairs; those of different pictures are left out.

        Args:
            pairs: of pictures.
            mirrored: compare with the second one's mirror image.
            name: of the progress bar; without, none is shown.
        """
        found: dict[Pair, Edge] = {}
        tasks = []
        for one, other in pairs:
            task = self._task(one, other)
            if not mirrored and self._prints[one].pixels == self._prints[other].pixels:
                found[one, other] = Edge("exact" if task.same_source else "across")
            else:
                tasks.append(task)
        blocks = [tasks[start : start + BLOCK] for start in range(0, len(tasks), BLOCK)]
        with (
            self._naming(len(tasks), mirrored) as named,
            tqdm(total=len(tasks), desc=name, unit="pair", disable=not name) as bar,
        ):
            for block, edges in zip(blocks, named(blocks), strict=True):
                for task, edge in zip(block, edges, strict=True):
                    if edge is not None:
                        found[task.one, task.other] = edge
                bar.update(len(block))
        self.compared += len(pairs)
        return found

    def _task(self, one: str, other: str) -> Task:
        shot = self._shots[one]
        return Task(
            one, other, self._sources[one] == self._sources[other],
            shot is not None and shot == self._shots[other],
        )  # fmt: skip

    @contextmanager
    def _naming(
        self, count: int, mirrored: bool
    ) -> Iterator[Callable[[Iterable[Sequence[Task]]], Iterator[list[Edge | None]]]]:
        """Gives what names all blocks, in order."""
        if count < MANY or self._processes == 1:
            with _one_thread():
                yield partial(map, partial(_named, self._ledger, self._settings, mirrored))
            return
        # Spawned, for a fork of a process that has threads, as torch's, may hang.
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._processes, spawning) as pool:
            there = partial(_named_there, self._ledger.path, self._settings, mirrored)
            yield partial(pool.map, there)


def _named_there(
    path: Path, settings: DedupSettings, mirrored: bool, block: Sequence[Task]
) -> list[Edge | None]:
    """Names a block's pairs in another process, which opens the ledger once."""
    with _one_thread():
        return _named(_opened(path), settings, mirrored, block)


@lru_cache(maxsize=1)
def _opened(path: Path) -> Ledger:
    return Ledger(path)


def _named(
    ledger: Ledger, settings: DedupSettings, mirrored: bool, block: Sequence[Task]
) -> list[Edge | None]:
    names = dict.fromkeys(name for task in block for name in (task.one, task.other))
    small = thumbnails(ledger, list(names))
    edges: list[Edge | None] = []
    for task in block:
        other = small[task.other].mirrored() if mirrored else small[task.other]
        like = compare(small[task.one], other, settings.expression_change)
        kind = kind_of(like, task.same_source, task.same_shot, settings)
        if mirrored:
            kind = "mirrored" if kind in ("held", "across", "camera") else None
        texted = ""
        if kind == "subtitled":
            texted = task.one if like.strokes > 1 else task.other
        edges.append(None if kind is None else Edge(kind, like, texted))
    return edges


@contextmanager
def _one_thread() -> Iterator[None]:
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
