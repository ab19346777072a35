"""Stage `measure`: takes each picture's figures once; stage `filter` compares them with thresholds.

A threshold that is changed costs nothing then. What is kept of a picture:

    quality            the figures below, as JSON, rounded to six digits
    quality-corners    where the edges in its corners are, in bits
    quality-thumbnail  a grey copy of 64 x 36
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.files import sha256_of
from training.loading import ModelError

from . import stages
from .images import PictureError, Pixels, to_grey
from .ledger import Outcome, Picture
from .onnx_session import open_session
from .quality.lettering import Read, TextBox, open_reader
from .quality.medium import GRID, Mask, look_at
from .quality.overlays import CORNER, THUMBNAIL, corners_of, thumbnail_of
from .quality.sharpness import edge_widths, effective_share
from .work import Work

LEAST_SIDE = 16
"""Pixels; below, no figure means anything."""
_CLASSIFIER = "an ONNX network such as deepghs/anime_real_cls, or to be left empty"
_VERSION = 1  # of the figures: with another one they are taken again

Classify = Callable[[Pixels], float]
"""Gives the probability that a picture [h, w, 3] or [h, w] was filmed."""


@dataclass(frozen=True)
class Figures:
    """What was measured of a picture; see `sharpness` and `medium` for the units.

    Attributes:
        width: in pixels.
        height: in pixels.
        share: of the finest detail.
        edge_width: in pixels at a short side of 720.
        edge_ratio: of the edges' widths in different directions.
        edges: how many were measured.
        darkest: grey value, 0 to 1.
        lightest: grey value, 0 to 1.
        content: rows of GRID, as numbers whose bits are the fields.
        chroma: of Lab.
        line_art: 0 to 1.
        even_edges: 0 to 1.
        outlines: 0 to 1.
        even_area: 0 to 1.
        filmed: 0 to 1, by these statistics.
        classified: probability of live action by a network, if there is one.
        text: the lines read; None if none were looked for.
    """

    width: int
    height: int
    share: float | None
    edge_width: float | None
    edge_ratio: float | None
    edges: int
    darkest: float
    lightest: float
    content: tuple[int, ...]
    chroma: float
    line_art: float
    even_edges: float
    outlines: float
    even_area: float
    filmed: float
    classified: float | None
    text: tuple[TextBox, ...] | None

    @property
    def short_side(self) -> int:
        """In pixels."""
        return min(self.width, self.height)

    def pack(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Figures:
        """Reads what `pack` wrote."""
        values = json.loads(packed)
        boxes = values["text"]
        values["text"] = None if boxes is None else tuple(TextBox(**box) for box in boxes)
        values["content"] = tuple(values["content"])
        return cls(**values)

    def content_mask(self) -> Mask:
        """The fields of GRID with something in them."""
        bits = np.arange(GRID[1])
        return (np.array(self.content)[:, None] >> bits & 1).astype(bool)


@dataclass(frozen=True)
class Looked:
    """The settings that figures follow from."""

    text: bool
    text_size: int
    classifier: str
    version: int = _VERSION


class Measure:
    """Takes one picture's figures at a time."""

    name = "measure"
    reads: tuple[str, ...] = ("colour",)

    def settings(self, work: Work) -> Looked:
        """Those of `filter` that are no thresholds."""
        wanted = work.config.filter
        network = Path(wanted.classifier)
        known = wanted.classifier and network.is_file()
        return Looked(
            wanted.text, wanted.text_size, sha256_of(network) if known else wanted.classifier
        )

    @contextmanager
    def open(self, work: Work) -> Iterator[stages.Examine]:
        """Loads the reader and the classifier, if they are wanted.

        Raises:
            ModelError: one of them is missing or wrong.
        """
        wanted, threads = work.config.filter, work.config.run.threads
        read = open_reader(wanted.text_size, threads) if wanted.text else None
        classify = open_classifier(Path(wanted.classifier), threads) if wanted.classifier else None

        def examine(picture: Picture) -> Outcome:
            return measured(work.read(picture, "colour"), read, classify)

        yield examine


