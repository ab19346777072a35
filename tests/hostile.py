"""Broken and hostile input for tests: seeded damage of files, and what readers may answer to it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pytest

Damage = Callable[[bytes, np.random.Generator], bytes]


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips up to eight bits anywhere."""
    data = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        data[place] ^= 1 << rng.integers(8)
    return data.tobytes()


def flip_bits_of_the_head(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits of the first kilobyte, where formats have their sizes."""
    return flip_bits(content[:1024], rng) + content[1024:]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """Ends anywhere, as a download does that was broken off."""
    return content[: rng.integers(len(content))]


def drop_a_piece(content: bytes, rng: np.random.Generator) -> bytes:
    """Takes up to 64 bytes out."""
    start = int(rng.integers(len(content)))
    return content[:start] + content[start + int(rng.integers(1, 65)) :]


def repeat_a_piece(content: bytes, rng: np.random.Generator) -> bytes:
    """Writes up to 64 bytes twice."""
    start = int(rng.integers(len(content)))
    end = start + int(rng.integers(1, 65))
    return content[:end] + content[start:]


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    """Overwrites a piece with zeros, ones or noise, as a failing disk does."""
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 513))
    fills = (bytes(length), b"\xff" * length, rng.bytes(length))
    piece = fills[rng.integers(len(fills))]
    return content[:start] + piece[: len(content) - start] + content[start + length :]


DAMAGES: tuple[Damage, ...] = (
    flip_bits, flip_bits_of_the_head, cut, drop_a_piece, repeat_a_piece, overwrite,
)  # fmt: skip


def damaged(content: bytes, seed: int) -> bytes:
    """Damages a file's content in one or two ways; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for number in rng.integers(len(DAMAGES), size=rng.integers(1, 3)):
        if content:
            content = DAMAGES[number](content, rng)
    return content


@contextmanager
def only(
    errors: type[Exception] | tuple[type[Exception], ...], case: object, *names: str
) -> Iterator[None]:
    """Lets these errors pass, if they name the file; any other fails with the case's name."""
    told = ""
    try:
        yield
        return
    except errors as error:
        told = str(error)
    except Exception:
        pytest.fail(f"{case}:\n{traceback.format_exc()}")
    unnamed = [name for name in names if name not in told]
    assert not unnamed, f"{case}: the message does not name {unnamed}: {told}"
    assert len(told) < 5000, f"{case}: a message of {len(told)} characters"


@contextmanager
def no_new_file(folder: Path) -> Iterator[None]:
    """Fails if the block leaves a file behind."""
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


@contextmanager
def memory_within(megabytes: float) -> Iterator[None]:
    """Fails if the block's memory peaks higher than so much above what there was before it."""
    try:
        before = machine.forget_peak_bytes()
    except OSError:
        pytest.skip("this system does not tell a process's peak of memory")
    yield
    peak = machine.peak_bytes() - before
    assert peak <= megabytes * 1e6, f"{peak / 1e6:.0f} MB, {megabytes:.0f} were allowed"


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


def codes_that_touch(marker: Path) -> dict[str, Any]:
    """Objects that make a file when they are unpickled, by how they do it."""
    import subprocess

    text = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Runs(os.system, f"touch '{marker}'"),
        "exec": Runs(exec, text),
        "eval": Runs(eval, text),
        "subprocess": Runs(subprocess.run, ["touch", str(marker)]),
        "open": Runs(open, str(marker), "w"),
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
        "in a dict": {"state_dict": {"image_proj.latents": Runs(exec, text)}},
    }


def opcodes_that_touch(marker: Path) -> dict[str, bytes]:
    """The same as pickles written by hand, with opcodes that pickle.dump never writes."""
    command = f"touch '{marker}'"
    return {
        "GLOBAL": b"\x80\x02cposix\nsystem\nU"
        + bytes([len(command)])
        + command.encode()
        + b"\x85R.",
        "INST": b"\x80\x02(S'" + command.replace("'", "\\'").encode() + b"'\niposix\nsystem\n.",
        "OBJ": b"\x80\x02(cposix\nsystem\nS'" + command.replace("'", "\\'").encode() + b"'\no.",
    }
