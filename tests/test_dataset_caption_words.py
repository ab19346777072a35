import random
import re

import pytest

from animesketchnet_core.prompt_keywords import KEYWORDS
from training.dataset.captions import colour_words
from training.dataset.captions.agreement import contradictions
from training.dataset.captions.cleanup import clean_caption
from training.dataset.captions.clip_tokens import estimate_tokens
from training.dataset.captions.colour_words import HUES, THINGS, TONES
from training.dataset.captions.sketch_caption import (
    count_keyword,
    fit,
    remove_colours,
    remove_keywords,
    sketch_caption,
    split_keywords,
)
from training.settings import ConfigError

# Caption, and what is left of it for the sketch.
WITHOUT_COLOURS = [
    ("a girl with red hair", "a girl with hair"),
    ("a girl in a red and white dress", "a girl in a dress"),
    ("a blonde girl", "a girl"),
    ("the sky is blue", ""),
    ("a girl in a field, the sky is blue", "a girl in a field"),
    ("a girl stands in a field and the sky is blue", "a girl stands in a field"),
    ("an orange umbrella", "an umbrella"),
    ("a red apple", "an apple"),
    ("an orange cat", "a cat"),
    ("a blue uniform", "a uniform"),
    ("an amber hourglass", "an hourglass"),
    ("a colorful drawing of a girl", "a drawing of a girl"),
    ("a blue and green striped shirt", "a striped shirt"),
    ("a red, white, and blue flag", "a flag"),
    ("a glass of orange juice", "a glass of orange juice"),
    ("an orange on a table", "an orange on a table"),
    ("an orange and an apple", "an orange and an apple"),
    ("a vase with a rose", "a vase with a rose"),
    ("a rose garden at noon", "a rose garden at noon"),
    ("a rose dress", "a dress"),
    ("Violet Evergarden writes a letter", "Violet Evergarden writes a letter"),
    ("a letter for Violet", "a letter for Violet"),
    ("violet eyes", "eyes"),
    ("a map of Greenland", "a map of Greenland"),
    ("a gold medal around his neck", "a gold medal around his neck"),
    ("a bottle of olive oil", "a bottle of olive oil"),
    ("a boy with gold eyes", "a boy with eyes"),
    ("Mr. Brown reads a book", "Mr. Brown reads a book"),
    ("a greenhouse by a redwood tree", "a greenhouse by a redwood tree"),
    ("a blackboard in a classroom", "a blackboard in a classroom"),
    ("a goldfish in a bowl", "a goldfish in a bowl"),
    ("a blueberry pie", "a blueberry pie"),
    ("a red-haired girl", "a girl"),
    ("a blue-eyed boy with light-brown hair", "a boy with hair"),
    ("a dark-haired girl", "a dark-haired girl"),
    ("a silver haired boy", "a boy"),
    ("a girl with long red hair", "a girl with long hair"),
    ("a girl with long, red hair", "a girl with long hair"),
    ("a girl with long, red, flowing hair", "a girl with long, flowing hair"),
    ("her hair is long and red", "her hair is long"),
    ("her hair is red and long", "her hair is long"),
    ("a girl dressed in red", "a girl"),
    ("a woman in red standing by a wall", "a woman standing by a wall"),
    ("a girl dressed in red and holding a sword", "a girl holding a sword"),
    ("a girl is wearing red and holding a cat", "a girl is holding a cat"),
    ("a girl wearing a red dress", "a girl wearing a dress"),
    ("a room in shades of blue", "a room"),
    ("a sky painted in various shades of pink and orange", "a sky"),
    ("a dress that is red", "a dress"),
    ("a girl whose hair is red", "a girl"),
    ("a girl with eyes that are green, a hat", "a girl with eyes, a hat"),
    ("the dress is red with white dots", "the dress with dots"),
    ("a light blue sky with white clouds", "a sky with clouds"),
    ("a black and white photo of a cat", "a photo of a cat"),
    ("a girl with black hair", "a girl with hair"),
    ("a grey cat on a white wall", "a cat on a wall"),
    ("a dark forest at night", "a dark forest at night"),
    ("red hair, blue eyes, school uniform", "hair, eyes, school uniform"),
    ("red hair, red", "hair"),
    ("a green and lush forest", "a lush forest"),
    ("a lush and green forest", "a lush forest"),
    ("a cat and a red ball", "a cat and a ball"),
    ("a multicolored umbrella", "an umbrella"),
    ("brightly colored balloons", "balloons"),
    ("colored pencils on a desk", "colored pencils on a desk"),
    ("a rainbow over a hill", "a rainbow over a hill"),
    ("rainbow hair", "hair"),
    ("a blonde sitting on a bench", "a person sitting on a bench"),
    ("two redheads in a car", "two people in a car"),
    ("she is blonde", ""),
    ("a reddish moon", "a moon"),
    ("a red-striped shirt", "a striped shirt"),
    ("a red-and-white awning", "an awning"),
    ("a blue whale in the sea", "a blue whale in the sea"),
    ("a panda and a red panda", "a panda and a red panda"),
    ("a girl eating vanilla ice cream", "a girl eating vanilla ice cream"),
    ("a cream dress", "a dress"),
    ("a girl in the red", "a girl"),
    ("the leaves are turning red", "the leaves"),
    ("the sky turns orange", ""),
    ("A girl. The sky is blue. A boy sleeps.", "A girl. A boy sleeps"),
    ("the sky is blue and the grass is green", ""),
    (
        "a house with a red roof, an orange door and a yellow window",
        "a house with a roof, a door and a window",
    ),
    ("a girl in an honest red dress", "a girl in an honest dress"),
    ("a teal one-piece swimsuit", "a one-piece swimsuit"),
    ("a tan line", "a line"),
    ("heterochromia, blue hair", "hair"),
    ("red_hair, blue_eyes", "hair, eyes"),
    ("a strawberry blonde girl", "a girl"),
    ("her hair is bright pink", ""),
    ("a girl with hair in the color red", "a girl with hair"),
    ("in full color", ""),
    ("the walls are green, a desk", "a desk"),
    (
        "a girl reads under a tree with orange leaves while the sun sets",
        "a girl reads under a tree with leaves while the sun sets",
    ),
    ("roses are red and violets are blue", ""),
    ("a two-tone jacket", "a jacket"),
    ("a red building with blue railings", "a building with railings"),
    ("a girl holding a red rose", "a girl holding a rose"),
    ("a blue violet in a pot", "a violet in a pot"),
    ("violet, rose, a girl", "violet, rose, a girl"),
    ("a girl, orange", "a girl"),
    ("the girl is blonde and is wearing a hat", "the girl is wearing a hat"),
    ("the girl is blonde and wearing a hat", "the girl is wearing a hat"),
    ("the dress is red but has dots", "the dress has dots"),
    ("a girl with her face turned red", "a girl with her face"),
    ("her hair, which is blue, is tied back", "her hair is tied back"),
    ("the sky is a bright shade of orange", "the sky"),
    ("the colors are bright, a girl", "a girl"),
    ("a girl in red is smiling", "a girl is smiling"),
    ("a girl with eyes the color of the sea", "a girl with eyes"),
    ("a girl dressed all in black", "a girl"),
    ("a mountain with a clear blue sky above", "a mountain with a clear sky above"),
    ('a sign that says "Blue Cafe"', 'a sign that says "Cafe"'),
    ("a girl named Rose stands by a white rose", "a girl named Rose stands by a rose"),
    ("Scarlet and Violet walk together", "Scarlet and Violet walk together"),
    ("a pot of gold at the end of a rainbow", "a pot of gold at the end of a rainbow"),
    ("a knight in silver armor", "a knight in armor"),
    ("a bowl of peaches and an orange", "a bowl of peaches and an orange"),
    ("an unusual red umbrella", "an unusual umbrella"),
    ("a girl with teal colored hair", "a girl with hair"),
    ("a yellow-green light shines", "a light shines"),
]

