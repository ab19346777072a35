"""Keeps a run's folder to one process, and clean; adds to its files; tells one from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from animesketchnet_core.files import StorageError, writing


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps a second process out of it, until this one leaves or dies.

    Raises:
        StorageError: another process is in, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise StorageError(
            f"Another process is at work in {folder}. Wait for it, end it, or choose another "
            "folder."
        ) from None
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be written ({error}). Change its permissions or choose "
            "another."
        ) from error
    with held:
        yield


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed, in a folder and below it."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)


def make_folder(folder: Path) -> Path:
    """Makes a folder, and those above it, unless it is there.

    Raises:
        StorageError: it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file; one that a kill or a full disk cut short is ended before.

    Raises:
        StorageError: it cannot be written.
    """
    with writing(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            line = line if file.read() == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())


def sha256_of(path: Path) -> str:
    """Hashes a file, in hex."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()
