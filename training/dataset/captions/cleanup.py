"""Cleans up what captioning networks write, whichever network it was.

They echo the prompt, begin with "there is a picture of", run in circles ("a girl with a girl
with"), read watermarks aloud, stop in the middle of a phrase and invent words (BLIP: "arafed").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from .colour_words import word_set

_PICTURE = (
    r"(?:picture|image|photo|photograph|screenshot|screen shot|screencap|illustration|drawing|"
    r"artwork|painting|render|cartoon|still|frame|scene)"
)
_STYLE = r"(?:anime|manga|cartoon|digital|stock|beautiful|close[- ]up|animated|japanese)"
_OPENINGS = re.compile(
    rf"""^(?:
        (?:there|here)\s+(?:is|are)\s+ | there's\s+ | this\s+is\s+ | it\s+is\s+ | it's\s+ |
        (?:in\s+)?(?:this|the)\s+{_PICTURE}\s*,?\s*
            (?:shows|depicts|features|we\s+see|there\s+is)\s+ |
        (?:an?|the|this|some)?\s*(?:{_STYLE}\s+)*{_PICTURE}s?\s+(?:of|showing|depicting|with)\s+ |
        (?:question|answer)\s*:\s* | araf\w*\s+
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_NONSENSE = re.compile(r"\b(?:arafed|arafe|araffe\w*|arafly|araf)\b\s*", re.IGNORECASE)
_MARKS = re.compile(
    r"""watermark | signature | copyright | shutterstock | getty | istock | alamy | stock\s+photo |
    pixiv | patreon | deviantart | artist\s+name | https? | www\. | \.com\b | \u00a9 | @\w""",
    re.IGNORECASE | re.VERBOSE,
)
# Where a phrase about a watermark begins within a longer one.
_JOINTS = re.compile(
    r",|;|\.\s|\b(?:with|and|that|which|saying|featuring|containing|on)\b", re.IGNORECASE
)
_LOOSE = word_set(
    "a an the and or but with without of in on at by for from to into onto is are was were be her "
    "his their its my your that which who while as because very wearing than"
)
_LONGEST_REPEAT = 12  # words; networks that run in circles repeat a phrase, not a paragraph
_CONNECTORS = r"(?:and|with|in|on|of|by|next to)"


def clean_caption(text: str, prompt: str = "") -> str:
    """Makes one tidy line of a caption.

    Args:
        text: as a network or a person wrote it.
        prompt: what the network was to go on from; it goes, should the caption begin with it.

    Returns:
        Without a full stop at the end, so that phrases can follow; empty if nothing was said.
    """
    text = _one_line(text)
    if prompt and text.lower().startswith(prompt.lower()):
        text = text[len(prompt) :].strip(" ,:")
    while (cleaned := _cleaned(text)) != text:
        text = cleaned
    return text


def _cleaned(text: str) -> str:
    text = _NONSENSE.sub("", text)
    text = _OPENINGS.sub("", text)
    text = _without_marks(text)
    text = _without_repeats(text)
    return _punctuated(_without_loose_end(text))


def _one_line(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    visible = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    quotes = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
    return " ".join(visible.translate(quotes).split())


def _without_marks(text: str) -> str:
    """Drops each phrase that speaks of a watermark, from its joint to the next comma."""
    while (found := _MARKS.search(text)) is not None:
        joints = [joint for joint in _JOINTS.finditer(text, 0, found.start())]
        start = joints[-1].start() if joints else 0
        rest = re.search(r"[,;]|\.(?=\s|$)", text[found.end() :])
        end = found.end() + rest.start() if rest else len(text)
        text = f"{text[:start].rstrip()}{text[end:]}".strip(" ,;")
    return text


def _without_repeats(text: str) -> str:
    """Drops words that come twice in a row, and phrases joined to themselves."""
    words = text.split()
    for length in range(min(_LONGEST_REPEAT, len(words) // 2), 0, -1):
        words = _collapsed(words, length)
    text = " ".join(words)
    # "long hair and long hair", but not "hand in hand"
    text = re.sub(
        rf"\b(\w+(?: [\w'-]+){{1,8}})(?:,? {_CONNECTORS} \1\b)+", r"\1", text, flags=re.IGNORECASE
    )
    pieces = re.split(r"\s*,\s*", text)
    return ", ".join(dict.fromkeys(piece for piece in pieces if piece))


def _collapsed(words: Sequence[str], length: int) -> list[str]:
    kept: list[str] = []
    for word in words:
        kept.append(word)
        if len(kept) >= 2 * length and _same(kept[-length:], kept[-2 * length : -length]):
            del kept[-length:]
    return kept


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    # "a girl, a girl": the comma belongs to no word
    return [w.lower().strip(",") for w in one] == [w.lower().strip(",") for w in other]


def _without_loose_end(text: str) -> str:
    words = text.rstrip(" ,;:.-").split()
    while words and words[-1].lower().strip(",") in _LOOSE:
        words.pop()
    return " ".join(words) if len(words) < len(text.split()) else text


def _punctuated(text: str) -> str:
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    text = re.sub(r"([,;:!?])(?:\s*[,;:!?])+", r"\1", text)
    text = re.sub(r"(?:\.\s*){2,}", ". ", text)
    text = re.sub(r"([,;])(?=\w)", r"\1 ", text)
    return " ".join(text.split()).strip(" ,;:.-\"'!?|")
