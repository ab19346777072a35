"""A training stage's state, kept so that it can be stopped at any moment and go on later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from animesketchnet_core.files import write_atomically
from training.files import make_folder


@dataclass
class Progress:
    """One stage's progress bar, clock and checkpoint.

    A stage ends after `steps` steps. Its learning rate and averages are functions of the step
    alone, so a stopped stage goes on as if nothing had happened.
    """

    path: Path
    steps: int
    save_every_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Reads nothing yet: `restore` does."""
        self.seconds = 0.0  # of training, over all sessions
        self._saved_at = time.monotonic()

    def restore(self, **stateful: Any) -> int:
        """Loads the objects' states if there is a checkpoint; returns the number of steps done."""
        if not self.path.exists():
            return 0
        state = load_states(self.path, **stateful)
        self.seconds = state["seconds"]
        return state["step"]

    def loop(self, start: int, **stateful: Any) -> _Steps:
        """Iterates over the remaining steps with a bar, saving now and then and at the end."""
        return _Steps(self, start, stateful)

    def save(self, step: int, stateful: dict[str, Any]) -> None:
        """Writes the checkpoint, whole or not at all."""
        now = time.monotonic()
        self.seconds += now - self._saved_at
        self._saved_at = now
        make_folder(self.path.parent)
        states = {name: holder.state_dict() for name, holder in stateful.items()}
        content = {"step": step, "seconds": self.seconds, **states}
        write_atomically(self.path, lambda temporary: torch.save(content, temporary))

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved_at > self.save_every_seconds


def load_states(path: Path, **stateful: Any) -> dict[str, Any]:
    """Loads the objects' states from a stage's checkpoint; returns all that it holds.

    Raises:
        FileNotFoundError: the stage has not been trained.
    """
    if not path.exists():
        stage = path.stem
        raise FileNotFoundError(
            f"There is no {path}: run `python -m training.mini {stage}` before, in this workspace."
        )
    state = torch.load(path, weights_only=True, map_location="cpu")
    for name, holder in stateful.items():
        holder.load_state_dict(state[name])
    return state


class _Steps:
    def __init__(self, progress: Progress, start: int, stateful: dict[str, Any]) -> None:
        self.progress, self.start, self.stateful = progress, start, stateful
        self.bar = tqdm(
            total=progress.steps, initial=start, desc=progress.path.stem, mininterval=10
        )

    def __iter__(self) -> Iterator[int]:
        self.progress._saved_at = time.monotonic()
        with self.bar:
            for step in range(self.start, self.progress.steps):
                yield step
                self.bar.update()
                if self.progress.due() or step + 1 == self.progress.steps:
                    self.progress.save(step + 1, self.stateful)

    def show(self, **figures: float) -> None:
        """Figures beside the bar."""
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()})


def seeded(*parts: int) -> torch.Generator:
    """A random generator that depends on its arguments alone, such as (seed, step)."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part) % 2**63
    return torch.Generator().manual_seed(seed)
