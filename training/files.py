"""Writes files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


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
