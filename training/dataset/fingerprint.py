"""What is kept of each picture so that likenesses can be looked for: hashes and a thumbnail.

The hash is the perceptual hash of Zauner 2010 (https://www.phash.org): the signs, about their
median, of the 8 x 8 lowest frequencies of the picture at 32 x 32. It finds pictures that may be
alike, and cannot see faces: a smile changes none of its bits. The thumbnail decides (duplicates/).
It is 256 x 144 whatever the picture's proportions, so two of one film lie on each other.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import stages
from .images import PictureError, Pixels, to_grey
from .ledger import Outcome, Picture
from .stages import Examine
from .work import Work

if TYPE_CHECKING:
    from .ledger import Ledger

WIDTH, HEIGHT = 256, 144  # of the luma; a mouth of 30 pixels in a frame of 1280 still has six
SOFT = 1.3  # sigma of the blur before the last halving, in pixels of twice that size
PART = 4  # colour is kept at a fourth of it: films store it at half of theirs, and it is smoother
_LUMA, _CHROMA = WIDTH * HEIGHT, (WIDTH // PART) * (HEIGHT // PART)
_SUMMARY = struct.Struct("<32sQQf")
_SMALL = 8  # side of the tiny picture in a summary


@dataclass(frozen=True)
class Summary:
    """The few numbers by which candidates are found.

    Attributes:
        pixels: SHA-256 of the picture's size and values.
        hash: 64 bits, as an integer.
        mirrored: the hash of the picture's mirror image.
        contrast: standard deviation of the frequencies that the hash is of, in levels; where it is
            near 0 (black frames) the bits are noise.
        tiny: [66], mean luma of 8 x 8 parts, then the mean Cr and Cb.
    """

    pixels: bytes
    hash: int
    mirrored: int
    contrast: float
    tiny: NDArray[np.uint8]

    def pack(self) -> bytes:
        """As bytes, for the ledger."""
        head = _SUMMARY.pack(self.pixels, self.hash, self.mirrored, self.contrast)
        return head + self.tiny.tobytes()

    @classmethod
    def unpack(cls, value: bytes) -> Summary:
        """Reads what `pack` wrote."""
        tiny = np.frombuffer(value, np.uint8, offset=_SUMMARY.size)
        pixels, bits, mirrored, contrast = _SUMMARY.unpack_from(value)
        return cls(pixels, bits, mirrored, contrast, tiny)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture for the comparison.

    Attributes:
        luma: [144, 256], as sharp as it can be: a mouth may be four pixels wide.
        soft: [144, 256], luma without aliasing, so that it can be moved by parts of a pixel.
        chroma: [36, 64, 2], Cr and Cb about 128.
    """

    luma: NDArray[np.uint8]
    soft: NDArray[np.uint8]
    chroma: NDArray[np.uint8]

    def pack(self) -> bytes:
        """As bytes, for the ledger."""
        return self.luma.tobytes() + self.soft.tobytes() + self.chroma.tobytes()

    @classmethod
    def unpack(cls, value: bytes) -> Thumbnail:
        """Reads what `pack` wrote."""
        values = np.frombuffer(value, np.uint8)
        return cls(
            values[:_LUMA].reshape(HEIGHT, WIDTH),
            values[_LUMA : 2 * _LUMA].reshape(HEIGHT, WIDTH),
            values[2 * _LUMA :].reshape(HEIGHT // PART, WIDTH // PART, 2),
        )

    def mirrored(self) -> Thumbnail:
        """Left and right exchanged."""
        planes = (self.luma, self.soft, self.chroma)
        return Thumbnail(*(np.ascontiguousarray(plane[:, ::-1]) for plane in planes))


@dataclass(frozen=True)
class Layout:
    """What a stored fingerprint follows from; another version is made again."""

    version: int = 1
    width: int = WIDTH
    height: int = HEIGHT


class Fingerprints:
    """The stage: one picture's summary and thumbnail, into the ledger's features."""

    name = "fingerprint"
    reads: tuple[str, ...] = ("colour",)

    def settings(self, work: Work) -> Layout:
        """No setting changes a fingerprint."""
        return Layout()

    @contextmanager
    def open(self, work: Work) -> Iterator[Examine]:
        """Needs no model."""

        def examine(picture: Picture) -> Outcome:
            pixels = work.read(picture, "colour")
            small = thumbnail(pixels)
            found = summary(pixels, small)
            return Outcome(features={"summary": found.pack(), "thumbnail": small.pack()})

        yield examine


def run(work: Work) -> Counter[str]:
    """Takes the fingerprints of all pictures that have none yet."""
    return stages.run(Fingerprints(), work)


def summaries(ledger: Ledger) -> dict[str, Summary]:
    """Reads all summaries; 150 bytes a picture."""
    return {item: Summary.unpack(value) for item, value in ledger.features("summary").items()}


def thumbnails(ledger: Ledger, items: Sequence[str]) -> dict[str, Thumbnail]:
    """Reads some pictures' thumbnails; 80 kB each.

    Raises:
        PictureError: one has none.
    """
    found = ledger.features("thumbnail", items)
    for item in items:
        if item not in found:
            raise PictureError(f"{item} has no fingerprint yet; run the stage `fingerprint`.")
    return {item: Thumbnail.unpack(found[item]) for item in items}


def thumbnail(pixels: Pixels) -> Thumbnail:
    """Averages a picture, [h, w, 3] or [h, w], into a thumbnail."""
    import cv2  # takes a moment, and most of the command line needs none

    small = _averaged(pixels, WIDTH, HEIGHT)
    double = to_grey(_averaged(pixels, 2 * WIDTH, 2 * HEIGHT))
    blurred = np.asarray(cv2.GaussianBlur(double, (0, 0), SOFT), np.uint8)
    soft = _averaged(blurred, WIDTH, HEIGHT)
    if small.ndim == 2:
        grey = np.full((HEIGHT // PART, WIDTH // PART, 2), 128, np.uint8)
        return Thumbnail(small, soft, grey)
    colours = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb), np.uint8)
    chroma = _averaged(np.ascontiguousarray(colours[..., 1:]), WIDTH // PART, HEIGHT // PART)
    return Thumbnail(np.ascontiguousarray(colours[..., 0]), soft, chroma)


def _averaged(pixels: Pixels, width: int, height: int) -> Pixels:
    import cv2

    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def summary(pixels: Pixels, small: Thumbnail) -> Summary:
    """Takes a picture's hashes; `small` is its thumbnail."""
    import cv2

    square = cv2.resize(small.luma.astype(np.float64), (32, 32), interpolation=cv2.INTER_AREA)
    waves = _cosines() @ square @ _cosines().T / 16  # [8, 8], in levels
    # In the mirror image the odd waves across have the other sign.
    mirror = waves * np.where(np.arange(8) % 2, -1, 1)
    tiny = cv2.resize(small.luma, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).ravel()
    means = small.chroma.reshape(-1, 2).mean(0).round().astype(np.uint8)
    size = struct.pack("<III", pixels.shape[0], pixels.shape[1], pixels.ndim)
    hashed = hashlib.sha256(size + np.ascontiguousarray(pixels).tobytes()).digest()
    contrast = float(waves.ravel()[1:].std())
    tiny = np.concatenate([np.asarray(tiny, np.uint8), means])
    return Summary(hashed, _bits(waves), _bits(mirror), contrast, tiny)


def _bits(waves: NDArray[np.float64]) -> int:
    signs = waves.ravel() > np.median(waves)
    return int.from_bytes(np.packbits(signs).tobytes(), "big")


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The eight slowest waves of a discrete cosine transform; [8, 32]."""
    wave, place = np.arange(8)[:, None], np.arange(32)[None]
    return np.cos(np.pi * wave * (2 * place + 1) / 64)
