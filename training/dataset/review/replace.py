"""Replaces words in many captions at once, with a preview."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LONGEST = 4000  # characters of a caption; CLIP reads about 300
LONGEST_EXPRESSION = 1000
SECONDS = 5.0  # enough for 10,000 captions by an expression that is not runaway


class ReplaceError(ValueError):
    """An expression that is wrong, or does not come to an end."""


def replaced(
    texts: Sequence[str],
    find: str,
    replace: str,
    *,
    regex: bool = False,
    ignore_case: bool = False,
    seconds: float = SECONDS,
) -> list[str]:
    r"""Replaces in texts, and makes one space of several.

    Args:
        texts: captions.
        find: literal words, or a regular expression of Python's.
        replace: literal, or with groups such as `\1` where `regex` is set.
        regex: whether `find` is an expression.
        ignore_case: whether "Hair" is found by "hair".
        seconds: how long the expression may take over all texts.

    Raises:
        ReplaceError: it is empty, wrong or too long, or takes too long.
    """
    if not find:
        raise ReplaceError("There is nothing to look for.")
    if max(len(find), len(replace)) > LONGEST_EXPRESSION:
        raise ReplaceError(f"At most {LONGEST_EXPRESSION} characters can be looked for.")
    if not regex:
        find, replace = re.escape(find), replace.replace("\\", r"\\")
    job = {"find": find, "replace": replace, "ignore_case": ignore_case, "most": LONGEST}
    return [" ".join(text.split()) for text in _run({**job, "texts": list(texts)}, seconds)]


def _run(job: dict[str, object], seconds: float) -> list[str]:
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("expression.py"))]
    try:
        done = subprocess.run(
            command, input=json.dumps(job).encode(), capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise ReplaceError(
            f"The expression did not come to an end in {seconds:g} s. Avoid repetitions inside "
            "repetitions, such as (a+)+."
        ) from None
    if done.returncode:
        raise ReplaceError(f"The expression asks for too much ({done.stderr.decode()[-200:]}).")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ReplaceError(answer["error"])
    return answer["texts"]