# Of a network's text, what a person would have written.
CLEANED = [
    ("there is a girl with a hat", "a girl with a hat"),
    ("There is a picture of a girl.", "a girl"),
    ("a picture of a girl in a park", "a girl in a park"),
    ("an anime image of a boy", "a boy"),
    ("this is an illustration of two girls", "two girls"),
    ("a girl with a girl with a girl with", "a girl"),
    ("a girl with a girl with", "a girl"),
    ("a girl with long hair and long hair", "a girl with long hair"),
    ("a man standing in front of a", "a man standing in front"),
    ("two girls walking hand in hand", "two girls walking hand in hand"),
    ("a street side by side with a river", "a street side by side with a river"),
    ("arafed woman in a dress", "woman in a dress"),
    ("a girl sitting on a bench with a watermark on it", "a girl sitting on a bench"),
    ("a girl, shutterstock.com, a bench", "a girl, a bench"),
    ("watermark", ""),
    ("a girl in a room, artist name, signature", "a girl in a room"),
    ("a girl ,  a   hat !!", "a girl, a hat"),
    ("girl, hat, girl, hat", "girl, hat"),
    ("a\ngirl\twith\u200b hat\x00", "a girl with hat"),
    ("a close up of a girl's face", "a close up of a girl's face"),
    ("the picture shows a cat on a roof", "a cat on a roof"),
    ("a cat cat cat on a roof", "a cat on a roof"),
    ("a girl is sitting. She is reading.", "a girl is sitting. She is reading"),
    ("an anime illustration of a girl and", "a girl"),
    ("", ""),
    ("the", ""),
    ("a girl and a girl", "a girl"),
    ("a girl and a boy", "a girl and a boy"),
    ("a girl reads a drawing of a cat", "a girl reads a drawing of a cat"),
]


