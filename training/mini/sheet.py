"""The contact sheet: references on the left, then what the adapter draws at rising alpha."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from animesketchnet_core.contact_sheet import contact_sheet
from animesketchnet_core.files import write_atomically

from .measure import Drawer, ask_for
from .portraits import load_portraits
from .styles import Style, render

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = (3, 17, 29, 41, 58, 66, 90, 101)  # test pictures with hair styles of all kinds


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
    rows = torch.stack(columns, 1).movedim(2, -1)  # [rows, columns, h, w, 3]
    groups = [(prompt, row[None]) for prompt, row in zip(prompts, rows, strict=True)]
    sheet = contact_sheet(titles, groups)
    write_atomically(path, lambda part: sheet.save(part, "PNG"))
