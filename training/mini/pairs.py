"""The mini world's pairs for an evaluation: test portraits, and prompts that ask for another face.

Hair and drawing style can come from the reference only, all else from the prompt only: see
`measure.ask_for`.
"""

from __future__ import annotations

import random
from pathlib import Path

from torch import Tensor

from training.evaluation.cases import Pair
from training.files import make_folder

from .measure import Case
from .pictures import save_picture
from .portraits import load_portraits
from .questions import QUESTIONS
from .styles import Style, render

NOT_SHOWN = ("tone", "grain")  # of hair, where there is none
TRAINING = 2000  # pictures that those drawn are compared with


def draw_pairs(folder: Path, limit: int | None = None) -> list[Pair]:
    """Draws the references and says what is asked of each.

    Args:
        folder: gets a PNG for each pair; those that are there stay.
        limit: use only so many of the 800.
    """
    make_folder(folder)
    portraits, drawings = load_portraits("test", limit)
    pairs = []
    for number, (face, drawing) in enumerate(zip(portraits, drawings, strict=True)):
        case = Case.of(face, number)
        path = folder / f"portrait-{number:03d}.png"
        _save(render(drawing[None], [case.style])[0], path)
        answers = dict(zip(QUESTIONS, case.wanted.answers, strict=True))
        shown = {q: a for q, a in answers.items() if face.hair != "bald" or q not in NOT_SHOWN}
        pairs.append(Pair(path.stem, case.asked.caption(hair=False), path, shown))
    return pairs


def draw_training_pictures(folder: Path, seed: int = 11) -> list[Path]:
    """Draws portraits of the training split as its pictures are drawn; those there stay."""
    make_folder(folder)
    _, drawings = load_portraits("train", TRAINING)
    rng = random.Random(seed)
    paths = [folder / f"{number:04d}.png" for number in range(len(drawings))]
    for drawing, path in zip(drawings, paths, strict=True):
        _save(render(drawing[None], [Style.draw(rng)])[0], path)
    return paths


def _save(picture: Tensor, path: Path) -> None:
    if not path.is_file():
        save_picture(picture, path)
