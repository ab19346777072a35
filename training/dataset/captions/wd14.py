"""Tags a picture with WD14: words of Danbooru's vocabulary with probabilities.

Read is a folder such as a copy of https://huggingface.co/SmilingWolf/wd-swinv2-tagger-v3:
model.onnx takes [1, side, side, 3] in BGR, 0 to 255, and gives a probability for each line of
selected_tags.csv. Padding, thresholds and MCut (Largeron, Moulin and Gery, 2012) are as in the
author's own program, https://huggingface.co/spaces/SmilingWolf/wd-tagger.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.loading import ModelError

from ..config import CaptionSettings
from ..images import PictureError, Pixels
from ..onnx_session import open_session
from .colour_words import word_set

SETTING = "caption.tagger"
SOURCE = "a copy of SmilingWolf/wd-swinv2-tagger-v3 from huggingface.co"
RATING, GENERAL, CHARACTER = "9", "0", "4"
LEAST_CHARACTER = 0.15  # of MCut for names, as in the author's program
# Of the drawing rather than of what it shows, or wrong of the sketch that is made of it.
_ABOUT_THE_FILE = word_set(
    "monochrome greyscale lineart sketch highres absurdres commentary watermark signature "
    "traditional_media official_art screencap anime_screencap anime_coloring"
)


@dataclass(frozen=True)
class Tags:
    """What a picture was found to show.

    Attributes:
        general: {tag: probability}, the likeliest first; spaces in place of "_".
        characters: the same of names.
        rating: of Danbooru, such as "general" or "explicit".
    """

    general: dict[str, float]
    characters: dict[str, float]
    rating: str


class Tagger:
    """A WD14 network with its vocabulary."""

    def __init__(
        self, session: Any, names: Sequence[str], kinds: Sequence[str], settings: CaptionSettings
    ) -> None:
        """Takes an open network; `open_tagger` opens one."""
        self._session = session
        self._names = names
        self._kinds = np.array(kinds)
        self._settings = settings

    def tags(self, pixels: Pixels) -> Tags:
        """Tags a picture.

        Args:
            pixels: [h, w, 3] or [h, w].

        Raises:
            PictureError: the network gives something else than probabilities for it.
        """
        p = self.probabilities(pixels)
        if not np.isfinite(p).all() or p.min() < -1e-3 or p.max() > 1 + 1e-3:
            raise PictureError(f"{SETTING}: the network gives values outside 0 to 1.")
        general, character = self._settings.tag_threshold, self._settings.character_threshold
        if self._settings.mcut:
            general = mcut(p[self._kinds == GENERAL])
            character = max(LEAST_CHARACTER, mcut(p[self._kinds == CHARACTER]))
        ratings = np.flatnonzero(self._kinds == RATING)
        rating = self._names[int(ratings[p[ratings].argmax()])] if len(ratings) else ""
        most = self._settings.most_tags
        chosen = dict(list(self._chosen(p, GENERAL, general).items())[:most])
        return Tags(chosen, self._chosen(p, CHARACTER, character), rating)

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """All tags' probabilities, in the order of the vocabulary."""
        given = self._session.get_inputs()[0]
        tensor = prepare(pixels, given.shape[1])
        return np.asarray(self._session.run(None, {given.name: tensor})[0][0], dtype=np.float64)

    def _chosen(self, p: NDArray[np.float64], kind: str, threshold: float) -> dict[str, float]:
        places = np.flatnonzero((self._kinds == kind) & (p > threshold))
        order = sorted(map(int, places), key=lambda place: (-p[place], place))
        return {
            words_of(self._names[place]): round(float(p[place]), 6)
            for place in order
            if is_useful(self._names[place])
        }


def prepare(pixels: Pixels, side: int) -> NDArray[np.float32]:
    """Makes a picture what the network takes.

    Args:
        pixels: [h, w, 3] RGB or [h, w].
        side: of the network's input.

    Returns:
        [1, side, side, 3], BGR, 0 to 255, the picture in the middle of a white square.
    """
    picture = Image.fromarray(pixels).convert("RGB")
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    if longest != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    rgb = np.asarray(square, dtype=np.float32)
    return np.ascontiguousarray(rgb[None, :, :, ::-1])


def mcut(probabilities: NDArray[np.float64]) -> float:
    """Maximum cut: the middle of the largest gap between sorted probabilities."""
    if len(probabilities) < 2:
        return 0.5
    falling = np.sort(probabilities)[::-1]
    gap = int((falling[:-1] - falling[1:]).argmax())
    return float(falling[gap] + falling[gap + 1]) / 2


def words_of(tag: str) -> str:
    """Writes a tag as captions do: spaces for "_"; parentheses are not escaped (kohya does)."""
    return tag.replace("_", " ")


def is_useful(tag: str) -> bool:
    """Whether a tag says what a picture shows; "^_^" says nothing to CLIP."""
    return tag not in _ABOUT_THE_FILE and re.search(r"[A-Za-z]{2}", tag) is not None


def open_tagger(settings: CaptionSettings, device: torch.device, threads: int = 0) -> Tagger:
    """Opens the tagger in caption.tagger.

    Args:
        settings: the folder and the thresholds.
        device: a GPU is used if onnxruntime was built for it.
        threads: on a processor; 0 for onnxruntime's choice.

    Raises:
        ModelError: a file is missing, damaged, or of another network.
    """
    folder = Path(settings.tagger)
    for name in ("model.onnx", "selected_tags.csv"):
        if not (folder / name).is_file():
            raise ModelError(f"{SETTING} is {folder}, where there is no {name}. Use {SOURCE}.")
    names, kinds = _vocabulary(folder / "selected_tags.csv")
    needed = f"{SETTING} wants {SOURCE}."
    session = open_session(folder / "model.onnx", needed, device, threads)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape, tags = list(inputs[0].shape), outputs[0].shape[-1]
    square = len(shape) == 4 and shape[1] == shape[2] and isinstance(shape[1], int)
    if len(inputs) != 1 or not square or shape[3] != 3 or inputs[0].type != "tensor(float)":
        raise ModelError(
            f"{SETTING} is {folder}, whose network takes {inputs[0].type} {shape}; needed is "
            f"tensor(float) [1, side, side, 3]. Use {SOURCE}."
        )
    if tags != len(names):
        raise ModelError(
            f"{SETTING} is {folder}, whose network gives {tags} values for the {len(names)} tags "
            f"of selected_tags.csv. Both files have to be of one network. Use {SOURCE}."
        )
    return Tagger(session, names, kinds, settings)


def _vocabulary(path: Path) -> tuple[list[str], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names, kinds = [row["name"] for row in rows], [row["category"] for row in rows]
        if None in names or None in kinds:
            raise KeyError("a line has fewer columns than the first")
        return names, kinds
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise ModelError(
            f"{path} cannot be read ({error!r}); expected is a table with the columns name and "
            f"category. Use {SOURCE}."
        ) from error
