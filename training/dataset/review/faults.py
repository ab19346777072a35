"""What is wrong with a caption, told while it is typed."""

from __future__ import annotations

import re

from animesketchnet_core.prompt_keywords import KEYWORDS

from .replace import LONGEST


def faults(text: str, keywords: str = KEYWORDS) -> list[str]:
    """Says what is wrong with a caption: each keyword must be there, and be there once."""
    if not text.strip():
        return ["The caption is empty."]
    found = []
    if len(text) > LONGEST:
        found.append(f"The caption has {len(text)} characters; at most {LONGEST} are allowed.")
    for keyword in (" ".join(piece.split()) for piece in keywords.split(",")):
        words = r"[\s_]+".join(map(re.escape, keyword.split()))
        count = len(re.findall(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE))
        if count != 1:
            found.append(f'"{keyword}" is there {count} times; it must be there once.')
    return found
