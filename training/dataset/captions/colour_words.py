"""Finds the words of a caption that say a colour, and leaves alone those that only look like it.

No parser is used: a word's neighbours decide. "orange" before a noun is a colour ("an orange
dress"), after an article and before anything else it is a fruit ("an orange on a table"), in a
fixed compound it names a kind ("orange juice"), and with a capital letter inside a sentence it is
a name ("Violet Evergarden", "Mr. Brown").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


def word_set(text: str) -> frozenset[str]:
    """Makes a set of the words of a text."""
    return frozenset(text.split())


# Say a colour wherever they stand.
HUES = word_set("""
    red blue green yellow purple pink brown cyan magenta teal turquoise crimson maroon beige azure
    vermilion fuchsia cerulean ultramarine ochre sepia taupe mauve burgundy auburn golden silvery
    reds blues greens yellows purples pinks browns reddish bluish greenish
    yellowish purplish pinkish brownish orangish blond blonde brunette brunet redhead
    redheaded blondes brunettes redheads colorful colourful multicolor multicolour multicolored
    multicoloured technicolor color colour colors colours colored coloured heterochromia
    heterochromatic two-tone
""")
# Colours that are things and names, too.
THINGS = word_set("""
    orange rose violet olive lime peach gold silver coral lavender mint cream chestnut lilac ruby
    emerald sapphire amber copper bronze ivory scarlet indigo rainbow ginger navy aqua jade
    mustard salmon plum apricot tan khaki pastel rust cobalt
""")
# What a drawing in black and white could show, if it had fills.
TONES = word_set("black white grey gray greys grays greyish grayish whitish blackish")
NAMES = word_set("""
    violet rose scarlet amber ruby olive ginger jade coral ivory brown white black green gray grey
    sapphire indigo red
""")
PERSONS = {
    "blonde": "person", "blond": "person", "brunette": "person", "brunet": "person",
    "redhead": "person", "blondes": "people", "brunettes": "people", "redheads": "people",
}  # fmt: skip

# A colour with one of these names a kind of thing; without it, it would be another thing.
_KINDS = {
    "orange": "juice tree trees slice slices peel soda blossom blossoms fruit marmalade grove",
    "rose": "bush bushes garden gardens petal petals window tree bud buds bouquet thorn thorns",
    "olive": "oil tree trees branch branches grove",
    "violet": "flower flowers",
    "lime": "juice tree slice slices wedge",
    "peach": "tree trees blossom blossoms pie",
    "plum": "tree trees blossom blossoms wine",
    "lavender": "field fields flower flowers tea",
    "lilac": "bush tree flower flowers",
    "mint": "leaf leaves tea",
    "cream": "cake cakes puff puffs cheese soda bun",
    "coral": "reef reefs",
    "chestnut": "tree trees",
    "ivory": "tower tusk tusks",
    "ginger": "tea ale root",
    "salmon": "fillet roll sushi",
    "navy": "officer base ship",
    "gold": "medal medals coin coins bar bars ring rings chain chains mine leaf necklace earring "
    "earrings bracelet trophy",
    "silver": "medal medals coin coins spoon spoons ring rings chain chains necklace earring "
    "earrings bracelet tray bullet",
    "bronze": "medal medals statue statues bell",
    "copper": "wire wires pipe pipes pot coin coins",
    "golden": "retriever retrievers eagle ratio hour gate",
    "ruby": "ring necklace pendant brooch earrings",
    "emerald": "ring necklace pendant brooch earrings",
    "sapphire": "ring necklace pendant brooch earrings",
    "amber": "pendant necklace",
    "red": "panda pandas cross carpet tape giant wine",
    "blue": "whale whales jay jays",
    "green": "tea bean beans onion onions screen",
    "black": "hole holes belt magic market widow tea coffee pepper",
    "white": "wine noise bread rice",
    "brown": "bear bears rice bread sugar",
    "pink": "panther",
    "colored": "pencil pencils",
    "coloured": "pencil pencils",
}
KINDS = {colour: word_set(nouns) for colour, nouns in _KINDS.items()}
_BEFORE_KINDS = {"cream": word_set("ice whipped sour sun"), "rust": word_set("with of")}

# Go with a colour that follows at once.
MODIFIERS = word_set("""
    light dark pale bright deep vivid neon pastel soft hot dusty sky baby royal electric forest
    blood ash dirty platinum strawberry honey jet snow midnight sea wine off rich vibrant full very
    slightly mostly all brightly richly vividly lightly multi many
