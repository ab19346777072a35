"""Finds pictures and captions in the layouts that people have.

    metadata.jsonl, metadata.csv     in the folder (Hugging Face's ImageFolder)
    list.jsonl, list.csv, list.json  such a list by its own name; .json: an array of objects, as
                                     tencent-ailab/IP-Adapter's trainer reads
    0001.png + 0001.txt (.caption)   captions beside the pictures, in subfolders too; a subfolder
                                     "12_name" counts 12 times, as in kohya's sd-scripts
    part-0.tar, ...                  WebDataset: 0001.png + 0001.txt or 0001.json in each

Lists may also name pictures that lie in uncompressed .tar files beside them. No name leads out of
the folder that was given.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

LISTS = ("metadata.jsonl", "metadata.csv")
LIST_SUFFIXES = (".jsonl", ".csv", ".json")
CAPTION_SUFFIXES = (".txt", ".caption")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
MOST_REPEATS = 10_000
_REPEATS = re.compile(r"(\d+)_")  # how kohya's folder names begin


class DataError(ValueError):
    """Training data that is missing, unreadable or incomplete."""


@dataclass(frozen=True)
class Record:
    """One picture, and what its source says about it.

    Attributes:
        picture: the file's path, or TAR/MEMBER.
        fields: the columns, such as {"text": "a girl"}.
        where: names the record in messages.
        folder: what file names in the fields start from.
        repeats: how often an epoch shows it.
    """

    picture: str
    fields: Mapping[str, Any]
    where: str
    folder: Path
    repeats: int = 1


class Pictures:
    """Picture files, loose or in uncompressed .tar files, opened by path."""

    def __init__(self) -> None:
        # Where packed files lie: as TAR/MEMBER and, for lists beside the tar, as FOLDER/MEMBER.
        self._packed: dict[str, tuple[Path, int, int]] = {}
        self._digests: dict[str, bytes] = {}

    def add_tar(self, path: Path) -> list[str]:
        """Makes a tar's files known; lists them as TAR/MEMBER.

        Raises:
            DataError: the file is compressed, cut short or no tar.
        """
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                members = [member for member in _members(archive, file) if member.isfile()]
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path} is not an uncompressed tar file ({error}). Unpack it, or pack it again "
                "with plain `tar -cf`."
            ) from error
        names = []
        for member in members:
            name = PurePosixPath(member.name.removeprefix("./"))
            if name.is_absolute() or ".." in name.parts:
                raise DataError(f"{path} holds {member.name!r}, a name that leads out of it.")
            place = (path, member.offset_data, member.size)
            self._packed[f"{path.as_posix()}/{name}"] = place
            self._packed[f"{path.parent.as_posix()}/{name}"] = place
            names.append(f"{path.as_posix()}/{name}")
        return names

    def __contains__(self, name: str) -> bool:
        try:
            return name in self._packed or Path(name).is_file()
        except OSError:  # a name that is too long
            return False

    def read(self, name: str) -> bytes:
        """Reads a file's bytes.

        Raises:
            DataError: it cannot be read.
        """
        try:
            if name not in self._packed:
                return Path(name).read_bytes()
            path, offset, size = self._packed[name]
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error}.") from error

    def digest(self, name: str) -> bytes:
        """SHA-256 of a file's bytes, computed once."""
        if name not in self._digests:
            self._digests[name] = hashlib.sha256(self.read(name)).digest()
        return self._digests[name]

    def size(self, name: str) -> tuple[int, int]:
        """A picture's height and width in pixels, the way up that it is shown.

        Raises:
            DataError: the file is no picture.
        """
        with self._decoding(name) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
            if turned and picture.format == "TIFF":  # Pillow turns these, at a time of its own
                picture.load()
                turned = False
            width, height = picture.size
            return (width, height) if turned else (height, width)

    def open(self, name: str) -> Tensor:
        """Decodes a picture.

        Returns:
            float32 [1, height, width, 4] in [0, 1], with transparency.

        Raises:
            DataError: the file is no picture, or a damaged one.
        """
        with self._decoding(name) as picture:
            upright = np.array(eight_bits(ImageOps.exif_transpose(picture)).convert("RGBA"))
        return torch.from_numpy(upright).float()[None].div_(255)

    @contextmanager
    def _decoding(self, name: str) -> Iterator[Image.Image]:
        content = self.read(name)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                yield picture
        except Exception as error:  # damage leads Pillow's decoders to errors of any type
            raise DataError(
                f"{name} cannot be read as a picture ({error}). Replace the file, or remove it "
                "from the data set."
            ) from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """Scales a grey picture of 16 bits or floats to 8, where Pillow would clip it; others stay.

    Floats have no agreed range: up to 1, or up to the picture's largest.

    Raises:
        ValueError: it holds NaN or infinite values.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.array(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    most = 65535.0 if picture.mode.startswith("I") else max(1.0, float(values.max()))
    return Image.fromarray((values / most * 255).round().clip(0, 255).astype(np.uint8))


def read_source(source: Path, pictures: Pictures, picture_column: str) -> list[Record]:
    """Lists a data set's pictures in a fixed order.

    Args:
        source: a folder, a list, or a .tar file.
        pictures: learns of the source's tar files.
        picture_column: the lists' column of file names.

    Raises:
        DataError: the source is missing, of no known layout, or wrong somewhere.
    """
    if source.is_dir():
        for name in LISTS:
            if (source / name).is_file():
                return _from_list(source / name, pictures, picture_column)
        if tars := sorted(source.glob("*.tar")):
            return [record for tar in tars for record in _from_tar(tar, pictures)]
        return _from_sidecars(source)
    if not source.exists():
        raise DataError(f"There is no {source}; the settings name it as a data set.")
    if source.suffix.lower() in LIST_SUFFIXES:
        return _from_list(source, pictures, picture_column)
    if source.suffix.lower() == ".tar":
        return _from_tar(source, pictures)
    raise DataError(
        f"{source} is no data set. Expected a folder, a list ({', '.join(LIST_SUFFIXES)}) or an "
        "uncompressed .tar file."
    )


def resolve(folder: Path, name: Any, where: str, column: str, pictures: Pictures) -> str:
    """Finds a picture that a column names.

    Raises:
        DataError: it is no text, leads out of the folder, or does not exist.
    """
    shown = repr(name)[:300]
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: {column} is {shown}; expected a file name.")
    relative = PurePosixPath(name.replace("\\", "/"))
    parts = relative.parts
    if relative.is_absolute() or not parts or ".." in parts or ":" in parts[0]:
        raise DataError(
            f"{where}: {column} is {shown}, which leads out of {folder}. Expected a name within "
            "that folder."
        )
    path = f"{folder.as_posix()}/{relative}"
    if path not in pictures:
        raise DataError(f"{where}: {column} is {shown}, and {folder} has no such file.")
    return path


def _members(archive: tarfile.TarFile, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Lists a tar's members; what Python's own reader passes over in silence is an error."""
    for member in archive:
        if member.issparse():
            raise tarfile.ReadError(f"{member.name} is a sparse file, which is not packed as it is")
        if archive.offset <= member.offset:  # a negative size: the same members without end
            raise tarfile.ReadError(f"{member.name} has a size that is none")
        yield member
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"it is damaged at byte {archive.offset:,}")


