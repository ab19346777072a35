"""Writes files whole or not at all, in folders that no other process writes into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class FolderError(RuntimeError):
    """A folder that cannot be worked in."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name, forces it to disk, then gives it its name.

    Whoever reads `path` sees the old content or the new, even if the process is killed.

    Args:
        path: the file's final name.
        write: writes the content to the path that it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        _force_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name != "nt":  # Windows cannot open a folder
        _force_to_disk(path.parent)


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps a second process out of it, until this one leaves or dies.

    Raises:
        FolderError: another process is in, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise FolderError(
            f"Another process is at work in {folder}. Wait for it, end it, or choose another "
            "folder."
        ) from None
    except OSError as error:
        raise FolderError(
            f"The folder {folder} cannot be written ({error}). Change its permissions or choose "
            "another."
        ) from error
    with held:
        yield


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed, in a folder and below it."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
