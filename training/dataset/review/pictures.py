"""The files that the page shows: originals, and smaller copies made when they are first asked for.

No path comes from the page: it names a picture and a form, the ledger names the file, and the file
must lie in the data set's folder, wherever links in it lead.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from animesketchnet_core.files import write_atomically
from training.files import make_folder

from ..images import PictureError, read_pixels
from ..ledger import Form, Ledger

SIZES = {"thumb": 320, "preview": 1800}  # the longest side, in pixels
CACHE = "review-cache"
TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
    ".avif": "image/avif", ".bmp": "image/bmp",
}  # fmt: skip
_HASH = re.compile(r"[0-9a-f]{64}")
# One file is made by one thread, and no more than this many at once: each decodes a whole picture.
_MAKING = tuple(threading.Lock() for _ in range(4))


@dataclass(frozen=True)
class Shown:
    """A file for the page.

    Attributes:
        path: where it lies.
        type: its media type.
        tag: changes when its content does.
    """

    path: Path
    type: str
    tag: str


def shown(
    ledger: Ledger, folder: Path, picture: str, form: str, size: str, max_megapixels: float
) -> Shown:
    """Finds a picture's file, or makes a smaller copy of it.

    Args:
        ledger: knows the files.
        folder: the data set's.
        picture: an id.
        form: "colour", "sketch" or "adjusted".
        size: "full", "preview" or "thumb".
        max_megapixels: larger pictures are not decoded.

    Raises:
        PictureError: there is none, it is damaged, or it lies outside of the folder.
        StorageError: the copy cannot be written.
    """
    found = ledger.forms_of(picture).get(form)
    if found is None:
        raise PictureError(f"{picture} has no {form}.")
    path = _inside(folder, found.path)
    if not path.is_file():
        raise PictureError(f"{found.path} is missing; run the stage again that makes {form}.")
    if size != "full":
        copy = _copy(folder, path, found, size, max_megapixels)
        return Shown(copy, "image/jpeg", f"{found.sha256[:16]}-{size}")
    if path.suffix.lower() not in TYPES:
        raise PictureError(f"{found.path} is of a kind that browsers do not show.")
    return Shown(path, TYPES[path.suffix.lower()], found.sha256[:16])


def _copy(folder: Path, path: Path, form: Form, size: str, max_megapixels: float) -> Path:
    if not _HASH.fullmatch(form.sha256):
        raise PictureError(f"{form.path} has no hash in the ledger.")
    copy = _inside(folder, f"{CACHE}/{size}/{form.sha256}.jpg")
    with _MAKING[int(form.sha256[:8], 16) % len(_MAKING)]:
        if not copy.exists():
            picture = Image.fromarray(read_pixels(path, max_megapixels))
            picture.thumbnail((SIZES[size], SIZES[size]), Image.Resampling.LANCZOS)
            make_folder(copy.parent)
            # 4:4:4, since thin lines in colour suffer from less.
            write_atomically(
                copy, lambda file: picture.save(file, "JPEG", quality=90, subsampling=0)
            )
    return copy


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PictureError(f"{name} lies outside of the data set's folder.")
    return path
