"""Tells where a caption and the tags of the same picture contradict each other.

Two networks that were trained on different pictures seldom make the same mistake. Only what
excludes each other is compared: that a caption leaves out what the tags say is no contradiction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Aspect:
    """Something that can be said in one of several ways.

    Attributes:
        name: what it is.
        words: {value: pattern of the caption's words}.
        tags: {value: pattern of whole tags}.
    """

    name: str
    words: Mapping[str, str]
    tags: Mapping[str, str]


_FEMALE = r"girls?|wom[ae]n|lady|ladies|females?|she|her|maid|princess|queen|witch|schoolgirls?"
_MALE = r"boys?|m[ae]n|guys?|males?|he|his|gentlem[ae]n|prince|king|schoolboys?"
_PERSON = rf"{_FEMALE}|{_MALE}|persons?|people|child(?:ren)?|characters?"
_COLOURS = {
    "blonde": "blonde?|yellow|golden", "brown": "brown|brunette|auburn", "black": "black",
    "red": "red", "blue": "blue|aqua|light blue", "green": "green", "pink": "pink",
    "purple": "purple|violet|lavender", "white": "white|gr[ae]y|silver", "orange": "orange",
}  # fmt: skip
# How many: a number of girls, "1girl", or of boys.
_COUNTED = {"one": "1|a|one", "two": "2|two", "three": "3|three"}


def _coloured(noun: str) -> tuple[dict[str, str], dict[str, str]]:
    words = {c: rf"(?:{p})(?:[- ]\w+)?[- ]{noun}(?:ed|s)?" for c, p in _COLOURS.items()}
    return words, {c: rf"(?:{p}) {noun}s?" for c, p in _COLOURS.items()}


ASPECTS = (
    Aspect(
        "people",
        {"some": _PERSON},
        {"some": r"\d\+?(?:girl|boy|other)s?|solo", "none": "no humans"},
    ),
    Aspect(
        "sex",
        {"female": _FEMALE, "male": _MALE},
        {"female": r"\d\+?girls?|multiple girls", "male": r"\d\+?boys?|multiple boys"},
    ),
    Aspect(
        "number of girls",
        {n: rf"(?:{p}) (?:\w+ )?girls?" for n, p in _COUNTED.items()},
        {n: rf"{p[0]}girls?" for n, p in _COUNTED.items()} | {"many": r"\d\+girls|multiple girls"},
    ),
    Aspect(
        "number of boys",
        {n: rf"(?:{p}) (?:\w+ )?boys?" for n, p in _COUNTED.items()},
        {n: rf"{p[0]}boys?" for n, p in _COUNTED.items()} | {"many": r"\d\+boys|multiple boys"},
    ),
    Aspect("hair colour", *_coloured("hair")),
    Aspect("eye colour", *_coloured("eye")),
    Aspect(
        "place",
        {"indoors": "indoors|bedroom|kitchen|classroom|living room", "outdoors": "outdoors"},
        {"indoors": "indoors", "outdoors": "outdoors"},
    ),
    Aspect(
        "time of day",
        {"night": "night|nighttime", "day": "daytime|daylight|sunny"},
        {"night": "night|night sky", "day": "day"},
    ),
    Aspect(
        "number of persons",
        {"many": "two|three|four|five|group of (?:people|girls|boys)|crowd"},
        {"one": "solo"},
    ),
)  # fmt: skip


def contradictions(caption: str, tags: Iterable[str]) -> list[str]:
    """Lists in what a caption and tags cannot both be right.

    Args:
        caption: of the colour picture.
        tags: of the same, with spaces.

    Returns:
        A sentence's part each, such as "sex: the caption says male, the tags say female".
    """
    tags, found = list(tags), []
    for aspect in ASPECTS:
        said = _values(aspect.words, [caption], r"\b(?:{})\b")
        seen = _values(aspect.tags, tags, r"^(?:{})$")
        if said and seen and not said & seen:
            found.append(
                f"{aspect.name}: the caption says {' and '.join(sorted(said))}, "
                f"the tags say {' and '.join(sorted(seen))}"
            )
    return found


def _values(patterns: Mapping[str, str], texts: Iterable[str], whole: str) -> set[str]:
    texts = list(texts)
    return {
        value
        for value, pattern in patterns.items()
        if any(re.search(whole.format(pattern), text, re.IGNORECASE) for text in texts)
    }
