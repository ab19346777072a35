"""Contact sheets: small copies of pictures, and the pieces of a page that show them.

A thumbnail is named for its picture's hash, so it is made once, however often the report is
written; what no page needs any more is deleted.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from animesketchnet_core.contact_sheet import contact_sheet, to_tensor
from animesketchnet_core.files import write_atomically
from training.files import make_folder

from ..images import PictureError, read_pixels
from ..ledger import Form
from ..work import Work

FORMS = ("colour", "sketch", "adjusted")
WIDTH = 320  # of a thumbnail, in pixels
SHEET = (320, 180)  # of a picture in a sheet that is one file
_FOLDER = "thumbnails"

T = TypeVar("T")


def spread(items: Sequence[T], most: int) -> list[T]:
    """Takes at most so many items, evenly from first to last."""
    count = min(most, len(items))
    return [items[k * len(items) // count] for k in range(count)]


@dataclass
class Sheets:
    """Makes the pieces of a page and remembers which thumbnails they need.

    Attributes:
        work: the data set.
        folder: of the page.
        best: pictures with a text each, for the sheet that is one file.
    """

    work: Work
    folder: Path
    best: Sequence[tuple[str, str]] = ()
    _forms: dict[str, dict[str, Form]] = field(default_factory=dict)
    _needed: dict[str, Form] = field(default_factory=dict)

    def form(self, picture: str, form: str) -> Form | None:
        """A picture's file, if it has that form."""
        if form not in self._forms:
            self._forms[form] = self.work.ledger.forms(form)
        return self._forms[form].get(picture)

    def image(self, picture: str, form: str = "colour") -> str:
        """A thumbnail that leads to the full picture; a gap of the same size if there is none."""
        found = self.form(picture, form)
        if found is None:
            return f'<span class="none">no {form}</span>'
        name = _name(found)
        self._needed[name] = found
        alt = html.escape(f"{picture}, {form}")
        return (
            f'<a href="../{html.escape(found.path)}"><img loading="lazy" src="{name}" alt="{alt}">'
            "</a>"
        )

    def figure(self, picture: str, text: str, form: str = "colour") -> str:
        """One picture with its id and a line of text below."""
        return (
            f"<figure>{self.image(picture, form)}<figcaption><code>{html.escape(picture)}</code>"
            f" {html.escape(text)}</figcaption></figure>"
        )

    def grid(self, pictures: Iterable[tuple[str, str]]) -> str:
        """Pictures side by side: (picture, text) each."""
        figures = "".join(self.figure(picture, text) for picture, text in pictures)
        return f'<div class="grid">{figures}</div>'

    def rows(self, pictures: Iterable[tuple[str, str]]) -> str:
        """Pictures one below the other, each in all its forms, with a text (HTML)."""
        rows = [
            f'<div class="row">{"".join(self.image(picture, form) for form in FORMS)}'
            f"<p><code>{html.escape(picture)}</code><br>{text}</p></div>"
            for picture, text in pictures
        ]
        return "".join(rows)

    def make(self) -> list[str]:
        """Makes the thumbnails that the page needs, and deletes the others.

        Returns:
            what could not be shown, and why.

        Raises:
            StorageError: there is no room.
        """
        thumbnails = make_folder(self.folder / _FOLDER)
        for path in thumbnails.iterdir():
            if f"{_FOLDER}/{path.name}" not in self._needed:
                path.unlink()
        missing = [name for name in self._needed if not (self.folder / name).is_file()]
        wrong = []
        for name in tqdm(missing, desc="report", unit="picture", disable=not missing):
            try:
                small = self._small(self._needed[name])
            except PictureError as error:
                wrong.append(str(error))
                continue
            write_atomically(
                self.folder / name, lambda part, s=small: s.save(part, "JPEG", quality=82)
            )
        return wrong

    def write_best(self, path: Path) -> None:
        """Writes the best pictures in all their forms as one JPEG, each below its text.

        It is made of the thumbnails, see `make`; in place of what lacks is grey.

        Raises:
            StorageError: there is no room.
        """
        groups = []
        for picture, text in self.best:
            cells = [to_tensor(self._cell(picture, form)) for form in FORMS]
            groups.append((f"{picture}  {text}", torch.stack(cells)[None]))
        if groups:
            sheet = contact_sheet(FORMS, groups)
            write_atomically(path, lambda part: sheet.save(part, "JPEG", quality=88))
        else:
            path.unlink(missing_ok=True)

    def _cell(self, picture: str, form: str) -> Image.Image:
        cell = Image.new("RGB", SHEET, "#808080")
        found = self.form(picture, form)
        thumbnail = self.folder / _name(found) if found else None
        if thumbnail is not None and thumbnail.is_file():
            with Image.open(thumbnail) as small:
                small.thumbnail(SHEET)
                cell.paste(small, ((SHEET[0] - small.width) // 2, (SHEET[1] - small.height) // 2))
        return cell

    def _small(self, form: Form) -> Image.Image:
        most = self.work.config.ingest.max_megapixels
        pixels = read_pixels(self.work.folder / form.path, most)
        picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        # At most twice as high as wide, so that a strip does not fill the page.
        picture.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return picture


def _name(form: Form) -> str:
    return f"{_FOLDER}/{form.sha256[:24]}.jpg"
