"""The mini world's training pictures: every portrait redrawn in several styles."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from animesketchnet_core.files import write_atomically, writing
from training.files import make_folder

from .portraits import Portrait, draw_captions, load_portraits
from .questions import Truth
from .styles import Style, render

STYLES_PER_PORTRAIT = 4  # 32,000 pictures
# Shares of captions that name the hair style, and each axis of the drawing style. Most of the
# adapter's leave them out, so that the reference must tell them; the base has to know the words,
# and how dark hair is drawn follows from the ink as well.
NAMED_FOR_BASE = {"hair": 0.75, "style_axis": 0.5}
NAMED_FOR_ADAPTER = {"hair": 0.3, "style_axis": 0.15}
ADAPTER_STRIDE = 3
BATCH = 100


def draw_pictures(folder: Path, seed: int = 1, limit: int | None = None) -> None:
    """Writes the data set that the autoencoder, the base and the adapter learn from.

    The folder gets PNG files of 128 x 128 and metadata.jsonl: file_name, text (captions for the
    adapter), base_text (captions for the base), full_text (everything in words), answers (the
    same as indices) and group (hair variant and style: pictures of one group may be each other's
    reference).

    Args:
        folder: where to write; nothing is done when its metadata.jsonl is there already.
        seed: of all chance.
        limit: use only so many portraits.
    """
    if (folder / "metadata.jsonl").exists():
        return
    make_folder(folder)
    portraits, drawings = load_portraits("train", limit)
    rng = random.Random(seed)
    order = [index for index in range(len(portraits)) for _ in range(STYLES_PER_PORTRAIT)]
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor() as pool:
        for start in tqdm(range(0, len(order), BATCH), desc="pictures", unit_scale=BATCH):
            chosen = order[start : start + BATCH]
            flips = [rng.random() < 0.5 for _ in chosen]
            styles = [Style.draw(rng) for _ in chosen]
            pictures = render(mirror(drawings[chosen], flips), styles)
            faces = [
                portraits[index].mirrored() if flip else portraits[index]
                for index, flip in zip(chosen, flips, strict=True)
            ]
            names = [f"{start + k:05d}_{style.code()}.png" for k, style in enumerate(styles)]
            list(pool.map(save_picture, pictures, [folder / name for name in names]))
            rows += map(_row, names, faces, styles, [rng] * len(names))
    _write(folder / "metadata.jsonl", [json.dumps(row) for row in rows])


def choose_for_adapter(pictures: Path, folder: Path) -> None:
    """Makes the adapter's data set: every third picture, as links to the files.

    The adapter has a tenth of the base's parameters and needs fewer pictures; all of them would
    spend more time in the encoders than in training.

    Args:
        pictures: the folder that `draw_pictures` wrote.
        folder: where to put the links and their metadata.jsonl.
    """
    if (folder / "metadata.jsonl").exists():
        return
    make_folder(folder)
    lines = (pictures / "metadata.jsonl").read_text().splitlines()[::ADAPTER_STRIDE]
    for line in lines:
        name = json.loads(line)["file_name"]
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)
            os.link(pictures / name, folder / name)
    _write(folder / "metadata.jsonl", lines)


def _write(path: Path, lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _row(name: str, face: Portrait, style: Style, rng: random.Random) -> dict[str, Any]:
    return {
        "file_name": name,
        "text": draw_captions(face, style, rng, **NAMED_FOR_ADAPTER),
        "base_text": draw_captions(face, style, rng, **NAMED_FOR_BASE),
        "full_text": face.caption(style_words=style.words()),
        "answers": Truth.of(face, style).answers,
        "group": f"{face.hair_variant}/{style.code()}",
    }


def mirror(drawings: Tensor, flips: list[bool]) -> Tensor:
    """Mirrors the drawings [b, h, w] whose flip is true."""
    flipped = torch.tensor(flips)[:, None, None]
    return torch.where(flipped, drawings.flip(-1), drawings)


def save_picture(picture: Tensor, path: Path) -> None:
    """Writes a picture [3, h, w] in [0, 1] as PNG, whole or not at all."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()  # h w 3
    drawn = Image.fromarray(pixels)
    write_atomically(path, lambda part: drawn.save(part, "PNG", compress_level=1))


def load_pictures(folder: Path) -> tuple[list[dict[str, Any]], Tensor]:
    """Reads the folder back: its rows, and the pictures [n, 3, 128, 128] uint8."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    with ThreadPoolExecutor() as pool:
        pictures = list(
            pool.map(lambda row: np.asarray(Image.open(folder / row["file_name"])), rows)
        )
    return rows, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