def _from_list(path: Path, pictures: Pictures, picture_column: str) -> list[Record]:
    folder = path.parent
    for tar in sorted(folder.glob("*.tar")):
        pictures.add_tar(tar)
    records = []
    for where, fields in _lines(path):
        if picture_column not in fields:
            raise DataError(
                f"{where} has no {picture_column!r}; it has "
                f"{', '.join(sorted(map(str, fields))) or 'nothing'}. data.picture_column names "
                "the column of file names."
            )
        picture = resolve(folder, fields[picture_column], where, picture_column, pictures)
        records.append(Record(picture, fields, where, folder))
    if not records:
        raise DataError(f"{path} lists no pictures.")
    return records


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads a list: (where, columns) of each entry."""
    text = _text(path.read_bytes(), str(path))
    if path.suffix.lower() == ".csv":
        for number, row in enumerate(_rows(text, path), 2):
            if None in row or None in row.values():
                raise DataError(f"{path}, line {number} has more or fewer columns than line 1.")
            yield f"{path}, line {number}", row
    elif path.suffix.lower() == ".json":
        entries = _json(text, str(path))
        if not isinstance(entries, list):
            raise DataError(f"{path} is no JSON array of objects with a file name and a text.")
        for number, entry in enumerate(entries, 1):
            yield _object(entry, f"{path}, entry {number}")
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield _object(_json(line, where), where)


def _rows(text: str, path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as CSV ({error}). Look for a quote that is not closed."
        ) from error


def _object(entry: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not a JSON object with a file name and a text.")
    return where, entry


def _json(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # no encoder takes half a character
        return value
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from error


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def _from_sidecars(folder: Path) -> list[Record]:
    """Pairs NAME.png with NAME.txt, in the folder and below it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise DataError(
            f"{folder} has no metadata.jsonl, no .tar file and no pictures. Expected one JSON "
            'object a line, for example {"file_name": "0001.png", "text": "a girl with long '
            'hair"}, or pictures with a .txt file beside each.'
        )
    captions = {path.with_suffix(""): path for path in files if path.suffix in CAPTION_SUFFIXES}
    silent = [str(path.relative_to(folder)) for path in found if _stem(path) not in captions]
    if silent:
        more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
        raise DataError(
            f"{folder}: no caption for {', '.join(silent[:3])}{more}. Write it into a file of the "
            "same name that ends in .txt, or list the pictures in metadata.jsonl."
        )
    records = []
    for path in found:
        caption = captions[_stem(path)]
        within = path.parent.relative_to(folder)
        repeats = next((m for part in within.parts[::-1] if (m := _REPEATS.match(part))), None)
        fields = {"text": _captions(caption.read_bytes(), caption), "folder": within.as_posix()}
        count = int(repeats[1]) if repeats else 1
        if count > MOST_REPEATS:
            raise DataError(
                f"{path.parent} begins with a number and so counts {count:,} times, as in kohya's "
                f"sd-scripts; at most {MOST_REPEATS:,} are read. Rename the folder."
            )
        records.append(Record(path.as_posix(), fields, str(path), folder, count))
    return records


