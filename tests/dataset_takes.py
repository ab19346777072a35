"""Runs the stage `frames` on films and reads what came of it from the ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.dataset import frames
from training.dataset.config import DatasetConfig, FramesSettings
from training.dataset.ledger import Ledger, Picture, Source
from training.dataset.work import Work
from training.workers import Workers


class Done:
    """A ledger after a run of the stage."""

    def __init__(self, folder: Path, told: Counter[str]) -> None:
        self.folder, self.told = folder, told
        with Ledger(folder / "ledger.sqlite") as ledger:
            self.pictures = ledger.pictures()
            self.decisions = {
                (item, decision.check): decision for item, _, decision in ledger.decisions()
            }
            self.forms = ledger.forms("colour")
        self.shots = [d for (item, check), d in self.decisions.items() if check == "shot"]

    def cuts(self) -> list[int]:
        return [shot.details["first"][0] for shot in self.shots[1:]]

    def pixels(self, picture: Picture) -> np.ndarray:
        return np.array(Image.open(self.folder / self.forms[picture.id].path))

    def numbers(self, shot: int | None = None) -> list[int]:
        pictures = [p.provenance for p in self.pictures]
        return [p["frame"] for p in pictures if shot is None or p["shot"] == shot]


def take(folder: Path, *films: Path, **settings: Any) -> Done:
    with Ledger(folder / "ledger.sqlite") as ledger:
        for number, path in enumerate(films):
            ledger.add_source(Source(f"film{number}", str(path), "film", {"sha256": path.name}))
        config = DatasetConfig(frames=FramesSettings(**settings))
        told = frames.run(Work(config, folder, ledger, Workers("cpu")))
    return Done(folder, told)
