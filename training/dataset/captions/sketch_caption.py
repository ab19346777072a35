"""Turns a caption of the colour picture into one of its sketch: no colours, the keywords once.

A sketch has no colours, and a caption that names them teaches the adapter wrong connections, so
"a girl with red hair" becomes "anime sketch, lineart, monochrome, a girl with hair". The keywords
are the paper's (section 3.1.2: "we include relevant keywords in each image label").

Black, white and grey go as well unless they are to be kept. A monochrome drawing could show them,
but lines have no fills: in this pack's line extraction of the five demo backgrounds, the darkest
fifth of the picture (mean lightness 0.13 to 0.26) comes out 71 to 91 % white, the brightest 100 %.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from animesketchnet_core.prompt_keywords import Place, add_keywords
from training.settings import ConfigError

from . import colour_words as words
from .colour_words import Run, find_run, is_content, is_participle, tokens_of, word_set

MOST_TOKENS = 75  # of CLIP's 77, which begin and end the text
_LONGEST_TOKEN = 20  # letters; spares counting what cannot fit

_DRESSED = word_set(
    "dressed clad bathed decked lit painted dyed drenched rendered covered colored coloured"
)
_ADVERBS = word_set("very so too all mostly also now slightly partly not both entirely")
_ADJECTIVES = word_set(
    "long short big small large tall little tiny huge lush soft curly wavy straight messy shiny "
    "beautiful pretty cute old new young round thin thick warm cold clean fluffy spiky flowing "
    "frilly sparkling glossy ruffled striped plain simple fancy elegant wide narrow"
)
_LEADING = word_set("and or & but is are was were")
_TRAILING = (
    words.CONJUNCTIONS
    | words.COPULAS
    | word_set(
        "with of in on at by for from to into onto under over as like a an the very has have"
    )
)
_NO_SPACE_BEFORE = ".,;:!?)]}%"
_CLAUSE_ENDS = ".,;:!?()"
# Vowels that sound like "you" or "won", and a silent h.
_LIKE_CONSONANTS = re.compile(r"(?:uni(?!n|m)|use|usu|uto|eu|ewe|one\b|once|ufo)", re.IGNORECASE)
_SILENT_H = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)


def sketch_caption(caption: str, keywords: str, place: Place, keep_tones: bool = False) -> str:
    """Makes the caption of a sketch; one that it made already comes back unchanged.

    Args:
        caption: of the colour picture.
        keywords: with commas between; each is in the result exactly once.
        place: where they stand.
        keep_tones: black, white and grey stay.

    Returns:
        The keywords alone if the caption speaks of nothing but colours.
    """
    body, before = _tidy(caption), None
    while body != before:  # "line blue art" has a keyword only when the colour is gone
        before = body
        body = _tidy(remove_keywords(remove_colours(body, keep_tones), keywords))
    return add_keywords(body, keywords, place)


def remove_colours(caption: str, keep_tones: bool = False) -> str:
    """Takes the colours out of a caption and mends the grammar around them.

    A caption without colours comes back unchanged.
    """
    tokens = tokens_of(caption)
    if find_run(tokens, keep_tones) is None:
        return caption
    while (run := find_run(tokens, keep_tones)) is not None:
        tokens = _without(tokens, run)
    return _tidy(_joined(tokens))


def split_keywords(keywords: str) -> list[str]:
    """Lists the keywords of a setting.

    Raises:
        ConfigError: there are none, or one is part of another and could not be there once.
    """
    wanted = [keyword for piece in keywords.split(",") if (keyword := " ".join(piece.split()))]
    for keyword in wanted:
        if sum(count_keyword(other, keyword) for other in wanted) != 1:
            raise ConfigError(
                f"caption.keywords is {keywords!r}, where {keyword!r} comes more than once. Each "
                "keyword has to be in a caption exactly once."
            )
    if not wanted:
        raise ConfigError("caption.keywords is empty; name at least one, as the paper does.")
    return wanted


def count_keyword(caption: str, keyword: str) -> int:
    """How often a keyword stands in a caption, in any case, spelling and order of its words.

    "line art", "Line-Art" and "lineart" are one keyword, "sketch of anime" is "anime sketch".
    """
    return len(re.findall(_variants(keyword), caption, re.IGNORECASE))


def remove_keywords(caption: str, keywords: str) -> str:
    """Takes every variant of the keywords out, with an article before and an "of" behind."""
    text = caption
    for keyword in keywords.split(","):
        if keyword.strip():
            text = re.sub(
                rf"(?:\bin\s+)?[(\[]*(?P<article>\b(?:an?|the)\s+)?{_variants(keyword)}"
                r"(?::[\d.]+)?[)\]]*(?P<of>\s+of\b)?",
                _keep_article,
                text,
                flags=re.IGNORECASE,
            )
    return caption if text == caption else _tidy(text)


def fit(caption: str, count: Callable[[str], int], most: int = MOST_TOKENS) -> str:
    """Shortens a caption to what CLIP reads: whole phrases go first, then words.

    Args:
        caption: without keywords.
        count: tokens of the caption with whatever will be added to it.
        most: as many as are allowed.
    """
    if len(caption) > most * _LONGEST_TOKEN:
        caption = caption[: most * _LONGEST_TOKEN].rpartition(" ")[0]
    while caption and count(caption) > most:
        shorter = caption.rpartition(", ")[0] or caption.rpartition(" ")[0]
        caption = _tidy(shorter)
    return caption


def _variants(keyword: str) -> str:
    """A pattern of a keyword's spellings and orders."""
    parts = keyword.split()
    straight = r"[\s_-]*".join(map(re.escape, "".join(parts)))
    turned = r"\s+(?:of\s+)?(?:an?\s+|the\s+)?".join(map(re.escape, reversed(parts)))
    plural = "" if keyword.endswith("s") else "(?:es|s)?"
    both = f"{straight}{plural}" + (f"|{turned}" if len(parts) > 1 else "")
    return rf"(?<![\w-])(?:{both})(?![\w-])"


