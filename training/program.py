"""What the command lines share: errors told in a line, signals, exit codes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

GOES_ON = "the same command goes on from here"


def run_program(
    work: Callable[[], int], errors: tuple[type[Exception], ...], goes_on: str = GOES_ON
) -> int:
    """Runs a program's work, and lets SIGTERM end it as Ctrl-C does.

    Args:
        work: does it, and gives the exit code.
        errors: inputs that cannot be used; each says what to do about it.
        goes_on: what is told of a run that was interrupted.

    Returns:
        The code of `work`; 2: an input cannot be used; 130: Ctrl-C; 143: SIGTERM.
    """
    mine = threading.current_thread() is threading.main_thread()  # Python has no others listen
    before = signal.signal(signal.SIGTERM, _end) if mine else None
    try:
        return work()
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as asked:
        print(f"interrupted; {goes_on}", file=sys.stderr)
        return ended_by(asked.args[0] if asked.args else signal.SIGINT)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def ended_by(number: int) -> int:
    """The exit code of a program that a signal ended, as shells count."""
    return 128 + number


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