def _stem(path: Path) -> Path:
    return path.with_suffix("")


def _captions(content: bytes, where: Path | str) -> list[str]:
    """Reads a caption file: each line is a caption of its own."""
    lines = [line.strip() for line in _text(content, str(where)).splitlines() if line.strip()]
    if not lines:
        raise DataError(
            f"The caption file {where} is empty. Write the caption, or remove picture and file; a "
            'picture that is meant to have none stands in metadata.jsonl with "text": "".'
        )
    return lines


def _from_tar(path: Path, pictures: Pictures) -> list[Record]:
    """Reads WebDataset's layout: files that share a name up to its first dot are one sample."""
    samples: dict[str, dict[str, str]] = {}
    for name in pictures.add_tar(path):
        parent, _, file = name.rpartition("/")
        stem, _, kind = file.partition(".")
        samples.setdefault(f"{parent}/{stem}", {})[f".{kind.lower()}"] = name
    records = []
    for sample, files in samples.items():
        picture = next((files[kind] for kind in PICTURE_SUFFIXES if kind in files), None)
        if picture is None:
            continue  # other data, such as a checksum
        fields: dict[str, Any] = {}
        if ".json" in files:
            content = _text(pictures.read(files[".json"]), files[".json"])
            fields |= _object(_json(content, files[".json"]), files[".json"])[1]
        for kind in CAPTION_SUFFIXES:
            if kind in files:
                fields["text"] = _captions(pictures.read(files[kind]), files[kind])
        records.append(Record(picture, fields, sample, path.parent))
    if not records:
        raise DataError(
            f"{path} holds no pictures. Expected NAME.png with NAME.txt or NAME.json (WebDataset)."
        )
    return records
