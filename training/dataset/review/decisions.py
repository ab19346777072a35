"""The log of what people decided: review.jsonl, one JSON object a line, appended and never changed.

    {"seq": 7, "group": 7, "size": 1, "id": "3fa9-12", "action": "reject", "value": "blurred",
     "before": "", "reviewer": "Mio", "time": "2025-11-25T17:09:01.250+00:00"}

`seq` counts the lines. Lines that belong together (a swap of two duplicates, a batch) have one
`group`, its first line's number, and count only if all `size` of them are there. An undo is a line
whose value is the number of the line that no longer counts. A line that a crash has cut short is
no JSON and is passed over; the next writer starts a new one after it. Several programs may write
at once: a file lock keeps them apart, and each reads what the others wrote before it adds its own.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock

from animesketchnet_core.files import StorageError

from ..final_texts import CAPTIONS

NAME = "review.jsonl"
VERDICTS = ("accept", "reject", "open")  # "open" takes a verdict back
ACTIONS = (*VERDICTS, *CAPTIONS)
TEXTS = ("id", "action", "value", "before", "reviewer", "time")
NUMBERS = ("seq", "group", "size")


@dataclass(frozen=True)
class Line:
    """A line of the log; see the top of this file."""

    seq: int
    group: int
    size: int
    id: str
    action: str
    value: str
    before: str
    reviewer: str
    time: str


@dataclass(frozen=True)
class Entry:
    """What a person wants written.

    Attributes:
        id: the picture's.
        action: one of ACTIONS.
        value: the reason of a rejection, or the new caption.
        before: what it replaces, for people who read the log.
        seen: the last `seq` of this picture that the person knew of; 0 for none.
    """

    id: str
    action: str
    value: str
    before: str
    seen: int


@dataclass(frozen=True)
class State:
    """What the log says of one picture.

    Attributes:
        last: its last line, undone or not.
        decided: the line with the verdict that counts, "accept" or "reject".
        captions: {name: line with the text} of those that were edited.
    """

    last: Line | None = None
    decided: Line | None = None
    captions: Mapping[str, Line] = field(default_factory=dict)

    @property
    def seq(self) -> int:
        """The number of the last line, 0 if there is none."""
        return self.last.seq if self.last else 0

    @property
    def verdict(self) -> str:
        """Either "accept", "reject", or "" where nobody has decided."""
        return self.decided.action if self.decided else ""


class ConflictError(ValueError):
    """Somebody else has decided on a picture since the reviewer looked.

    Attributes:
        pictures: the ids of those pictures.
    """

    def __init__(self, pictures: Sequence[str]) -> None:
        super().__init__(f"changed by somebody else meanwhile: {', '.join(pictures)}")
        self.pictures = list(pictures)


class DecisionLog:
    """The open log; may be used by several threads at once.

    Attributes:
        damaged: how many lines were passed over: cut short, or of a group that is not whole.
    """

    def __init__(self, folder: Path) -> None:
        """Reads what is there.

        Args:
            folder: the data set's.

        Raises:
            StorageError: the log cannot be read.
        """
        self.path = folder / NAME
        self.damaged = 0
        self._thread = threading.Lock()
        self._file = FileLock(folder / f".{NAME}.lock", thread_local=False)
        self._lines: list[Line] = []
        self._of: dict[str, list[Line]] = {}  # {picture: its lines}
        self._undone: set[int] = set()
        self._last = 0
        self._begun: list[Line] = []  # a group of which lines are still missing
        self._read = 0  # bytes
        self._torn = False  # the file does not end with a line's end
        self.refresh()

    def refresh(self) -> int:
        """Reads what other programs have written since; returns the last line's number."""
        with self._alone():
            return self._last

    def state(self, picture: str) -> State:
        """What counts of one picture, of all that was read."""
        return _fold(self._of.get(picture, ()), self._undone)

    def pictures(self, since: int = 0) -> list[str]:
        """Lists the pictures that have lines numbered above `since`, in order of their ids."""
        return sorted({line.id for line in self._lines if line.seq > since})

    def append(self, entries: Sequence[Entry], reviewer: str) -> list[Line]:
        """Writes decisions, all or none, and returns when they are on the disk.

        Raises:
            ConflictError: another line on one of the pictures is newer than what was seen.
            StorageError: they cannot be written.
        """
        with self._alone():
            known = [self._of.get(entry.id, []) for entry in entries]
            conflicts = [
                entry.id
                for entry, lines in zip(entries, known, strict=True)
                if (lines[-1].seq if lines else 0) != entry.seen
            ]
            if conflicts:
                raise ConflictError(conflicts)
            return self._write(entries, reviewer)

    def undo(self, reviewer: str) -> list[Line]:
        """Takes back the last thing that a reviewer did and has not undone; [] if there is none.

        Returns:
            the lines that no longer count.

        Raises:
            StorageError: it cannot be written.
        """
        with self._alone():
            for last in reversed(self._lines):
                mine = last.reviewer == reviewer and last.action != "undo"
                if mine and last.seq not in self._undone:
                    break
            else:
                return []
            undone = [line for line in self._lines if line.group == last.group]
            entries = [Entry(line.id, "undo", str(line.seq), line.action, 0) for line in undone]
            self._write(entries, reviewer)
            return undone

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other threads and programs out, with all read that they have written."""
        with self._thread, self._telling(), self._file:
            self._catch_up()
            yield

    def _catch_up(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        *whole, tail = data.split(b"\n")
        for line in whole:
            self._take(line)
        self._read += len(data) - len(tail)
        # Of a JSON object no beginning is one: a tail that can be read lacks its line's end only.
        if tail and _parsed(tail):
            self._take(tail)
            self._read += len(tail)
            tail = b""
            self._torn = True
        elif data:
            self._torn = bool(tail)

    def _take(self, text: bytes) -> None:
        line = _parsed(text)
        if line is None:
            self.damaged += bool(text.strip())
            return
        self._last = max(self._last, line.seq)
        if self._begun and self._begun[0].group != line.group:
            self.damaged += len(self._begun)
            self._begun = []
        self._begun.append(line)
        if len(self._begun) < line.size:
            return
        for each in self._begun:
            self._lines.append(each)
            self._of.setdefault(each.id, []).append(each)
            if each.action == "undo" and each.value.isdecimal() and len(each.value) < 20:
                self._undone.add(int(each.value))
        self._begun = []

    def _write(self, entries: Sequence[Entry], reviewer: str) -> list[Line]:
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        first, size = self._last + 1, len(entries)
        lines = [
            Line(first + k, first, size, e.id, e.action, e.value, e.before, reviewer, time)
            for k, e in enumerate(entries)
        ]
        texts = [json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines]
        new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write((("\n" if self._torn else "") + "".join(texts)).encode())
            file.flush()
            os.fsync(file.fileno())
        if new and os.name != "nt":  # Windows cannot open a folder
            _force_folder(self.path.parent)
        self._catch_up()
        return lines

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read or written ({error}). Make room on the disk, or make "
                "the folder writable; what was decided before is still there."
            ) from error


def _force_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parsed(text: bytes) -> Line | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or set(values) != {*TEXTS, *NUMBERS}:
        return None
    if not all(isinstance(values[name], str) for name in TEXTS):
        return None
    if not all(type(values[name]) is int and values[name] > 0 for name in NUMBERS):
        return None
    return Line(**values)


def _fold(lines: Sequence[Line], undone: set[int]) -> State:
    if not lines:
        return State()
    decided, captions = None, {}
    for line in lines:
        if line.seq in undone:
            continue
        if line.action in VERDICTS:
            decided = None if line.action == "open" else line
        elif line.action in CAPTIONS:
            captions[line.action] = line
    return State(lines[-1], decided, captions)