@pytest.mark.parametrize(("caption", "expected"), WITHOUT_COLOURS)
def test_colours_go_and_grammar_stays(caption, expected):
    assert remove_colours(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a girl with black hair", "a girl with black hair"),
        ("a black and white photo", "a black and white photo"),
        ("a girl in a red and white dress", "a girl in a dress"),  # "white dress" would be wrong
        ("a black-haired girl in a pink coat", "a black-haired girl in a coat"),
        ("the sky is grey", "the sky is grey"),
    ],
)
def test_tones_can_be_kept(caption, expected):
    assert remove_colours(caption, keep_tones=True) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a girl", "a girl"),
        ("Anime Sketch, a girl, LINE ART", "a girl"),
        ("monochrome, lineart, anime sketch", ""),
        ("a girl, (lineart:1.2), line-art", "a girl"),
        ("a sketch of an anime girl standing", "a girl standing"),
        ("an anime sketch of a girl", "a girl"),
        ("a monochrome illustration of a girl", "an illustration of a girl"),
        ("a girl drawn in monochrome", "a girl drawn"),
        ("the line artist at work", "the line artist at work"),
        ("a monochrome lineart drawing", "a drawing"),
        ("line_art, a girl", "a girl"),
    ],
)
def test_keywords_in_any_spelling_are_found(caption, expected):
    result = sketch_caption(caption, KEYWORDS, "front")
    assert result == (f"{KEYWORDS}, {expected}" if expected else KEYWORDS)
    assert all(count_keyword(result, keyword) == 1 for keyword in KEYWORDS.split(", "))


def test_keywords_stand_at_the_end_if_wanted():
    assert sketch_caption("a red cat", "ink, lineart", "end") == "a cat, ink, lineart"
    assert sketch_caption("a cat, Ink, line art", "ink, lineart", "end") == "a cat, ink, lineart"


def test_a_keyword_that_only_the_removal_of_a_colour_makes():
    assert sketch_caption("a line blue art", KEYWORDS, "front") == KEYWORDS


