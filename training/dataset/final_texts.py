"""The captions that go into the data set: a person's, where there is one, else the stage's.

The caption stage owns "caption_sketch" and "caption_color" and may write them again at any time.
What a person wrote is kept beside them by the review stage, as "reviewed_sketch" and
"reviewed_color", so no run of the caption stage can take it back.
"""

from __future__ import annotations

from .ledger import Ledger, Text

CAPTIONS = ("caption_sketch", "caption_color")


def reviewed_name(caption: str) -> str:
    """The name of a person's text in place of a caption: "reviewed_sketch", "reviewed_color"."""
    return caption.replace("caption_", "reviewed_", 1)


def final_texts(ledger: Ledger, picture: str) -> dict[str, Text]:
    """Lists {name: caption} of one picture; names are those of CAPTIONS."""
    texts = ledger.texts_of(picture)
    found = {name: texts.get(reviewed_name(name), texts.get(name)) for name in CAPTIONS}
    return {name: text for name, text in found.items() if text is not None}


def all_final_texts(ledger: Ledger, name: str) -> dict[str, Text]:
    """Lists {picture: caption} of one of CAPTIONS."""
    return {**ledger.texts(name), **ledger.texts(reviewed_name(name))}
