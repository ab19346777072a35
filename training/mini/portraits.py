"""Lorelei portraits (CC0): the drawings, what is drawn in each, and the captions made of it."""

from __future__ import annotations

import io
import json
import random
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .styles import Style

FOLDER = Path(__file__).parent / "lorelei"
TONES = ("black", "dark grey", "grey")
HAIR_VARIANTS = 48
ACCESSORIES = ("beard", "glasses", "earrings", "freckles", "flowers")  # in the captions' order


@dataclass(frozen=True)
class Portrait:
    """What is drawn in one picture."""

    hair: str  # the style in words, such as "two buns"
    hair_variant: int  # 0..47
    tone: str  # of the hair
    mood: str
    facing: str
    accessories: frozenset[str]

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Portrait:
        """Reads one line of metadata.jsonl."""
        return cls(
            hair=row["hair"],
            hair_variant=row["hair_variant"] - 1,
            tone=row["hair_color"],
            mood=row["mood"],
            facing=row["facing"],
            accessories=frozenset(name for name in ACCESSORIES if row[name]),
        )

    def mirrored(self) -> Portrait:
        """The same face looking the other way."""
        return replace(self, facing="right" if self.facing == "left" else "left")

    def caption(self, hair: bool = True, style_words: list[str] | None = None) -> str:
        """The picture in words; what is not named is absent, but for hair and drawing style."""
        hair_words = f"{self.hair} {self.tone} hair" if hair else f"{self.tone} hair"
        worn = [name for name in ACCESSORIES if name in self.accessories]
        parts = [f"anime sketch of a {self.mood} face", hair_words, *worn, f"facing {self.facing}"]
        return ", ".join(parts + (style_words or []))


def load_portraits(split: str, limit: int | None = None) -> tuple[list[Portrait], Tensor]:
    """Reads a split of the data set.

    Args:
        split: "train" (8,000 pictures) or "test" (800).
        limit: read only so many.

    Returns:
        The portraits and their drawings, [n, 256, 256] uint8.
    """
    with zipfile.ZipFile(FOLDER / f"{split}.zip") as pack:
        lines = pack.read("metadata.jsonl").decode().splitlines()[:limit]
        rows = [json.loads(line) for line in lines]
        drawings = [_decode(pack.read(row["file_name"])) for row in rows]
    return [Portrait.from_row(row) for row in rows], torch.from_numpy(np.stack(drawings))


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def draw_captions(
    portrait: Portrait, style: Style, rng: random.Random, hair: float, style_axis: float
) -> list[str]:
    """Three captions of one picture, of which training draws one at each step.

    Args:
        portrait: what is drawn.
        style: how it is drawn.
        rng: source of chance.
        hair: share of captions that name the hair style, 0 to 1.
        style_axis: share of captions that name each axis of the drawing style, 0 to 1.
    """
    return [
        portrait.caption(
            hair=rng.random() < hair,
            style_words=[word for word in style.words() if rng.random() < style_axis],
        )
        for _ in range(3)
    ]
