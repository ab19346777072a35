"""Replaces in texts by a regular expression; a program, so that a runaway one can be ended.

Some expressions take time exponential in the text's length, and Python cannot interrupt them. Run
by replace.py with a time limit; reads {find, replace, ignore_case, most, texts} as JSON from the
standard input and prints {"texts": [...]} or {"error": "..."}. Imports nothing of this package.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any


def main() -> None:
    """Answers one request."""
    # Bytes, since Windows would read and print in its own code page.
    print(json.dumps(answer(json.loads(sys.stdin.buffer.read()))))


def answer(job: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces in all texts, or says why it cannot be done."""
    try:
        pattern = re.compile(job["find"], re.IGNORECASE if job["ignore_case"] else 0)
        return {"texts": [_replaced(pattern, job, text) for text in job["texts"]]}
    except (re.error, IndexError) as error:  # IndexError: of a group's name in the replacement
        return {"error": f"The expression is wrong: {error}."}
    except (RecursionError, OverflowError, _TooLong) as error:
        return {"error": f"The expression asks for too much: {error}."}


def _replaced(pattern: re.Pattern[str], job: Mapping[str, Any], text: str) -> str:
    written = 0

    def put(match: re.Match[str]) -> str:
        nonlocal written
        piece = match.expand(job["replace"])
        written += len(piece)
        if written > job["most"]:
            raise _TooLong(f"a caption would get longer than {job['most']} characters")
        return piece

    return pattern.sub(put, text)


class _TooLong(ValueError):
    pass


if __name__ == "__main__":
    main()
