"""Counts the tokens that CLIP makes of a caption: it reads 75 and drops the rest in silence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache

from training.loading import ModelError

Count = Callable[[str], int]

# CLIP's own pattern of words, https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py:
# each digit is a token of its own.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_", re.IGNORECASE)
# Letters that are taken for a token. Common words of any length are one token to CLIP, so this
# counts a quarter too many on the captions of the tests, and too few only of abbreviations and
# names ("lllyasviel").
_LETTERS = 4


@cache
def token_counter() -> tuple[Count, bool]:
    """Makes a function that counts a text's tokens, without the two around it.

    Returns:
        The function, and whether it is exact: it needs CLIP's vocabulary, which comes with
        open_clip_torch. Without it, `estimate_tokens` counts.
    """
    from training.models import clip_tokenizer  # takes seconds

    try:
        tokenizer = clip_tokenizer()
    except ModelError:
        return estimate_tokens, False
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids), True


def estimate_tokens(text: str) -> int:
    """Counts tokens from above: one for each four letters, digit and mark.

    Abbreviations and other languages can need more than one for four letters.
    """
    pieces = _PIECES.findall(text)
    return sum(math.ceil(len(p) / _LETTERS) if p.isalpha() else len(p) for p in pieces)
