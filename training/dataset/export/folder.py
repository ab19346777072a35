"""Writes an export's folder whole or not at all, and says whether it is whole.

It is built beside its place, under a hidden name, and moved there at the end. Beside the files lies
checksums.sha256, which `sha256sum -c checksums.sha256` reads.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from animesketchnet_core.files import StorageError
from training.files import sha256_of

from ..images import PictureError
from ..ledger import Form
from .plan import Archive, Content, Plan

CHECKSUMS = "checksums.sha256"


def write_export(place: Path, plan: Plan, home: Path, link: bool, bar: bool = True) -> None:
    """Writes an export in place of what was there before.

    Args:
        place: the export's folder, such as exports/kohya.
        plan: what belongs into it.
        home: the data set's folder, where the pictures lie.
        link: hard links instead of copies.
        bar: show the progress.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
        PictureError: a picture is missing or not what the ledger says.
    """
    new = _beside(place, "new")
    try:
        recover(place)
        new.mkdir(parents=True)
        sums = {}
        names = tqdm(sorted(plan), desc=f"export {place.name}", unit="file", disable=not bar)
        for name in names:
            sums[name] = _write(new / name, plan[name], home, link)
        lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        _put(new / CHECKSUMS, lines.encode())
        _swap(new, place)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written ({error}). Make room on the disk, or make the folder "
            "writable; the export that was there before is unchanged."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def recover(place: Path) -> None:
    """Clears up after a process that was killed while it wrote an export."""
    old = _beside(place, "old")
    if old.exists() and not place.exists():  # killed between the two moves
        old.rename(place)
    for leftover in (old, _beside(place, "new")):
        if leftover.exists():
            shutil.rmtree(leftover)


def read_checksums(place: Path) -> dict[str, str]:
    """Lists {file: SHA-256} of an export; empty if there is none."""
    with suppress(FileNotFoundError):
        lines = (place / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return {}


def files_of(place: Path) -> set[str]:
    """Lists the files that lie in an export, but for the checksums."""
    files = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix() for path in files} - {CHECKSUMS}


def is_whole(place: Path) -> bool:
    """Whether an export has the files that it lists, and no others."""
    return (place / CHECKSUMS).is_file() and files_of(place) == read_checksums(place).keys()


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{what}")


def _swap(new: Path, place: Path) -> None:
    old = _beside(place, "old")
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, content: Content, home: Path, link: bool) -> str:
    """Writes one file; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Archive):
        _put_archive(path, content.members, home)
        return sha256_of(path)
    data = _bytes(content, home)
    if isinstance(content, Form) and link:
        _link(home / content.path, path)
    else:
        _put(path, data)
    return hashlib.sha256(data).hexdigest()


def _bytes(content: str | Form, home: Path) -> bytes:
    if isinstance(content, str):
        return content.encode()
    path = home / content.path
    data = path.read_bytes() if path.is_file() else b""
    found = hashlib.sha256(data).hexdigest()
    if found != content.sha256:
        raise PictureError(
            f"{path} is {f'another file (SHA-256 {found})' if data else 'missing'}; expected "
            f"SHA-256 {content.sha256}. {'Delete it and run' if data else 'Run'} build, which "
            "makes it again, or reject the picture in the review."
        )
    return data


def _put(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # so that the move at the end never overtakes the content


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError as error:
        raise StorageError(
            f"{source} cannot be linked ({error}); hard links need one file system that knows "
            'them. Set export.files = "copy".'
        ) from error


def _put_archive(path: Path, members: Mapping[str, str | Form], home: Path) -> None:
    """Packs a .tar that is the same, bit for bit, wherever and whenever it is packed."""
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in members.items():
                data = _bytes(content, home)
                entry = tarfile.TarInfo(name)  # owner, group and time are 0
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())
