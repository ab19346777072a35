"""The progress bar and the log: loss, pictures per second, time left."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType

from torch import Tensor
from tqdm import tqdm


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


class Progress:
    """Shows a bar and writes one JSON line to the log every few steps.

    Losses are summed where they are computed and read only when a line is due, so that a GPU need
    not wait for the CPU at each step.
    """

    def __init__(self, log: Path, step: int, max_steps: int, every: int) -> None:
        self._log = log
        self._every = every
        self._bar = tqdm(initial=step, total=max_steps, desc="training", unit="step")
        self._loss: Tensor | None = None
        self._steps = 0
        self._pictures = 0
        self._since = time.monotonic()
        _forget_after(log, step)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, step: int, loss: Tensor, rate: float, pictures: int) -> None:
        """Counts a step that was done.

        Args:
            step: steps done in the whole run.
            loss: the step's mean loss, a scalar.
            rate: its learning rate.
            pictures: its batch size.

        Raises:
            DivergedError: a loss since the last line was NaN or infinite.
        """
        self._loss = loss if self._loss is None else self._loss + loss
        self._steps += 1
        self._pictures += pictures
        self._bar.update(1)
        if step % self._every == 0:
            self._write(step, self._loss, rate)

    def _write(self, step: int, loss_sum: Tensor, rate: float) -> None:
        loss = loss_sum.item() / self._steps
        if not math.isfinite(loss):
            raise DivergedError(
                f"The loss is {loss} by step {step}. The last checkpoint is from before; run again "
                "with a lower optimizer.learning_rate, optimizer.clip_norm = 1.0 or run.precision "
                '= "bf16".'
            )
        speed = self._pictures / (time.monotonic() - self._since)
        self._bar.set_postfix(loss=f"{loss:.4f}", pictures_per_s=f"{speed:.1f}")
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": rate,
            "pictures_per_second": round(speed, 3),
            "time": round(time.time(), 1),
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._loss, self._steps, self._pictures = None, 0, 0
        self._since = time.monotonic()


def _forget_after(log: Path, step: int) -> None:
    """Takes out of the log the steps that a resumed run is about to do again."""
    if not log.is_file():
        return
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