def _keep_article(found: re.Match[str]) -> str:
    """The article stays in "a lineart drawing", and goes in "a lineart of a girl"."""
    after = tokens_of(found.string[found.end() :])[:1]
    if found["of"] or not found["article"] or not after:
        return " "
    return f" {_article(found['article'].strip(), after[0])} "


def _without(tokens: list[str], run: Run) -> list[str]:
    """Removes one row of colours with what has no meaning without it."""
    rest = words.compound_rest(tokens[run.start]) if run.end - run.start == 1 else ""
    if rest:
        return _with_article([*tokens[: run.start], rest, *tokens[run.end :]], run.start)
    person = words.PERSONS.get(tokens[run.end - 1].lower())
    if person and not run.modifies and _before(tokens, run.start) in words.DETERMINERS:
        return _with_article([*tokens[: run.start], person, *tokens[run.end :]], run.start)
    start, end = _modifier(tokens, run) if run.modifies else _head(tokens, run)
    return _with_article(tokens[:start] + tokens[end:], start)


def _modifier(tokens: Sequence[str], run: Run) -> tuple[int, int]:
    """What goes with colours in front of a noun: what joins them to another adjective."""
    start = run.start
    joined = start >= 2 and tokens[start - 1].lower() in (",", "and", "or", "&")
    if joined and tokens[start - 2].lower() in _ADJECTIVES:
        start -= 1
    elif start >= 3 and tokens[start - 2 : start] == [",", "and"]:
        start -= 2 if tokens[start - 3].lower() in _ADJECTIVES else 0
    return start, run.end


def _head(tokens: Sequence[str], run: Run) -> tuple[int, int]:
    """What goes with colours that no noun follows."""
    start, end = run.start, run.end
    while _before(tokens, start) in _ADVERBS:
        start -= 1
    before, after = _before(tokens, start), _at(tokens, end)
    if tokens[end - 1].lower() in ("color", "colour") and after == "of":  # "the color of the sea"
        end = _noun_end(tokens, end + 1)
    if after == "and" and is_participle(_at(tokens, end + 1)):  # "is blonde and holding"
        return (start if before in words.COPULAS else _phrase(tokens, start)), end + 1
    if after in ("and", "&", ",") and _continues(tokens, before, end + 1):
        return start, end + 1
    if before in ("and", "or", "&"):  # "long and red": "long" stays
        return start - 1, end
    if before in words.COPULAS:
        return _predicate(tokens, start - 1, end)
    begin = _phrase(tokens, start)
    opens = begin == 0 or tokens[begin - 1] in _CLAUSE_ENDS
    if opens and after in words.COPULAS and tokens[begin].lower() not in words.PREPOSITIONS:
        return begin, _clause_end(tokens, end)  # "the colors are bright"
    return begin, end


def _continues(tokens: Sequence[str], before: str, place: int) -> bool:
    """Whether another adjective stands here: "a green and lush forest", "is red and long"."""
    if not is_content(_at(tokens, place)):
        return False
    after = _at(tokens, place + 1)
    ends = not after[:1].isalnum() or after in words.PREPOSITIONS
    return before in words.DETERMINERS or (before in words.COPULAS and ends)


