"""Checks the captions of sketches: every one of them has to pass (paper, section 3.1.2).

"To highlight the characteristics of anime sketch styles, we include relevant keywords in each image
label": a single caption without them is a fault of the data set.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from animesketchnet_core.prompt_keywords import add_keywords

from ..config import CaptionSettings
from .clip_tokens import Count, token_counter
from .colour_words import colour_words
from .sketch_caption import MOST_TOKENS, count_keyword, remove_keywords, split_keywords


def check_captions(
    pictures: Iterable[str], captions: Mapping[str, str], settings: CaptionSettings
) -> list[str]:
    """Lists what is wrong with the captions of sketches.

    Args:
        pictures: the ids of all pictures that must have one.
        captions: by picture, such as the texts "caption_sketch" or what was exported.
        settings: keywords, their place, and whether tones may be named.

    Returns:
        A sentence for each fault, beginning with the picture's id; empty if all is well.

    Raises:
        ConfigError: the keywords cannot all be in a caption once.
    """
    ids = list(pictures)
    if not ids:
        return []
    count, _ = token_counter()
    return [
        f"{picture}: {fault}"
        for picture in ids
        for fault in caption_faults(captions.get(picture, ""), settings, count)
    ]


def caption_faults(caption: str, settings: CaptionSettings, count: Count) -> list[str]:
    """Lists what is wrong with one caption of a sketch.

    Args:
        caption: with its keywords.
        settings: as in `check_captions`.
        count: of `token_counter`.
    """
    if not caption.strip():
        return ["it has no caption"]
    keywords = split_keywords(settings.keywords)
    faults = [
        f"the keyword {keyword!r} is there {times} times, not once"
        for keyword in keywords
        if (times := count_keyword(caption, keyword)) != 1
    ]
    faults += _misplaced(caption, ", ".join(keywords), settings.place)
    body = remove_keywords(caption, settings.keywords)
    if not body:
        faults.append("it says nothing besides the keywords")
    if colours := colour_words(body, settings.keep_tones):
        faults.append(f"a sketch has no colours, and it says {', '.join(map(repr, colours))}")
    if (tokens := count(caption)) > MOST_TOKENS:
        faults.append(f"it has {tokens} tokens, and CLIP reads {MOST_TOKENS}")
    if any(unicodedata.category(letter)[0] == "C" for letter in caption):
        faults.append("it has characters that cannot be seen")
    return faults


def _misplaced(caption: str, keywords: str, place: str) -> list[str]:
    front = place == "front"
    held = caption.startswith(keywords) if front else caption.endswith(keywords)
    if held and add_keywords(caption, keywords) == caption:
        return []
    return [f"the keywords {keywords!r} do not stand at its {place}"]
