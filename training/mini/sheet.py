"""The contact sheet: references on the left, then what the adapter draws at rising alpha."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from .measure import Drawer, ask_for
from .portraits import load_portraits
from .styles import Style, render

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = (3, 17, 29, 41, 58, 66, 90, 101)  # test pictures with hair styles of all kinds
LABEL = 16  # pixels


def draw_sheet(folder: Path, path: Path, seed: int = 10) -> None:
    """Draws one row for each reference: the reference, then alpha 0 to 1 from the same noise.

    Args:
        folder: the bundle.
        path: PNG to write.
        seed: of styles, prompts and noise.
    """
    rng = random.Random(seed)
    portraits, drawings = load_portraits("test")
    chosen = list(SHOWN)
    styles = [Style.draw(rng) for _ in chosen]
    references = render(drawings[chosen], styles)
    asked = [ask_for(portraits[index], k, rng) for k, index in enumerate(chosen)]
    prompts = [face.caption(hair=False) for face in asked]
    drawer = Drawer.load(folder)
    columns = [references, *(drawer.draw(prompts, references, alpha, seed) for alpha in ALPHAS)]
    titles = ["reference", *(f"alpha {alpha:g}" for alpha in ALPHAS)]
    compose(columns, titles, prompts).save(path)


def compose(columns: list[Tensor], titles: list[str], prompts: list[str]) -> Image.Image:
    """Lays pictures out: a column for each title, a row for each prompt, which stands above it."""
    size = columns[0].shape[-1]
    sheet = Image.new("RGB", (size * len(columns), LABEL + len(prompts) * (size + LABEL)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (pictures, title) in enumerate(zip(columns, titles, strict=True)):
        pen.text((column * size + 4, 2), title, fill="black")
        for row, picture in enumerate(pictures):
            pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            place = (column * size, LABEL + row * (size + LABEL) + LABEL)
            sheet.paste(Image.fromarray(pixels), place)
    for row, prompt in enumerate(prompts):
        pen.text((4, LABEL + row * (size + LABEL) + 2), prompt, fill="black")
    return sheet
