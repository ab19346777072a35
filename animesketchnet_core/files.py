"""Writes files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor


class StorageError(OSError):
    """A file or folder that cannot be written."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of what fails in the block which file it was, and what can be done.

    Raises:
        StorageError: in place of what the system, safetensors or torch say.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last
        raise StorageError(
            f"{path} cannot be written ({error}). Make room on the disk, or make the folder "
            "writable; what was there before is unchanged."
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name, forces it to disk, then gives it its name.

    Whoever reads `path` sees the old content or the new, even if the process is killed.

    Args:
        path: the file's final name.
        write: writes the content to the path that it is given.

    Raises:
        StorageError: it cannot; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            write(temporary)
            _force_to_disk(temporary)
            temporary.replace(path)
            if os.name != "nt":  # Windows cannot open a folder
                _force_to_disk(path.parent)
    finally:
        with suppress(OSError):  # a disk that has become read-only
            temporary.unlink(missing_ok=True)


def write_safetensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors as `write_atomically` does, by way of memory.

    Safetensors' save_file makes a temporary file of its own, which a kill leaves behind, and lets
    nobody else read the result.

    Args:
        path: the file's final name.
        tensors: contiguous, none sharing memory with another.
        metadata: of the file's header.

    Raises:
        StorageError: it cannot; the old content is still there.
    """
    content = save(tensors, metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
