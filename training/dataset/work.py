"""What every stage is given: the settings, the ledger, the folder and the processes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.workers import Workers

from .config import DatasetConfig
from .images import PictureError, Pixels, read_pixels, write_pixels
from .ledger import Form, Ledger, Picture

_ID = re.compile(r"[A-Za-z0-9-]+")


@dataclass(frozen=True)
class Work:
    """A data set in the making.

    Attributes:
        config: all settings.
        folder: where everything lies; paths in the ledger start here.
        ledger: what is known.
        workers: the processes that share the work.
    """

    config: DatasetConfig
    folder: Path
    ledger: Ledger
    workers: Workers

    def read(self, picture: Picture, form: str) -> Pixels:
        """Decodes a picture in one of its forms.

        Raises:
            PictureError: it has no such form, or the file is missing or damaged.
        """
        forms = self.ledger.forms_of(picture.id)
        if form not in forms:
            raise PictureError(f"{picture.id} has no {form} yet; it has {', '.join(forms) or 0}.")
        return read_pixels(self.folder / forms[form].path, self.config.ingest.max_megapixels)

    def write(self, picture: Picture, form: str, pixels: Pixels, **details: Any) -> Form:
        """Writes one of a picture's forms as pictures/FORM/ID.png."""
        return write_pixels(self.folder, self.path(picture.id, form), pixels, **details)

    def has(self, files: Iterable[str]) -> bool:
        """Whether all these files of the data set's folder are there."""
        return all((self.folder / file).is_file() for file in files)

    def remove(self, pictures: Iterable[Picture]) -> None:
        """Deletes pictures' files, then their entries: no kill leaves a file without one."""
        ids = [picture.id for picture in pictures]
        for picture in ids:
            for form in self.ledger.forms_of(picture).values():
                (self.folder / form.path).unlink(missing_ok=True)
        self.ledger.remove_pictures(ids)

    @staticmethod
    def path(picture: str, form: str) -> str:
        """Where a picture's form lies within the folder."""
        if not _ID.fullmatch(picture):
            raise ValueError(f"{picture!r} is no picture's id.")
        return f"pictures/{form}/{picture}.png"


def digest(settings: Any, *inputs: object) -> str:
    """Hashes a dataclass of settings with whatever else a result follows from."""
    text = json.dumps([asdict(settings), *map(str, inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
