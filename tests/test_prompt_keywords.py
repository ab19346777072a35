"""Sketch keywords: added where they lack, once."""

from __future__ import annotations

import pytest

from animesketchnet_core.prompt_keywords import KEYWORDS, add_keywords


def test_all_are_added_in_front():
    assert add_keywords("a girl, smile") == f"{KEYWORDS}, a girl, smile"


def test_or_at_the_end():
    assert add_keywords("a girl, ", place="end") == f"a girl, {KEYWORDS}"


def test_an_empty_prompt_becomes_the_keywords():
    assert add_keywords("  ") == KEYWORDS


@pytest.mark.parametrize(
    "prompt",
    [
        "anime sketch, lineart, monochrome, a girl",
        "a girl, (Anime Sketch:1.2), monochrome, lineart",
        "anime_sketch of a girl in monochrome lineart",
        "clean lineart\nMONOCHROME, an anime  sketch",
    ],
)
def test_what_is_there_is_not_added_again(prompt: str):
    assert add_keywords(prompt) == prompt


def test_only_what_lacks_is_added():
    assert add_keywords("lineart of a girl") == "anime sketch, monochrome, lineart of a girl"


def test_a_part_of_a_word_is_not_the_word():
    assert add_keywords("linearts", "lineart") == "lineart, linearts"


def test_adding_twice_is_adding_once():
    once = add_keywords("a girl")
    assert add_keywords(once) == once


def test_keywords_given_twice_are_added_once_and_signs_are_not_patterns():
    assert add_keywords("x", " a.b ,, a.b , c+") == "a.b, c+, x"
    assert add_keywords("axb", "a.b") == "a.b, axb"
