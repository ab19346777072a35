"""Decides what each sample of the training stream is made of: picture, reference, caption.

Where the pictures come from is the matter of sources.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from animesketchnet_core import clip_input

from . import draws
from .config import DataSettings, ViewSettings
from .draws import Purpose
from .framing import bucket_of, frame
from .sources import DataError, Pictures, Record, read_source, resolve
from .stream import Stream
from .views import View, names_a_side, view_of


@dataclass(frozen=True)
class Row:
    """One target picture.

    Attributes:
        picture: path of the target.
        captions: one or more; a sample draws one.
        teachers: none, or fuller captions; a sample draws one.
        reference: path of the picture that the adapter sees; None: drawn from the group.
        group: rows with the same group serve each other as references.
        weight: how often an epoch shows it; a fraction: that share of such rows.
    """

    picture: str
    captions: tuple[str, ...]
    teachers: tuple[str, ...]
    reference: str | None
    group: tuple[int, str]
    weight: float


@dataclass(frozen=True)
class Sample:
    """What one sample of the stream shows.

    Attributes:
        picture: the target.
        reference: what the adapter sees.
        caption: the text.
        teacher: a fuller text, which the frozen base sees; as the caption where there is none.
    """

    picture: View
    reference: View
    caption: str
    teacher: str


class Dataset:
    """The rows and the endless stream of samples drawn from them."""

    def __init__(
        self,
        settings: DataSettings,
        views: ViewSettings | None = None,
        held_out: float = 0.0,
        batch_size: int = 1,
    ) -> None:
        """Finds every picture and its captions.

        Args:
            settings: where they are.
            views: how they are shown; None: as they are.
            held_out: share of the pictures that the stream never shows.
            batch_size: samples of a step, which with data.fit = "bucket" are of one size.

        Raises:
            DataError: a file or a column is missing, or an entry is not what it should be.
        """
        self.settings = settings
        self._views = views or ViewSettings()
        self.pictures = Pictures()
        self._sizes: dict[str, tuple[int, int]] = {}
        rows = _read(settings, self.pictures)
        kept = [not self._is_held_out(row, held_out) for row in rows]
        self.rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
        self.held_out = [row for row, keep in zip(rows, kept, strict=True) if not keep]
        self._sides_named = {
            name
            for row in rows
            if names_a_side(row.captions)
            for name in (row.picture, row.reference or row.picture)
        }
        self._groups: dict[tuple[int, str], list[int]] = {}
        for number, row in enumerate(self.rows):
            self._groups.setdefault(row.group, []).append(number)
        sizes = [self.size(row.picture) for row in self.rows]
        self.stream = Stream([row.weight for row in self.rows], sizes, batch_size)
        if self.stream.epoch_length == 0:
            raise DataError(
                "No picture is left to train on; look at data.weights, the folders' repeats and "
                "held_out.share."
            )

    def _is_held_out(self, row: Row, share: float) -> bool:
        """By the picture's content: the choice survives new pictures, and copies go together."""
        if share == 0:
            return False
        return int.from_bytes(self.pictures.digest(row.picture)[:8], "big") < share * 2**64

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def _all_rows(self) -> list[Row]:
        return self.rows + self.held_out

    @property
    def alone(self) -> int:
        """Number of rows that are their group's only one, and so always their own reference."""
        if self.settings.reference != "group":
            return 0
        return sum(len(members) == 1 for members in self._groups.values())

    @property
    def targets(self) -> list[View]:
        """Pictures whose latents are needed, each once."""
        trained = [self._view(row.picture, n) for row in self.rows for n in self._numbers]
        return list(dict.fromkeys([*trained, *(View(row.picture) for row in self.held_out)]))

    @property
    def references(self) -> list[View]:
        """Pictures whose image features are needed, each once."""
        names = [view.picture for view in self.shown_references]
        trained = [self._view(name, n, reference=True) for name in names for n in self._numbers]
        held_out = [self.held_out_sample(n).reference for n in range(len(self.held_out))]
        return list(dict.fromkeys([*trained, *held_out]))

    @property
    def shown_references(self) -> list[View]:
        """References that the stream shows, not those of held-out pictures, as they are."""
        return list(dict.fromkeys(View(row.reference or row.picture) for row in self.rows))

    @property
    def _numbers(self) -> range:
        return range(self._views.count)

    @property
    def captions(self) -> list[str]:
        """Texts whose embeddings are needed, each once."""
        return list(
            dict.fromkeys(text for row in self._all_rows for text in row.captions + row.teachers)
        )

    def sample(self, seed: int, position: int) -> Sample:
        """Draws the sample at a position of the stream."""
        number = self.stream.row(seed, position)
        row = self.rows[number]
        caption = row.captions[draws.integer(seed, Purpose.CAPTION, position, len(row.captions))]
        teachers = row.teachers or (caption,)
        chance = draws.generator(seed, Purpose.VIEW, position)
        shown, seen = chance.integers(self._views.count, size=2).tolist()
        return Sample(
            self._view(row.picture, shown),
            self._view(self._reference(number, seed, position), seen, reference=True),
            caption,
            teachers[draws.integer(seed, Purpose.TEACHER, position, len(teachers))],
        )

    def _view(self, picture: str, number: int, reference: bool = False) -> View:
        if number == 0:
            return View(picture)
        digest = self.pictures.digest(picture)
        sides_named = picture in self._sides_named
        return view_of(
            picture, number, digest, self._views, sides_named=sides_named, reference=reference
        )

    def held_out_sample(self, number: int) -> Sample:
        """A held-out picture with its first caption and, of a group, another one's reference."""
        row = self.held_out[number]
        reference = row.reference or row.picture
        if row.reference is None and (others := self._groups.get(row.group)):
            reference = self.rows[others[number % len(others)]].picture
        teacher = (row.teachers or row.captions)[0]
        return Sample(View(row.picture), View(reference), row.captions[0], teacher)

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

    def key(self, view: View) -> bytes:
        """Names a view by its content."""
        return view.key(self.pictures.digest(view.picture))

    def size(self, picture: str) -> tuple[int, int]:
        """The size at which a target is trained: (height, width) in pixels."""
        if self.settings.fit != "bucket":
            return self.settings.resolution, self.settings.resolution
        if picture not in self._sizes:
            self._sizes[picture] = bucket_of(*self.pictures.size(picture), self.settings)
        return self._sizes[picture]

    def target_pixels(self, view: View) -> Tensor:
        """Prepares a target for the autoencoder: [1, 3, *size] in [-1, 1]."""
        picture = view.show(self.pictures.open(view.picture))
        return frame(picture, self.size(view.picture), self.settings.fit) * 2 - 1

    def reference_pixels(self, view: View, size: int) -> Tensor:
        """Prepares a reference for CLIP, as the nodes do: [1, size, size, 3] in [0, 1]."""
        return clip_input.fit_sketch(view.show(self.pictures.open(view.picture)), size)


