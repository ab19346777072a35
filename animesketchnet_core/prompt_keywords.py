"""Sketch keywords in prompts and captions: each there, and there once.

The paper's captions all carry them (section 3.1.2), so a prompt without them asks the adapter for
something that it was not trained on.
"""

from __future__ import annotations

import re
from typing import Literal

KEYWORDS = "anime sketch, lineart, monochrome"

Place = Literal["front", "end"]


def add_keywords(prompt: str, keywords: str = KEYWORDS, place: Place = "front") -> str:
    """Adds those keywords that a prompt does not have yet.

    A keyword counts as there when its words stand in the prompt in a row, in any case, also with a
    weight, as in "(anime sketch:1.2)", or inside a longer phrase.

    Args:
        prompt: the prompt; comes back unchanged if it has all of them.
        keywords: with commas between.
        place: where to add.
    """
    wanted = [keyword for piece in keywords.split(",") if (keyword := " ".join(piece.split()))]
    unique = list(dict.fromkeys(wanted))
    missing = [keyword for keyword in unique if not _has(prompt, keyword)]
    if not missing:
        return prompt
    text = prompt.strip().strip(",").strip()
    pieces = [*missing, text] if place == "front" else [text, *missing]
    return ", ".join(piece for piece in pieces if piece)


def _has(prompt: str, keyword: str) -> bool:
    words = r"[\s_]+".join(map(re.escape, keyword.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE) is not None
