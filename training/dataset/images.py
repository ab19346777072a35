"""Reads and writes picture files: RGB on white or grey, 8 bits, up to the allowed size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from animesketchnet_core.files import write_atomically
from training.files import make_folder, sha256_of
from training.sources import eight_bits

from .ledger import Form

Pixels = NDArray[np.uint8]
"""A picture: [h, w, 3] RGB (sRGB), or [h, w] grey, where 0 is black."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
MEGAPIXELS = 200.0


class PictureError(ValueError):
    """A file that is no picture, is damaged, or is too large."""


def read_pixels(path: Path, max_megapixels: float = MEGAPIXELS) -> Pixels:
    """Decodes a picture upright, transparency on white.

    Returns:
        [h, w, 3], or [h, w] if the file is grey.

    Raises:
        PictureError: the file is missing, no picture, damaged, or larger than allowed.
    """
    with _opened(path, max_megapixels) as picture:
        upright = eight_bits(ImageOps.exif_transpose(picture))
        if upright.mode in ("1", "L") and "transparency" not in upright.info:
            return np.array(upright.convert("L"))
        if "A" in upright.getbands() or "transparency" in upright.info:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return np.array(upright.convert("RGB"))


def write_pixels(folder: Path, name: str, pixels: Pixels, **details: object) -> Form:
    """Writes a PNG whole or not at all.

    Args:
        folder: the data set's folder.
        name: the file's path within it.
        pixels: [h, w, 3] or [h, w].
        details: how the picture was made, for the ledger.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder / name
    make_folder(path.parent)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    # Level 1 is several times faster than the default at 4K, for some percent more bytes.
    write_atomically(path, lambda file: picture.save(file, "PNG", compress_level=1))
    return Form(name, sha256_of(path), details)


def to_grey(pixels: Pixels) -> Pixels:
    """Luma (BT.601) of a picture; [h, w]."""
    if pixels.ndim == 2:
        return pixels
    return np.array(Image.fromarray(pixels).convert("L"))


@contextmanager
def _opened(path: Path, max_megapixels: float) -> Iterator[Image.Image]:
    """Opens a picture; decoding errors inside the `with` block become PictureError, too."""
    try:
        # Not by its path: of a mapped TIFF, Pillow 13 forgets which way up it is.
        with _OURS.instead(), path.open("rb") as file, Image.open(file) as picture:
            megapixels = picture.width * picture.height / 1e6
            if megapixels > max_megapixels:
                raise PictureError(
                    f"{path} has {picture.width} x {picture.height} pixels, {megapixels:.0f} "
                    f"million; at most {max_megapixels:g} million are read. Make it smaller, or "
                    "raise ingest.max_megapixels."
                )
            yield picture
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"There is no picture {path}.") from None
    except Exception as error:  # damage leads Pillow's decoders to errors of any type
        raise PictureError(
            f"{path} cannot be read as a picture ({error}). Replace the file, or remove it."
        ) from error


class _Limit:
    """Our limit on pixels in place of Pillow's, which is one for all threads."""

    def __init__(self) -> None:
        self._lock, self._inside, self._pillows = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Lifts Pillow's limit until the last thread that is inside has left."""
        with self._lock:
            if not self._inside:
                self._pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    Image.MAX_IMAGE_PIXELS = self._pillows


_OURS = _Limit()