def _read(settings: DataSettings, pictures: Pictures) -> list[Row]:
    if not settings.folders:
        raise DataError("data.folders is not set; it names the folders with the pictures.")
    weights = settings.weights or (1.0,) * len(settings.folders)
    if len(weights) != len(settings.folders):
        raise DataError(
            f"data.weights has {len(weights)} numbers for {len(settings.folders)} folders; give "
            "one for each folder, or none."
        )
    rows = []
    for number, (folder, weight) in enumerate(zip(settings.folders, weights, strict=True)):
        for record in read_source(Path(folder), pictures, settings.picture_column):
            rows.append(_row(record, number, weight, settings, pictures))
    return rows


def _row(
    record: Record, source: int, weight: float, settings: DataSettings, pictures: Pictures
) -> Row:
    """Makes a row of what a source says about a picture."""
    fields, where = record.fields, record.where
    group, reference = "", None
    if settings.reference == "self":
        reference = record.picture
    elif settings.reference == "group":
        group = str(_column(fields, settings.group_column, where, "data.group_column"))
    else:
        column = settings.reference
        name = _column(fields, column, where, "data.reference")
        reference = resolve(record.folder, name, where, column, pictures)
    text = _column(fields, settings.caption_column, where, "data.caption_column")
    teachers: tuple[str, ...] = ()
    if settings.teacher_column:
        fuller = _column(fields, settings.teacher_column, where, "data.teacher_column")
        teachers = _captions(fuller, where)
    return Row(
        picture=record.picture,
        captions=_captions(text, where),
        teachers=teachers,
        reference=reference,
        group=(source, group),
        weight=weight * record.repeats,
    )


def _column(fields: Mapping[str, Any], name: str, where: str, setting: str) -> Any:
    if name not in fields:
        raise DataError(
            f"{where} has no {name!r}; it has {', '.join(sorted(fields)) or 'nothing'}. "
            f"{setting} names the column."
        )
    return fields[name]


def _captions(text: Any, where: str) -> tuple[str, ...]:
    captions = text if isinstance(text, list) else [text]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: text is {text!r}; expected a caption or a list of captions.")
    return tuple(captions)
