"""Checkpoints: everything that the next step depends on, written whole or not at all.

Data order, noise, timesteps and drops are functions of the seed and the sample's position, so a
checkpoint is short: the step, the position, the adapter, its running average, the optimizer's
moments, and the loss scaler for fp16.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from animesketchnet_core.files import StorageError, write_atomically
from animesketchnet_core.weight_container import refuse_compressed

from .files import make_folder


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not belong to this run."""


_HELD = {"step": int, "seen": int, "config": dict, "adapter": dict}


class Checkpoints:
    """The last few checkpoints of a run, `step-000001000.pt` and so on, in one folder."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def paths(self) -> list[Path]:
        """Lists the checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint, then removes the oldest beyond keep_last."""
        path = self.folder / f"step-{step:09d}.pt"
        try:
            make_folder(self.folder)
            write_atomically(path, lambda temporary: torch.save(state, temporary))
        except StorageError as error:
            kept = ", ".join(old.name for old in self.paths()) or "none"
            raise CheckpointError(
                f"{error} Run again after that: it goes on from the last checkpoint ({kept})."
            ) from error
        for old in self.paths()[: -self.keep_last]:
            old.unlink()
        return path

    def require_space(self, size: int) -> None:
        """Refuses to begin on a disk that will not hold the checkpoints.

        Args:
            size: of one checkpoint, in bytes.

        Raises:
            CheckpointError: less is free than the checkpoints and one in writing need.
        """
        present = [path.stat().st_size for path in self.paths()]
        needed = (self.keep_last + 1) * size - sum(present)
        free = shutil.disk_usage(self.folder.parent).free
        if free < needed:
            raise CheckpointError(
                f"The disk of {self.folder.parent} has {free / 1e6:,.0f} MB free; the checkpoints "
                f"need {needed / 1e6:,.0f} MB. Make room, lower run.keep_last, or choose another "
                "run.output."
            )

    def latest(self, device: torch.device) -> dict[str, Any] | None:
        """Reads the newest checkpoint, or gives None when there is none.

        Raises:
            CheckpointError: the newest file cannot be read.
        """
        paths = self.paths()
        if not paths:
            return None
        try:
            refuse_compressed(paths[-1])
            state = torch.load(paths[-1], map_location=device, weights_only=True)
        except Exception as error:  # zip, pickle, storage: torch raises many types for damage
            raise CheckpointError(
                f"The checkpoint {paths[-1]} cannot be read ({error}). Remove it to go on from "
                "the one before."
            ) from error
        if not isinstance(state, dict) or any(
            not isinstance(state.get(name), kind) for name, kind in _HELD.items()
        ):
            raise CheckpointError(
                f"{paths[-1]} is no checkpoint of this trainer. Remove it to go on from the one "
                "before, or choose another run.output."
            )
        return state


class Interrupt:
    """Whether the run was asked to end: by SIGINT (Ctrl-C), SIGTERM, a file, or the clock."""

    def __init__(self, stop_file: Path, max_minutes: float = 0.0) -> None:
        """Starts the clock.

        Args:
            stop_file: asks for the end as soon as it exists.
            max_minutes: from now; 0: no limit.
        """
        self.signal: str | None = None
        self.stop_file = stop_file
        self._deadline = time.monotonic() + max_minutes * 60 if max_minutes else float("inf")

    @property
    def reason(self) -> str | None:
        """The signal's name, "stop file" or "max_minutes"; None: go on."""
        if self.signal is None and self.stop_file.exists():
            return "stop file"
        return self.signal or ("max_minutes" if time.monotonic() >= self._deadline else None)

    def forget(self) -> None:
        """Removes the file, so that the next run goes on."""
        self.stop_file.unlink(missing_ok=True)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C means now
        self.signal = signal.Signals(number).name

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Takes the two signals over, unless in another thread, where Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._note) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
