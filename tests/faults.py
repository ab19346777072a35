"""Runs command lines in processes of their own, with a fault planted, and says how they ended.

The processes are forked from one that has imported everything, so that each begins at once.
"""

from __future__ import annotations

import importlib
import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from training.dataset.__main__ import STAGES

if sys.platform != "win32":
    import resource

PROGRAMS = (
    "training.train", "training.evaluate", "training.dataset.__main__", "training.mini.__main__",
    "training.convert", "training.doctor", "training.report",
)  # fmt: skip
# Which they import when they need them.
LATER = (
    "cv2", "matplotlib.pyplot", "skimage.filters", "skimage.measure", "skimage.morphology",
    "torch.utils.tensorboard", *(f"training.dataset.{stage}" for stage in STAGES),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        at: it happens when so many files are written and the next one is about to get its name;
            None: at once.
        signal: the process gets it.
        full: from then on no file takes a byte, as on a disk that is full.
        clock: seconds by which time.time() jumps at each look, back and forth.
    """

    at: int | None = None
    signal: signal.Signals | None = None
    full: bool = False
    clock: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: its exit code, or less than 0: the signal that killed it.
        said: all that it printed; nothing if it was killed.
    """

    code: int
    said: str


def run(program: str, words: Sequence[str], fault: Fault | None = None) -> Ended:
    """Runs a program's `main` with the words of a command line."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([*PROGRAMS, *LATER, __name__])
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_run, args=(program, list(words), fault or Fault(), theirs))
    process.start()
    theirs.close()
    try:
        said = ours.recv()
    except EOFError:
        said = ""
    process.join()
    ours.close()
    assert process.exitcode is not None
    return Ended(process.exitcode, said)


def _run(program: str, words: list[str], fault: Fault, parent: Any) -> None:
    import torch

    torch.set_num_threads(1)
    # Background shells have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main = importlib.import_module(program).main
    _plant(fault)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = main(words)
        except BaseException:
            traceback.print_exc()
            code = 1
    parent.send(said.getvalue())
    sys.exit(code)


def _plant(fault: Fault) -> None:
    if fault.clock:
        looks, true = itertools.count(), time.time
        time.time = lambda: true() + fault.clock * (-1) ** next(looks)
    if fault.at is None:
        _strike(fault)
        return
    replace, written = Path.replace, itertools.count()

    def struck(path: Path, target: Path) -> Path:
        if path.suffix == ".part" and next(written) == fault.at:
            if fault.signal is signal.SIGKILL:  # half of it is on the disk
                os.truncate(path, path.stat().st_size // 2)
            _strike(fault)
        return replace(path, target)

    Path.replace = struck  # type: ignore[method-assign]


def _strike(fault: Fault) -> None:
    if fault.full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if fault.signal is not None:
        os.kill(os.getpid(), fault.signal)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder and all in it read-only; root, whom modes do not hold, needs a mount."""
    if sys.platform == "win32":
        pytest.skip("Windows has no read-only folders")
    if os.geteuid() == 0:
        with _mounted(folder, "mount", "--bind", str(folder), str(folder)):
            _mount("mount", "-o", "remount,ro,bind", str(folder))
            yield
        return
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    try:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode & 0o555)
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Callable[[int], None]]:
    """A file system of its own.

    Yields:
        A function that leaves so many bytes free on it.
    """
    folder.mkdir()
    with _mounted(folder, "mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)):

        def leave(room: int) -> None:
            filler = folder / "filler"
            filler.unlink(missing_ok=True)
            free = os.statvfs(folder)
            filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))

        yield leave


@contextmanager
def _mounted(folder: Path, *command: str) -> Iterator[None]:
    _mount(*command)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(*command: str) -> None:
    if (
        sys.platform != "linux"
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs root on Linux, for a file system of its own")
