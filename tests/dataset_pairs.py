"""A data set that is ready to be split and exported: real art, its lines, captions, scenes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset_work import open_work
from PIL import Image

import training.dataset
from animesketchnet_core.sketch_extraction import extract_lines
from training.dataset.images import Pixels
from training.dataset.ledger import Outcome, Picture, Source, Text
from training.dataset.work import Work

ART = Path(training.dataset.__file__).parent / "demo_film" / "art" / "concert1.jpg"
SIZE = (176, 144)  # width, height
RIGHTS = {"licence": "Fancy Licence 2", "holder": "Studio Ghost", "note": "Given by the holder."}
CAPTIONS = (
    'anime sketch, lineart, monochrome, a girl says "hello, world", smiling',
    "anime sketch, lineart, monochrome, 二人の少女 — naïve \\(back\\slash\\) {braces} # hash: yes",
    "anime sketch, lineart, monochrome, it's\na broken \t line\u2028here, 50% | pipe",
)


def caption_line(number: int) -> str:
    """The caption of a picture as it must come out: on one line."""
    return " ".join(f"{CAPTIONS[number % len(CAPTIONS)]} {number}".split())


@cache
def colour_of(number: int) -> Pixels:
    """A part of real art, another one for each number."""
    with Image.open(ART) as picture:
        x, y = 330 * (number % 6) + 20, 300 * (number // 6 % 4) + 10
        part = picture.convert("RGB").crop((x, y, x + 2 * SIZE[0], y + 2 * SIZE[1]))
        return np.array(part.resize(SIZE, Image.Resampling.LANCZOS))


@cache
def sketch_of(number: int) -> Pixels:
    """Its lines, dark on white, grey."""
    lines = extract_lines(torch.from_numpy(colour_of(number))[None].float() / 255, 1.0, 0.5)[
        0, :, :, 0
    ]
    return (lines.numpy() * 255).round().astype(np.uint8)


def add_pair(work: Work, number: int, **provenance: Any) -> Picture:
    """Adds picture NUMBER with all that the stages before `split` would have made of it."""
    colour = colour_of(number)
    sketch = sketch_of(number)
    name = f"f11ce-{number:04d}"
    shot = {"shot": number // 2, "pts": 1001 * number, "seconds": number / 24}
    height, width = colour.shape[:2]
    picture = Picture(name, "f11ce", number, width, height, shot | provenance)
    forms = {"colour": work.write(picture, "colour", colour)}
    work.ledger.record(name, "frames", "1", Outcome(forms=forms), [picture])
    forms = {"sketch": work.write(picture, "sketch", sketch, network="/home/me/secret/net.pth")}
    work.ledger.record(name, "sketch", "1", Outcome(forms=forms))
    forms = {"adjusted": work.write(picture, "adjusted", np.minimum(sketch, 250), gamma=1.5)}
    work.ledger.record(name, "adjust", "1", Outcome(forms=forms))
    caption = f"{CAPTIONS[number % len(CAPTIONS)]} {number}"
    texts = {
        "caption_sketch": Text(caption, {"writer": "template"}),
        "caption_color": Text(f"a red girl {number}"),
    }
    work.ledger.record(name, "caption", "1", Outcome(texts=texts))
    return picture


@contextmanager
def pairs(folder: Path, count: int = 12, **settings: Mapping[str, Any]) -> Iterator[Work]:
    """Opens a data set of COUNT pairs in scenes of two; a second opening adds only what lacks."""
    settings = {
        "rights": RIGHTS, "split": {"validation": 0.2, "test": 0.2, "train": 0.6}, **settings,
    }  # fmt: skip
    with open_work(folder, **settings) as work:
        details = {"file": "film.mkv", "sha256": "ab" * 32, "stamp": "9 9"}
        work.ledger.add_source(Source("f11ce", "/home/me/films/film.mkv", "film", details))
        have = {picture.place for picture in work.ledger.pictures()}
        for number in range(count):
            if number not in have:
                add_pair(work, number)
        yield work
