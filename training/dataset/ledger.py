"""The ledger: all that is known of each picture, and why it was kept or dropped, in one file.

    sources    films and folders, with their hashes
    pictures   where each came from: source, place in it, crop, colour tags
    decisions  what each stage found, with score and threshold
    forms      a picture's files: colour, sketch, adjusted, ...
    texts      its captions
    features   its fingerprints
    done       which stage has dealt with which item, under which settings

A stage writes all that it has to say of one item in one transaction, after the files are whole on
disk, so a kill at any moment costs the item in hand and nothing else. Several processes may write
at once. Nothing in it depends on their number or on the time of day.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from animesketchnet_core.files import StorageError

Verdict = Literal["keep", "drop", "review", "failed"]
"""`review`: goes on, but a person has to look at it. `failed`: could not be worked on."""


@dataclass(frozen=True)
class Source:
    """A film, or a folder of pictures.

    Attributes:
        id: short and unique, from its content.
        path: where it lies.
        kind: "film" or "folder".
        details: hash, streams, licence, ...
    """

    id: str
    path: str
    kind: Literal["film", "folder"]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """One picture of the data set to be.

    Attributes:
        id: unique, from the content of its source; letters, digits and "-" only.
        source: the source's id.
        place: orders the pictures of one source: a frame's pts, or a number in a folder.
        width: in pixels.
        height: in pixels.
        provenance: pts, time base, seconds, shot, crop, colour tags; or the file's name and hash.
    """

    id: str
    source: str
    place: int
    width: int
    height: int
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What a stage found out about an item, in one respect.

    Attributes:
        check: what was looked at, such as "blur"; unique within a stage.
        verdict: what follows.
        reason: a sentence for a person.
        score: what was measured.
        threshold: what it was compared with.
        details: whatever else explains it.
    """

    check: str
    verdict: Verdict
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A file of a picture.

    Attributes:
        path: within the data set's folder.
        sha256: of the file, in hex.
        details: how it was made: chosen levels, the network's name, ...
    """

    path: str
    sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """A caption of a picture.

    Attributes:
        text: the caption.
        details: who wrote it, the candidates and their scores.
    """

    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """All that a stage has to say of one item; each by its name."""

    decisions: Sequence[Decision] = ()
    forms: Mapping[str, Form] = field(default_factory=dict)
    texts: Mapping[str, Text] = field(default_factory=dict)
    features: Mapping[str, bytes] = field(default_factory=dict)


class LedgerError(ValueError):
    """A file that is no ledger, or one of another version."""


class Ledger:
    """The open SQLite file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Opens the ledger, or makes it.

        Raises:
            LedgerError: the file is something else, or of another version.
            StorageError: it cannot be written.
        """
        self.path = path
        with self._telling():
            path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_others(path)
            # Transactions are begun by hand, so that reading a version and making tables are one.
            self._db = sqlite3.connect(path, timeout=600, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        """Makes the tables, unless they are there."""
        self._write_ahead()
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not tables:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
            elif version != _VERSION:
                raise _other_version(self.path, version)

    def _write_ahead(self) -> None:
        """Switches to SQLite's WAL mode, again if another process is just about it.

        Of two that switch at once SQLite refuses one, and does not wait.
        """
        for tries in range(_MOST_TRIES):
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or tries + 1 == _MOST_TRIES:
                    raise
                time.sleep(0.05)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def add_source(self, source: Source) -> None:
        """Adds a source, or replaces what is known of it."""
        row = (source.id, source.path, source.kind, _json(source.details))
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)", row)

    def sources(self) -> list[Source]:
        """Lists the sources in order of their paths."""
        rows = self._rows("SELECT id, path, kind, details FROM sources ORDER BY path, id")
        return [Source(row[0], row[1], row[2], self._details(row[3])) for row in rows]

    def record(
        self,
        item: str,
        stage: str,
        digest: str,
        outcome: Outcome = Outcome(),
        pictures: Iterable[Picture] = (),
    ) -> None:
        """Writes what a stage made of an item, in place of what it said before.

        Args:
            item: a picture's id, a source's id, a part of a source, such as "3fa9.../shot-12", or
                what a stage calls a result of many pictures.
            stage: the stage's name.
            digest: of the settings and the input; with another one the item is dealt with again.
            outcome: what was found and made.
            pictures: that the item brings into the data set.
        """
        with self._transaction():
            self._forget(item, stage)
            for picture in pictures:
                self._db.execute(
                    "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)",
                    (picture.id, picture.source, picture.place, picture.width, picture.height,
                     _json(picture.provenance)),
                )  # fmt: skip
            self._write(item, stage, outcome)
            self._db.execute("INSERT INTO done VALUES (?, ?, ?)", (item, stage, digest))

    def fail(self, item: str, stage: str, reason: str) -> None:
        """Writes that an item could not be worked on; the next run tries it again."""
        with self._transaction():
            self._forget(item, stage)
            self._write(item, stage, Outcome([Decision("input", "failed", reason)]))

    def forget(self, item: str, stage: str) -> None:
        """Takes back all that a stage said of an item."""
        with self._transaction():
            self._forget(item, stage)

    def place_pictures(self, places: Mapping[str, int]) -> None:
        """Changes the order of a source's pictures; {id: place}."""
        with self._transaction():
            for picture, place in places.items():
                self._db.execute("UPDATE pictures SET place = ? WHERE id = ?", (place, picture))

    def remove_pictures(self, ids: Iterable[str]) -> None:
        """Takes pictures out, with all that was said of them; their files stay."""
        with self._transaction():
            for picture in ids:
                self._db.execute("DELETE FROM pictures WHERE id = ?", (picture,))
                for table in _TABLES:
                    self._db.execute(f"DELETE FROM {table} WHERE item = ?", (picture,))

    def remove_source(self, source: str) -> None:
        """Takes a source out, and all that was said of it and its parts; pictures first."""
        with self._transaction():
            self._db.execute("DELETE FROM sources WHERE id = ?", (source,))
            for table in _TABLES:
                self._db.execute(
                    f"DELETE FROM {table} WHERE item = ? OR substr(item, 1, ?) = ?",
                    (source, len(source) + 1, f"{source}/"),
                )

    def digests(self, stage: str) -> dict[str, str]:
        """Lists {item: digest} of what a stage has dealt with."""
        return dict(self._rows("SELECT item, digest FROM done WHERE stage = ?", stage))

    def pictures(self) -> list[Picture]:
        """Lists all pictures, dropped ones too, in order of their sources and places."""
        rows = self._rows(
            "SELECT id, source, place, width, height, provenance FROM pictures "
            "ORDER BY source, place, id"
        )
        return [
            Picture(row[0], row[1], row[2], row[3], row[4], self._details(row[5])) for row in rows
        ]

    def kept(self, stages: Sequence[str]) -> list[Picture]:
        """Lists the pictures that none of these stages dropped or failed at, in order.

        What a person said in the review counts more than what the other stages say.
        """
        marks = ", ".join("?" * len(stages))
        dropped = {
            row[0]
            for row in self._rows(
                "SELECT item FROM decisions WHERE verdict IN ('drop', 'failed') "
                f"AND stage IN ({marks})", *stages,
            )
        }  # fmt: skip
        restored = {
            row[0]
            for row in self._rows(
                "SELECT item FROM decisions WHERE stage = 'review' AND verdict = 'keep'"
            )
        }
        failed = {
            row[0]
            for row in self._rows(
                f"SELECT item FROM decisions WHERE verdict = 'failed' AND stage IN ({marks})",
                *stages,
            )
        }
        gone = (dropped - restored) | failed
        return [picture for picture in self.pictures() if picture.id not in gone]

    def decisions(self, item: str | None = None) -> list[tuple[str, str, Decision]]:
        """Lists (item, stage, decision) of one item, or of all, in order of items and stages."""
        where, arguments = ("WHERE item = ?", (item,)) if item is not None else ("", ())
        rows = self._rows(
            'SELECT item, stage, "check", verdict, reason, score, threshold, details '
            f'FROM decisions {where} ORDER BY item, stage, "check"', *arguments,
        )  # fmt: skip
        return [
            (
                item,
                stage,
                Decision(check, verdict, reason, score, threshold, self._details(details)),
            )
            for item, stage, check, verdict, reason, score, threshold, details in rows
        ]

    def forms(self, name: str) -> dict[str, Form]:
        """Lists {picture: file} of one form, such as "sketch"."""
        rows = self._rows("SELECT item, path, sha256, details FROM forms WHERE name = ?", name)
        return {row[0]: Form(row[1], row[2], self._details(row[3])) for row in rows}

    def forms_of(self, item: str) -> dict[str, Form]:
        """Lists {name: file} of one picture."""
        rows = self._rows("SELECT name, path, sha256, details FROM forms WHERE item = ?", item)
        return {row[0]: Form(row[1], row[2], self._details(row[3])) for row in rows}

    def files(self, stage: str) -> dict[str, list[str]]:
        """Lists {picture: paths} of the files that a stage has made."""
        found: dict[str, list[str]] = {}
        for item, path in self._rows("SELECT item, path FROM forms WHERE stage = ?", stage):
            found.setdefault(item, []).append(path)
        return found

    def texts(self, name: str) -> dict[str, Text]:
        """Lists {picture: text} of one kind, such as "caption"."""
        rows = self._rows("SELECT item, text, details FROM texts WHERE name = ?", name)
        return {row[0]: Text(row[1], self._details(row[2])) for row in rows}

    def texts_of(self, item: str) -> dict[str, Text]:
        """Lists {name: text} of one picture."""
        rows = self._rows("SELECT name, text, details FROM texts WHERE item = ?", item)
        return {row[0]: Text(row[1], self._details(row[2])) for row in rows}

    def features(self, name: str, items: Sequence[str] | None = None) -> dict[str, bytes]:
        """Lists {picture: bytes} of one kind of fingerprint, of all pictures or of some."""
        if items is None:
            return dict(self._rows("SELECT item, value FROM features WHERE name = ?", name))
        found: dict[str, bytes] = {}
        for start in range(0, len(items), 500):  # SQLite of 2019 takes 999 values in a query
            part = items[start : start + 500]
            marks = ", ".join("?" * len(part))
            query = f"SELECT item, value FROM features WHERE name = ? AND item IN ({marks})"
            found.update(self._rows(query, name, *part))
        return found

    def _forget(self, item: str, stage: str) -> None:
        for table in _TABLES:
            self._db.execute(f"DELETE FROM {table} WHERE item = ? AND stage = ?", (item, stage))

    def _write(self, item: str, stage: str, outcome: Outcome) -> None:
        for d in outcome.decisions:
            row = (item, stage, d.check, d.verdict, d.reason, d.score, d.threshold,
                   _json(d.details))  # fmt: skip
            self._db.execute("INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        for name, form in outcome.forms.items():
            row = (item, stage, name, form.path, form.sha256, _json(form.details))
            self._db.execute("INSERT INTO forms VALUES (?, ?, ?, ?, ?, ?)", row)
        for name, text in outcome.texts.items():
            row = (item, stage, name, text.text, _json(text.details))
            self._db.execute("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", row)
        for name, value in outcome.features.items():
            self._db.execute("INSERT INTO features VALUES (?, ?, ?, ?)", (item, stage, name, value))

    def _rows(self, query: str, *arguments: Any) -> list[Any]:
        with self._telling():
            return self._db.execute(query, arguments).fetchall()

    def _details(self, text: Any) -> dict[str, Any]:
        try:
            details = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(error) from error
        if not isinstance(details, dict):
            raise self._damaged(f"{text[:80]!r} where details belong")
        return details

    def _damaged(self, error: object) -> LedgerError:
        return LedgerError(
            f"{self.path} is no ledger of a data set, or a damaged one ({error}). Choose "
            "another run.output."
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._telling():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if str(error).startswith(("no such", "Could not decode")):
                raise self._damaged(error) from error
            raise StorageError(
                f"{self.path} cannot be written or read ({error}). Make room on the disk, or make "
                "the folder writable; the same command goes on where it stopped."
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read or written ({error}). Make the folder writable, or "
                "choose another run.output."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error


_MOST_TRIES = 100  # to switch the mode, in five seconds


def _refuse_others(path: Path) -> None:
    """Refuses another program's file by its head, before SQLite writes into it.

    https://www.sqlite.org/fileformat2.html, 1.3 and 1.6: what is in the head may be old while
    there is a -wal file.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(105)
    if head and not head.startswith(b"SQLite format 3\0"):
        raise LedgerError(
            f"{path} is no ledger of a data set (it begins with {head[:16]!r}). Choose another "
            "run.output."
        )
    version, tables = (int.from_bytes(head[a:b], "big") for a, b in ((60, 64), (103, 105)))
    if tables and version != _VERSION and not path.with_name(f"{path.name}-wal").exists():
        raise _other_version(path, version)


def _other_version(path: Path, version: int) -> LedgerError:
    return LedgerError(
        f"{path} is a ledger of version {version}; this program reads {_VERSION}. Choose another "
        "run.output, or the program that made it."
    )


_VERSION = 1
_TABLES = ("decisions", "forms", "texts", "features", "done")
_SCHEMA = f"""
CREATE TABLE sources (id TEXT PRIMARY KEY, path TEXT, kind TEXT, details TEXT);
CREATE TABLE pictures (id TEXT PRIMARY KEY, source TEXT, place INTEGER, width INTEGER,
    height INTEGER, provenance TEXT);
CREATE TABLE decisions (item TEXT, stage TEXT, "check" TEXT, verdict TEXT, reason TEXT, score REAL,
    threshold REAL, details TEXT, PRIMARY KEY (item, stage, "check"));
CREATE TABLE forms (item TEXT, stage TEXT, name TEXT, path TEXT, sha256 TEXT, details TEXT,
    PRIMARY KEY (item, name));
CREATE TABLE texts (item TEXT, stage TEXT, name TEXT, text TEXT, details TEXT,
    PRIMARY KEY (item, name));
CREATE TABLE features (item TEXT, stage TEXT, name TEXT, value BLOB, PRIMARY KEY (item, name));
CREATE TABLE done (item TEXT, stage TEXT, digest TEXT, PRIMARY KEY (item, stage));
PRAGMA user_version = {_VERSION}
"""


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