@pytest.mark.parametrize("keywords", ["sketch, anime sketch", "lineart, line art", "ink, ink", ","])
def test_keywords_that_cannot_be_there_once(keywords):
    with pytest.raises(ConfigError, match=r"caption\.keywords"):
        split_keywords(keywords)


def test_random_captions_end_up_colour_free_with_keywords_once_and_stay_so():
    chance = random.Random(0)
    colours = sorted(HUES | TONES | THINGS)
    colours += ["red-haired", "blue-and-white", "light blue", "rose gold", "blood red", "Green"]
    others = re.findall(
        r"\S+",
        "a an the girl boy with in and , , . is wearing dress hair eyes standing holds of on two "
        "sky long lush while that looking lineart line art anime sketch Monochrome one who",
    )
    plain = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(HUES | TONES))})(?![\w-])", re.IGNORECASE)
    for _ in range(4000):
        length = chance.randint(1, 14)
        words = [chance.choice(colours if chance.random() < 0.3 else others) for _ in range(length)]
        caption = " ".join(words)
        result = sketch_caption(caption, KEYWORDS, "front")
        body = result.removeprefix(KEYWORDS)
        assert result.startswith(KEYWORDS), caption
        assert all(count_keyword(result, keyword) == 1 for keyword in KEYWORDS.split(", ")), caption
        assert not colour_words.colour_words(body), caption
        # A second search, which knows of no grammar: only names with a capital may be left.
        assert {found.group() for found in plain.finditer(body)} <= {"Green"}, caption
        assert sketch_caption(result, KEYWORDS, "front") == result, caption


def test_colours_are_listed_with_their_neighbours():
    text = "a light blue and white sky over an orange on a red carpet, green eyes"
    assert colour_words.colour_words(text) == ["light blue and white", "green"]


@pytest.mark.parametrize(("text", "expected"), CLEANED)
def test_captions_are_cleaned(text, expected):
    assert clean_caption(text) == expected
    assert clean_caption(expected) == expected


def test_an_echoed_prompt_goes():
    assert clean_caption("An anime drawing on silk of a dog", "an anime drawing on silk of") == (
        "a dog"
    )


def test_a_caption_is_shortened_by_phrases_then_by_words():
    count = lambda text: len(text.split())  # noqa: E731
    assert fit("a girl in a room, a hat, two cats", count, 8) == "a girl in a room, a hat"
    assert fit("a girl in a room", count, 4) == "a girl"  # "in a" is no end
    assert fit("a girl", count, 4) == "a girl"


def test_keywords_are_taken_out_with_their_article_only():
    assert remove_keywords("a girl, an anime sketch", KEYWORDS) == "a girl"
    assert remove_keywords("a girl with an apple", KEYWORDS) == "a girl with an apple"


@pytest.mark.parametrize(
    ("caption", "tags", "aspects"),
    [
        ("a boy in a room", ["1girl", "solo"], ["sex"]),
        ("a boy and a girl", ["1girl", "1boy"], []),
        ("two girls on a bench", ["1girl"], ["number of girls"]),
        ("two girls on a bench", ["2girls"], []),
        ("two girls on a bench", ["multiple girls"], ["number of girls"]),
        ("a girl with red hair", ["1girl", "green hair"], ["hair colour"]),
        ("a red-haired girl", ["1girl", "blue hair"], ["hair colour"]),
        ("a girl with long red hair", ["1girl", "red hair", "long hair"], []),
        ("a street at night", ["no humans", "day"], ["time of day"]),
        ("a girl on a street", ["no humans"], ["people"]),
        ("a bedroom", ["outdoors"], ["place"]),
        ("a hat", ["1girl"], []),
        ("the human next to a woman", ["1boy"], ["sex"]),
        ("the womanly hermit", ["1boy"], []),
    ],
)
def test_contradictions_between_caption_and_tags(caption, tags, aspects):
    assert [found.split(":")[0] for found in contradictions(caption, tags)] == aspects


def test_the_estimate_counts_by_letters_digits_and_marks():
    assert estimate_tokens("a girl, 12 months!") == 1 + 1 + 1 + 2 + 2 + 1
