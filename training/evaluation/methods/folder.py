"""Pictures that were drawn elsewhere, by any program: a folder of files named after the cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from animesketchnet_core.clip_input import flatten_onto_white
from training.sources import DataError, Pictures

from ..cases import Case

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHOWN = 5  # names in a message


class FolderMethod:
    """Hands out a folder's pictures as if it drew them.

    The picture of a case is named after its id, `PAIR-SEED.png` with the seed in three digits; that
    of seed 0 may be named after the pair alone. JPEG and WebP are read too, and sizes are free.

    Attributes:
        recipe: hash of the pictures' names and contents.
    """

    def __init__(self, folder: Path) -> None:
        """Looks through the folder.

        Raises:
            DataError: there is no such folder, or no picture in it.
        """
        found = folder.iterdir() if folder.is_dir() else []
        files = sorted(file for file in found if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(
                f"{folder} is no folder with pictures ({', '.join(SUFFIXES)}). Expected one for "
                "each case, such as PAIR-000.png."
            )
        self._folder = folder
        self._pictures = Pictures()
        self._files = {file.stem: file for file in reversed(files)}  # of two forms the first
        self.recipe = f"folder {self._hash()}"

    def draw(self, cases: Sequence[Case]) -> list[Tensor]:
        """Reads the cases' pictures, [h, w, 3] float32 in [0, 1], transparency on white.

        Raises:
            DataError: pictures are missing (it lists the first ones), or one cannot be read.
        """
        files = [self._file(case) for case in cases]
        missing = [case.id for case, file in zip(cases, files, strict=True) if file is None]
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise DataError(
                f"{self._folder} lacks {', '.join(f'{name}.png' for name in missing[:SHOWN])}"
                f"{more}. Draw them, with these names, or compare fewer pairs and seeds."
            )
        return [flatten_onto_white(self._pictures.open(str(file)))[0] for file in files]

    def _file(self, case: Case) -> Path | None:
        names = [case.id] if case.seed else [case.id, case.pair.id]
        return next((self._files[name] for name in names if name in self._files), None)

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name, file in sorted(self._files.items()):
            digest.update(f"{name}\n".encode() + self._pictures.digest(str(file)))
        return digest.hexdigest()