def run(work: Work) -> Counter[str]:
    """Measures all pictures that have not been."""
    return stages.run(Measure(), work)


def measured(pixels: Pixels, read: Read | None = None, classify: Classify | None = None) -> Outcome:
    """Takes a picture's figures.

    Args:
        pixels: [h, w, 3] or [h, w].
        read: finds text; None to leave it.
        classify: tells live action; None to leave it to the statistics.

    Raises:
        PictureError: the picture is smaller than LEAST_SIDE.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise PictureError(
            f"The picture has {width} x {height} pixels; at least {LEAST_SIDE} each way are needed."
        )
    grey = to_grey(pixels)
    widths, medium = edge_widths(grey), look_at(pixels)
    figures = Figures(
        width=width,
        height=height,
        share=_rounded(effective_share(grey)),
        edge_width=_rounded(widths.width),
        edge_ratio=_rounded(widths.ratio),
        edges=widths.count,
        content=tuple(int(row @ (1 << np.arange(len(row)))) for row in medium.content),
        classified=_rounded(classify(pixels)) if classify else None,
        text=tuple(read(pixels)) if read else None,
        **{name: _rounded(getattr(medium, name)) for name in _TAKEN},
    )
    corners, thumbnail = np.packbits(corners_of(grey)), thumbnail_of(grey)
    features = {
        "quality": figures.pack(),
        "quality-corners": corners.tobytes(),
        "quality-thumbnail": thumbnail.tobytes(),
    }
    return Outcome(features=features)


_TAKEN = (
    "darkest", "lightest", "chroma", "line_art", "even_edges", "outlines", "even_area", "filmed",
)  # fmt: skip


def unpack_corners(packed: bytes) -> Mask:
    """Reads the feature "quality-corners", see `overlays.corners_of`."""
    shape = (2, 2, 2, *CORNER)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=math.prod(shape))
    return bits.reshape(shape).astype(bool)


def unpack_thumbnail(packed: bytes) -> Pixels:
    """Reads the feature "quality-thumbnail", THUMBNAIL."""
    return np.frombuffer(packed, np.uint8).reshape(THUMBNAIL)


def open_classifier(path: Path, threads: int = 0) -> Classify:
    """Opens a network that tells filmed pictures from drawn ones.

    The layout is that of deepghs/anime_real_cls: float [1, 3, h, w] in, from -1 to 1, and two
    values out, drawn first.

    Raises:
        ModelError: there is no such file, it cannot be opened, or it has another layout.
    """
    if not path.is_file():
        raise ModelError(
            f"filter.classifier is {path}, and there is no such file. It wants {_CLASSIFIER}."
        )
    session, given, size = _open_network(path, threads)

    def classify(pixels: Pixels) -> float:
        picture = Image.fromarray(pixels).convert("RGB")
        small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)
        planes = (small / 127.5 - 1).transpose(2, 0, 1)[None]  # [1, 3, h, w]
        values = np.asarray(session.run(None, {given: planes})[0], np.float64).ravel()
        if values.size != 2 or not np.isfinite(values).all():
            raise ModelError(f"{path} gives {values.tolist()}; needed are two values, drawn first.")
        if values.min() < 0 or abs(values.sum() - 1) > 1e-3:  # some end before the softmax
            values = np.exp(values - values.max())
        return float(values[1] / values.sum())

    return classify


def _open_network(path: Path, threads: int) -> tuple[Any, str, tuple[int, int]]:
    """The session, its input's name, and the width and height of the pictures that it takes."""
    session = open_session(path, f"filter.classifier wants {_CLASSIFIER}.", threads=threads)
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3:
        raise ModelError(
            f"{path} takes {[list(i.shape) for i in inputs]}; needed is one input [1, 3, h, w]."
        )
    high, wide = (side if isinstance(side, int) else 384 for side in shape[2:])
    return session, inputs[0].name, (wide, high)


def _rounded(value: float | None) -> Any:
    """Six digits: what lies beyond depends on the processor."""
    return None if value is None else float(f"{value:.6g}")