""")
# Stand behind a colour and say nothing without it.
SUFFIXES = word_set("""
    haired eyed colored coloured skinned tinted hued toned tinged clad theme themed palette scheme
    tones tone hues hue tint tints shades shade color colour colors colours
""")

# Of a colour: "shades of blue".
QUANTITIES = word_set("""
    shade shades hue hues tone tones tint tints splash splashes touch hint mix mixture color colour
    colors colours palette gradient blend combination variety full lots bits
""")
_TAGS = word_set("orange aqua indigo scarlet khaki gold silver lilac")  # colours, if alone
PAINTED = word_set("wearing wears wore painted dyed turning turned colored coloured glowing")

DETERMINERS = word_set("""
    a an the his her their its my your our this that these those some one two three four five six
    many several another each both there he she it they who someone no any
""")
PREPOSITIONS = word_set("""
    in on at of with by for from to into onto over under behind beside between near through against
    around above below across along inside outside without during before after like as
""")
COPULAS = word_set("""
    is are was were be being been looks look looked appears appear seems seem turns turn
    becomes become became gets get got remains remain goes
""")
VERBS = word_set("""
    has have had stands stand sits sit walks walk runs run holds hold wears wear smiles smile plays
    play lies lie sleeps sleep rides ride flies fly leans lean reads read eats eat does do can will
    stares stare dances dance jumps jump waves wave points point sings sing shines covers fills
""")
CONJUNCTIONS = word_set("and or & while but because where when whose which that who if then so")
FUNCTION = DETERMINERS | PREPOSITIONS | COPULAS | VERBS | CONJUNCTIONS
# Nouns that end like participles.
_NOUNS_IN_ING = word_set("""
    building buildings ceiling string wedding evening morning clothing painting swing ring rings
    earring earrings king wing wings lightning railing awning stocking stockings thing things
    drawing drawings crossing landing carving engraving offering meeting
    spring sling lighting frosting icing sibling duckling being blessing
""")

_JOINING = word_set(", and or & /")
_TOKEN = re.compile(r"\w[\w'\u2019]*(?:-[\w'\u2019]+)*|[^\w\s]")


@dataclass(frozen=True)
class Run:
    """Colours in a row, such as "light red, green and white".

    Attributes:
        start: its first token.
        end: behind its last token.
        modifies: whether it belongs to a noun that follows.
    """

    start: int
    end: int
    modifies: bool


def tokens_of(text: str) -> list[str]:
    """Splits a text into words (hyphens included) and marks; "_" counts as a space."""
    return _TOKEN.findall(re.sub(r"(?<=\w)_+(?=\w)", " ", text))


def colour_words(text: str, keep_tones: bool = False) -> list[str]:
    """Lists what a text says of colours.

    Args:
        text: a caption.
        keep_tones: black, white and grey are no colours.
    """
    tokens, found, start = tokens_of(text), [], 0
    while (run := find_run(tokens, keep_tones, start)) is not None:
        found.append(" ".join(tokens[run.start : run.end]))
        start = run.end
    return found


def find_run(tokens: Sequence[str], keep_tones: bool, start: int = 0) -> Run | None:
    """Finds the next colours in a row.

    Args:
        tokens: of `tokens_of`.
        keep_tones: a row of nothing but black, white and grey is none.
        start: where to begin.
    """
    place = start
    while place < len(tokens):
        run = _run_at(tokens, place)
        if run is None:
            place += 1
            continue
        words = tokens[run.start : run.end]
        if any(_is_hue(word) for word in words) or not keep_tones:
            return run
        place = run.end
    return None


def is_content(word: str) -> bool:
    """Whether a word can be, or belong to, what a colour says something of."""
    word = word.lower()
    return word[:1].isalnum() and word not in FUNCTION and not is_participle(word)


def is_participle(word: str) -> bool:
    """Whether a word is a verb's form in -ing."""
    word = word.lower()
    return len(word) > 4 and word.endswith("ing") and word not in _NOUNS_IN_ING