def _predicate(tokens: Sequence[str], copula: int, end: int) -> tuple[int, int]:
    """All of "the sky is blue" goes; of "the dress is red with dots" the noun stays."""
    if _at(tokens, end) in words.PREPOSITIONS and _at(tokens, end) not in ("like", "as", "in"):
        return copula, end
    if _at(tokens, end) in ("and", "but") and _at(tokens, end + 1) in words.COPULAS | words.VERBS:
        return copula, end + 1  # "is blonde and has a hat"
    start = copula
    while start > 0 and tokens[start - 1] not in _CLAUSE_ENDS:
        start -= 1
        if tokens[start].lower() in words.CONJUNCTIONS:
            break
    if _at(tokens, end) in ("and", "while", "but", "as") and start == 0:
        end += 1
    return start, end


def _clause_end(tokens: Sequence[str], place: int) -> int:
    while place < len(tokens) and tokens[place] not in _CLAUSE_ENDS:
        if tokens[place].lower() in words.CONJUNCTIONS:
            break
        place += 1
    return place


def _noun_end(tokens: Sequence[str], place: int) -> int:
    """Where a noun with its article ends."""
    while _at(tokens, place) in words.DETERMINERS:
        place += 1
    while is_content(_at(tokens, place)):
        place += 1
    return place


def _phrase(tokens: Sequence[str], start: int) -> int:
    """Where the phrase begins that colours end: "dressed in various shades of" blue."""
    if _before(tokens, start) in ("color", "colour"):
        start -= 1
    if _before(tokens, start) == "of" and tokens[max(0, start - 2)].lower() in words.QUANTITIES:
        start -= 2
        while _before(tokens, start) in ("various", "different", "many", "several", "bright"):
            start -= 1
    while _before(tokens, start) in words.DETERMINERS:
        start -= 1
    if _before(tokens, start) in words.PREPOSITIONS:
        start -= 1
    if _before(tokens, start) == "all":  # "dressed all in black"
        start -= 1
    if _before(tokens, start) in _DRESSED | words.PAINTED:
        start -= 1
    return start


def _before(tokens: Sequence[str], place: int) -> str:
    return tokens[place - 1].lower() if place > 0 else ""


def _at(tokens: Sequence[str], place: int) -> str:
    return tokens[place].lower() if place < len(tokens) else ""


def _with_article(tokens: list[str], place: int) -> list[str]:
    """Fits "a" or "an" in front of a place to what stands there now."""
    if _before(tokens, place) not in ("a", "an"):
        return tokens
    article = _article(tokens[place - 1], tokens[place] if place < len(tokens) else "")
    return [*tokens[: place - 1], *([article] if article else []), *tokens[place:]]


def _article(article: str, after: str) -> str:
    """The right form of an article; nothing where no noun follows."""
    if not is_content(after) and not is_participle(after):
        return ""
    if article.lower() == "the":
        return article
    right = "an" if _sounds_open(after) else "a"
    return right.capitalize() if article[0].isupper() else right


def _sounds_open(word: str) -> bool:
    if _SILENT_H.match(word):
        return True
    if len(word) > 1 and word.isupper() and not word.isalpha():
        return False
    return word[0].lower() in "aeiou" and not _LIKE_CONSONANTS.match(word)


def _joined(tokens: Sequence[str]) -> str:
    text, quoted, close = "", False, True
    for token in tokens:
        ends = token in _NO_SPACE_BEFORE or (token == '"' and quoted)
        text += token if close or ends else f" {token}"
        quoted ^= token == '"'
        close = token in "([{" or (token == '"' and quoted)
    return text


def _tidy(text: str) -> str:
    """Cleans up what removals leave: empty phrases, loose ends, doubled commas."""
    while (tidied := _tidied(text)) != text:
        text = tidied
    return text


def _tidied(text: str) -> str:
    text = re.sub(r"[(\[]\s*[)\]]", "", text)
    text = re.sub(r"\s*\.(?:\s*\.)+", ".", text)
    pieces: list[str] = []
    for piece in re.split(r"\s*[,;]\s*", text):
        kept = piece.strip(" .:").split()
        while kept and not pieces and kept[0].lower() in _LEADING:
            kept.pop(0)
        while kept and kept[-1].lower() in _TRAILING:
            kept.pop()
        piece = " ".join(kept)
        if pieces and kept and kept[0].lower() in words.COPULAS:  # "her hair, [...], is long"
            pieces[-1] += f" {piece}"
        elif piece and piece.lower() not in (known.lower() for known in pieces):
            pieces.append(piece)
    return ", ".join(pieces)
