"""Reads the text in a picture: what is written, how surely, and where.

The reader is rapidocr with the PP-OCR networks that lie inside its wheel; nothing is fetched. It
works on a small copy, as subtitles and titles are made to be read from afar.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.loading import ModelError

from ..images import Pixels
from .sharpness import shrink

INSTALL = "pip install rapidocr onnxruntime"


@dataclass(frozen=True)
class TextBox:
    """A line of text; its place is in fractions of the picture's width and height.

    Attributes:
        text: as read.
        score: 0 to 1, how surely.
        left: of the upright box around it.
        top: of the box.
        right: of the box.
        bottom: of the box.
    """

    text: str
    score: float
    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """As a fraction of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def centre(self) -> tuple[float, float]:
        """From the left and from the top."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def letters(self) -> str:
        """Letters and digits alone, in one case and width, for comparison."""
        folded = unicodedata.normalize("NFKC", self.text).casefold()
        return "".join(letter for letter in folded if letter.isalnum())

    def overlap(self, other: TextBox) -> float:
        """Their common area as part of the area of both together, 0 to 1."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        common = max(0.0, width) * max(0.0, height)
        both = self.area + other.area - common
        return common / both if both > 0 else 0.0


Read = Callable[[Pixels], list[TextBox]]
"""Reads the text in a picture [h, w, 3] or [h, w], from top to bottom."""


def open_reader(short_side: int, threads: int = 0) -> Read:
    """Loads the networks.

    Args:
        short_side: of the copy that is read, in pixels.
        threads: of the processor; 0 for onnxruntime's choice.

    Raises:
        ModelError: rapidocr, onnxruntime or a network is missing.
    """
    engine = _engine(short_side, threads)

    def read(picture: Pixels) -> list[TextBox]:
        small = shrink(picture, short_side)
        if small.ndim == 2:
            small = np.repeat(small[:, :, None], 3, axis=2)
        found = engine(np.ascontiguousarray(small[:, :, ::-1]))  # BGR
        if found.boxes is None:
            return []
        height, width = small.shape[:2]
        corners = np.asarray(found.boxes, np.float64) / (width, height)  # [boxes, 4, 2]
        boxes = [
            _box(text, score, corner)
            for text, score, corner in zip(found.txts, found.scores, corners, strict=True)
        ]
        return sorted((b for b in boxes if b.letters), key=lambda b: (b.top, b.left))

    return read


def joined(boxes: Iterable[TextBox]) -> str:
    """All that is written, for a person."""
    return " / ".join(box.text for box in boxes)


def _box(text: str, score: float, corners: np.ndarray) -> TextBox:
    left, top = corners.min(0).clip(0, 1)
    right, bottom = corners.max(0).clip(0, 1)
    # onnxruntime's last digits depend on the number of threads.
    return TextBox(text, round(float(score), 3), *(round(float(v), 4) for v in
                   (left, top, right, bottom)))  # fmt: skip


def _engine(short_side: int, threads: int) -> Any:
    try:
        import onnxruntime  # noqa: F401  rapidocr tells of its absence only when it is used
        import rapidocr
    except ImportError as error:
        raise ModelError(
            f"Text is looked for with rapidocr, which is not installed ({error}). Run: {INSTALL}; "
            "or set filter.text = false, and no subtitle, credits or lettered logo is found."
        ) from error
    folder = Path(rapidocr.__file__).parent / "models"
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,  # only finds lines that are upside down
            "Global.max_side_len": 100_000,  # the copy is small already
            "Det.limit_side_len": short_side,
            "Det.model_path": str(_network(folder, "det")),
            "Rec.model_path": str(_network(folder, "rec")),
            "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _network(folder: Path, kind: str) -> Path:
    """The one network of a kind in rapidocr's wheel; given by its path, none is fetched."""
    found = sorted(folder.glob(f"*_{kind}_*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"{folder} should hold one network *_{kind}_*.onnx, and holds {names}. Reinstall it: "
            "pip install --force-reinstall --no-deps rapidocr"
        )
    return found[0]