def _run_at(tokens: Sequence[str], place: int) -> Run | None:
    end = _colour_end(tokens, place)
    if end is None:
        return None
    while (after := _next_colour(tokens, end)) is not None:
        end = after
    while end < len(tokens) and tokens[end].lower() in SUFFIXES:
        end += 1
    modifies = end < len(tokens) and is_content(tokens[end])
    if modifies or tokens[end - 1].lower() not in THINGS or _is_bare(tokens, place):
        return Run(place, end, modifies)
    # "a rose" and "a red rose" are flowers; "a red and rose" is not.
    if all(word.lower() in THINGS | _JOINING for word in tokens[place:end]):
        return None
    flower = end - 1
    if tokens[flower - 1].lower() in _JOINING:
        return Run(place, end, modifies)
    return Run(place, flower, True)


def _colour_end(tokens: Sequence[str], place: int) -> int | None:
    """Where a colour with its modifiers ends; None if there is none."""
    end = place
    while end < len(tokens) and tokens[end].lower() in MODIFIERS:
        end += 1
    if end < len(tokens) and _is_colour(tokens, end):
        return end + 1
    if end > place and tokens[end - 1].lower() in THINGS:  # "pastel" is a modifier, too
        return end
    return None


def _next_colour(tokens: Sequence[str], end: int) -> int | None:
    """Where the next colour of a row ends, behind "and", a comma, both or nothing."""
    place = end
    if place < len(tokens) and tokens[place] in (",", "/"):
        place += 1
    if place < len(tokens) and tokens[place].lower() in ("and", "or", "&"):
        place += 1
    return _colour_end(tokens, place)


def _is_colour(tokens: Sequence[str], place: int) -> bool:
    word = tokens[place].lower()
    known = word in HUES or word in THINGS or word in TONES or _in_compound(word)
    return known and not _is_kind(tokens, place) and not _is_name(tokens, place)


def _is_hue(word: str) -> bool:
    word = word.lower()
    return word in HUES or word in THINGS or (_in_compound(word) and not _only_tones(word))


def _in_compound(word: str) -> bool:
    """Whether a word such as "red-haired" or "multi-colored" has a colour in it."""
    parts = word.split("-")
    return len(parts) > 1 and any(part in HUES | THINGS | TONES for part in parts)


def _only_tones(word: str) -> bool:
    parts = set(word.split("-"))
    return not parts & (HUES - {"colored", "coloured"} | THINGS)


def compound_rest(word: str) -> str:
    """What is left of "red-haired" (nothing) or "red-striped" ("striped") without the colour."""
    if word.lower() in HUES:  # "two-tone", or no compound at all
        return ""
    parts = word.split("-")
    gone = HUES | THINGS | TONES | SUFFIXES | MODIFIERS | {"and"}
    return "-".join(part for part in parts if part.lower() not in gone)


def _is_kind(tokens: Sequence[str], place: int) -> bool:
    word = tokens[place].lower()
    after = tokens[place + 1].lower() if place + 1 < len(tokens) else ""
    before = tokens[place - 1].lower() if place else ""
    return after in KINDS.get(word, ()) or before in _BEFORE_KINDS.get(word, ())


def _is_name(tokens: Sequence[str], place: int) -> bool:
    word = tokens[place]
    inside = place > 0 and tokens[place - 1] not in ".!?"
    inside |= place + 1 < len(tokens) and tokens[place + 1][:1].isupper()
    after_title = place > 1 and tokens[place - 2].lower() in ("mr", "mrs", "ms", "dr")
    capitals = sum(token[:1].isupper() for token in tokens)
    in_title_case = 2 * capitals > sum(token[:1].isalpha() for token in tokens) > 2
    named = word[:1].isupper() and word.lower() in NAMES
    return named and (inside or after_title) and not in_title_case


def _is_bare(tokens: Sequence[str], place: int) -> bool:
    """Whether a word stands where a thing would have an article: "is orange", "in gold"."""
    before = tokens[place - 1].lower() if place else ""
    of_quantity = before == "of" and place > 1 and tokens[place - 2].lower() in QUANTITIES
    alone = _at(tokens, place - 1) in ("", ",") and _at(tokens, place + 1) in ("", ",")
    is_tag = alone and tokens[place].lower() in _TAGS
    return before in COPULAS or before in PAINTED or before == "in" or of_quantity or is_tag


def _at(tokens: Sequence[str], place: int) -> str:
    return tokens[place].lower() if 0 <= place < len(tokens) else ""
