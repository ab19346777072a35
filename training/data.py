"""Reads the training data and decides what each sample of the stream is made of.

A data set is a folder with metadata.jsonl (Hugging Face's ImageFolder: one JSON object a line with
file_name and text) and the pictures, loose or in uncompressed .tar files beside it. `text` is one
caption or a list of which one is drawn for each sample.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from animesketchnet_core import clip_input

from . import draws
from .config import DataSettings
from .draws import Purpose


class DataError(ValueError):
    """Training data that is missing, unreadable or incomplete."""


class Pictures:
    """The picture files of a folder, loose or in .tar files; opened by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._members = {  # where each picture lies in which tar: (tar, offset, size)
            member.name.removeprefix("./"): (path, member.offset_data, member.size)
            for path in sorted(folder.glob("*.tar"))
            for member in _tar_members(path)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._members or (self.folder / name).is_file()

    def read(self, name: str) -> bytes:
        """Reads a picture file's bytes."""
        if name not in self._members:
            return (self.folder / name).read_bytes()
        path, offset, size = self._members[name]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def open(self, name: str) -> Tensor:
        """Decodes a picture.

        Returns:
            float32 [1, height, width, 4] in [0, 1], with transparency.

        Raises:
            DataError: the file is no picture, or a damaged one.
        """
        try:
            picture = Image.open(io.BytesIO(self.read(name)))
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"{self.folder / name} cannot be read as a picture ({error}). Replace the file or "
                "remove its line from metadata.jsonl."
            ) from error
        return torch.from_numpy(np.array(picture)).float()[None] / 255


@dataclass(frozen=True)
class Row:
    """One line of metadata.jsonl.

    Attributes:
        picture: file name of the target.
        captions: one or more; a sample draws one.
        reference: file name of the picture that the adapter sees; None: drawn from the group.
        group: rows with the same group serve each other as references.
    """

    picture: str
    captions: tuple[str, ...]
    reference: str | None
    group: str


@dataclass(frozen=True)
class Sample:
    """What one sample of the stream shows.

    Attributes:
        picture: file name of the target.
        reference: file name of the reference.
        caption: the text.
    """

    picture: str
    reference: str
    caption: str


class Dataset:
    """The rows and the endless stream of samples drawn from them."""

    def __init__(self, settings: DataSettings) -> None:
        """Reads metadata.jsonl and finds every picture.

        Raises:
            DataError: a file or a column is missing, or a line is not what it should be.
        """
        self.settings = settings
        self.pictures, self.rows = _read(settings)
        self._groups: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows):
            self._groups.setdefault(row.group, []).append(number)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def alone(self) -> int:
        """Number of rows that are their group's only one, and so always their own reference."""
        if self.settings.reference != "group":
            return 0
        return sum(len(members) == 1 for members in self._groups.values())

    @property
    def targets(self) -> list[str]:
        """Pictures whose latents are needed, each once."""
        return list(dict.fromkeys(row.picture for row in self.rows))

    @property
    def references(self) -> list[str]:
        """Pictures whose image features are needed, each once."""
        return list(dict.fromkeys(row.reference or row.picture for row in self.rows))

    @property
    def captions(self) -> list[str]:
        """Texts whose embeddings are needed, each once."""
        return list(dict.fromkeys(text for row in self.rows for text in row.captions))

    def sample(self, seed: int, position: int) -> Sample:
        """Draws the sample at a position of the stream; each epoch shows every row once."""
        epoch, place = divmod(position, len(self.rows))
        number = int(_epoch_order(seed, epoch, len(self.rows))[place])
        row = self.rows[number]
        choice = draws.integer(seed, Purpose.CAPTION, position, len(row.captions))
        return Sample(row.picture, self._reference(number, seed, position), row.captions[choice])

    def _reference(self, number: int, seed: int, position: int) -> str:
        row = self.rows[number]
        if row.reference is not None:
            return row.reference
        generator = draws.generator(seed, Purpose.REFERENCE, position)
        others = self._groups[row.group]
        if len(others) == 1 or generator.random() < self.settings.self_reference:
            return row.picture
        place = int(generator.integers(len(others) - 1))  # among the group without the row itself
        other = others[place] if others[place] != number else others[-1]
        return self.rows[other].picture

    def target_pixels(self, name: str) -> Tensor:
        """Prepares a target for the autoencoder: [1, 3, resolution, resolution] in [-1, 1]."""
        picture = self.pictures.open(name)
        return square(picture, self.settings.resolution, self.settings.fit) * 2 - 1

    def reference_pixels(self, name: str, size: int) -> Tensor:
        """Prepares a reference for CLIP, as the nodes do: [1, size, size, 3] in [0, 1]."""
        return clip_input.fit_sketch(self.pictures.open(name), size)


def square(picture: Tensor, size: int, fit: str) -> Tensor:
    """Makes a square training picture on white paper.

    Args:
        picture: [b, height, width, 4] in [0, 1].
        size: side in pixels.
        fit: "crop" keeps the middle of the longer side; "pad" adds white to the shorter one.

    Returns:
        [b, 3, size, size] in [0, 1].
    """
    if fit == "pad":
        return clip_input.fit_sketch(picture, size).permute(0, 3, 1, 2)
    pixels = clip_input.flatten_onto_white(picture).permute(0, 3, 1, 2)  # [b, 3, height, width]
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[..., top : top + side, left : left + side]
    if side == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    return draws.epoch_order(seed, epoch, length)


def _read(settings: DataSettings) -> tuple[Pictures, list[Row]]:
    if not settings.folder:
        raise DataError("data.folder is not set; it names the folder with metadata.jsonl.")
    folder = Path(settings.folder)
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise DataError(
            f"There is no {path}. Expected one JSON object a line, for example "
            '{"file_name": "0001.png", "text": "a girl with long hair"}.'
        )
    pictures = Pictures(folder)
    lines = path.read_text(encoding="utf-8").splitlines()
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    rows = [_row(line, f"{path}, line {n}", settings, pictures) for n, line in numbered]
    if not rows:
        raise DataError(f"{path} lists no pictures.")
    return pictures, rows


def _row(line: str, where: str, settings: DataSettings, pictures: Pictures) -> Row:
    """Checks and reads one line of metadata.jsonl."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where} is not a JSON object with file_name and text.")
    picture = _file(fields, "file_name", where, pictures)
    group, reference = "", None
    if settings.reference == "self":
        reference = picture
    elif settings.reference == "group":
        group = str(_column(fields, settings.group_column, where))
    else:
        reference = _file(fields, settings.reference, where, pictures)
    return Row(picture, _captions(_column(fields, "text", where), where), reference, group)


def _column(fields: dict[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise DataError(
            f"{where} has no {name!r}; it has {', '.join(sorted(fields)) or 'nothing'}."
        )
    return fields[name]


def _file(fields: dict[str, Any], column: str, where: str, pictures: Pictures) -> str:
    name = _column(fields, column, where)
    if not isinstance(name, str) or name not in pictures:
        raise DataError(f"{where}: {column} is {name!r}, and {pictures.folder} has no such file.")
    return name


def _captions(text: Any, where: str) -> tuple[str, ...]:
    captions = text if isinstance(text, list) else [text]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: text is {text!r}; expected a caption or a list of captions.")
    return tuple(captions)


def _tar_members(path: Path) -> Sequence[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as archive:
            return [member for member in archive.getmembers() if member.isfile()]
    except tarfile.TarError as error:
        raise DataError(f"{path} is not an uncompressed tar file: {error}.") from error
