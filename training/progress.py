"""What a run shows of itself: bar, log.jsonl, TensorBoard, previews."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from animesketchnet_core.files import write_atomically, writing

from .config import TrainConfig
from .files import append_line, make_folder
from .preview import Drawn
from .report import read_log, warnings, write_report

_BOARD = "tensorboard"


class DivergedError(RuntimeError):
    """The gradients are no longer finite numbers."""


class Progress:
    """Shows a bar and writes one JSON line to the log every few steps.

    Losses are summed where they are computed and read only when a line is due, so that a GPU need
    not wait for the CPU at each step.
    """

    def __init__(self, output: Path, step: int, config: TrainConfig, quiet: bool = False) -> None:
        self._output = output
        self._run = config.run
        self._quiet = quiet
        self._bar = tqdm(
            initial=step, total=config.run.max_steps, desc="training", unit="step", disable=quiet
        )
        self._board = None if quiet else _tensorboard(output / _BOARD, step)
        self._loss: Tensor | float = 0.0  # sum of the steps' losses since the last line
        self._skipped: Tensor | float = 0.0
        self._steps = self._all_skipped = 0
        self._since = time.monotonic()
        self._warned: set[str] = set()
        if not quiet:
            _forget_after(output / "log.jsonl", step)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._board is not None:
            with writing(self._output / _BOARD):
                self._board.close()
        if not self._quiet:
            self._report()

    def update(self, step: int, loss: Tensor, skipped: Tensor, rate: float) -> None:
        """Counts a step that was done.

        Args:
            step: steps done in the whole run.
            loss: the step's mean loss, a scalar.
            skipped: 1.0 where its gradients were not finite and it changed nothing, else 0.0.
            rate: its learning rate.

        Raises:
            DivergedError: more steps were skipped than run.most_skipped.
        """
        self._loss = self._loss + torch.where(skipped > 0, 0.0, loss)
        self._skipped = self._skipped + skipped
        self._steps += 1
        self._bar.update(1)
        if step % self._run.log_every == 0:
            self._write(step, float(self._loss), int(self._skipped), rate)

    def held_out(self, step: int, figures: dict[str, list[float]]) -> None:
        """Logs the losses of held-out pictures by condition, at each timestep."""
        if self._quiet:
            return
        self._log({"step": step, "held_out": figures})
        means = {name: mean(values) for name, values in figures.items()}
        self._show({f"held_out/{name}": value for name, value in means.items()}, step)
        told = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        self._bar.write(f"step {step}, held-out pictures: {told}")
        for text in warnings(read_log(self._output / "log.jsonl")):
            if text not in self._warned:
                self._bar.write(f"warning: {text}")
                self._warned.add(text)
        self._report()

    def preview(self, step: int, drawn: Drawn) -> None:
        """Keeps a grid of previews, and how near it comes to the training pictures."""
        if self._quiet:
            return
        path = self._output / "previews" / f"step-{step:09d}.png"
        make_folder(path.parent)
        write_atomically(path, lambda temporary: drawn.sheet.save(temporary, "PNG"))
        figures = {"nearest": drawn.nearest, "nearest_in_training": drawn.yardstick}
        self._log({"step": step, **figures})
        self._show({f"copying/{name}": value for name, value in figures.items()}, step)
        if self._board is not None:
            with writing(self._output / _BOARD):
                self._board.add_image("preview", np.asarray(drawn.sheet), step, dataformats="HWC")
        self._report()

    def _report(self) -> None:
        try:
            write_report(self._output)
        except (ImportError, FileNotFoundError):
            return  # matplotlib is not installed, or there is nothing to tell yet

    def _write(self, step: int, loss_sum: float, skipped: int, rate: float) -> None:
        self._all_skipped += skipped
        if self._all_skipped > self._run.most_skipped:
            raise DivergedError(
                f"{self._all_skipped} steps by step {step} had gradients that were not finite, "
                f"more than run.most_skipped = {self._run.most_skipped}. The last checkpoint is "
                "from before; run again with a lower optimizer.learning_rate, "
                'optimizer.clip_norm = 1.0 or run.precision = "bf16".'
            )
        taken = self._steps - skipped
        figures = {
            "loss": loss_sum / taken if taken else None,
            "learning_rate": rate,
            "pictures_per_second": round(
                self._steps * self._run.batch_size / (time.monotonic() - self._since), 3
            ),
            "skipped": self._all_skipped,
        }
        if not self._quiet:
            self._bar.set_postfix(
                loss="-" if figures["loss"] is None else f"{figures['loss']:.4f}",
                pictures_per_s=f"{figures['pictures_per_second']:.1f}",
            )
            self._log({"step": step, **figures, "time": round(time.time(), 1)})
            self._show({name: v for name, v in figures.items() if v is not None}, step)
        self._loss, self._skipped, self._steps = 0.0, 0.0, 0
        self._since = time.monotonic()

    def _log(self, line: dict[str, Any]) -> None:
        append_line(self._output / "log.jsonl", json.dumps(line))

    def _show(self, figures: dict[str, float], step: int) -> None:
        if self._board is not None:
            with writing(self._output / _BOARD):
                for name, value in figures.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()


def _tensorboard(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Its own thread flushes once a day: of a full disk that prints a traceback, and it heeds the
    # time of day.
    with writing(folder):
        return SummaryWriter(str(folder), purge_step=step, flush_secs=86_400)


def _forget_after(log: Path, step: int) -> None:
    """Takes out of the log the steps that a resumed run is about to do again."""
    if not log.is_file():
        return
    kept = [entry for entry in read_log(log) if entry["step"] <= step]
    text = "".join(f"{json.dumps(entry)}\n" for entry in kept)
    write_atomically(log, lambda temporary: temporary.write_text(text, encoding="utf-8"))
