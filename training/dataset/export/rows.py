"""Gathers from the ledger the pairs that are exported."""

from __future__ import annotations

from ..duplicates.clusters import clusters_of
from ..final_texts import all_final_texts
from ..ledger import Ledger, Text
from ..split import SPLITS, groups_of, splits_of
from ..stages import ORDER
from ..work import Work
from .plan import Row

CAPTIONS = {"sketch": "caption_sketch", "colour": "caption_color"}


def captions_of(ledger: Ledger, name: str) -> dict[str, Text]:
    """Lists {picture: caption} as they are after the review, each on one line; no empty ones."""
    return {
        item: Text(line, text.details)
        for item, text in all_final_texts(ledger, name).items()
        if (line := " ".join(text.text.split()))
    }


def gather(work: Work) -> list[Row]:
    """Lists the pairs to be exported, by split and id.

    A picture without a split or a caption is left out; `validate` tells of it.
    """
    ledger = work.ledger
    target = work.config.export.target
    other = "colour" if target == "sketch" else "sketch"
    targets, conditioning = ledger.forms("target"), ledger.forms("conditioning")
    captions = captions_of(ledger, CAPTIONS[target])
    others = captions_of(ledger, CAPTIONS[other])
    splits = splits_of(ledger)
    scenes = groups_of(ledger.pictures(), clusters_of(ledger))
    rows = []
    for picture in ledger.kept(ORDER):
        name = picture.id
        if name not in targets or name not in captions or name not in splits:
            continue
        details = targets[name].details
        rows.append(
            Row(
                id=name,
                split=splits[name][0],
                group=scenes[name],
                source=picture.source,
                width=details["width"],
                height=details["height"],
                target=targets[name],
                conditioning=conditioning[name],
                caption=captions[name].text,
                other_caption=others[name].text if name in others else "",
                other=other,
            )
        )
    return sorted(rows, key=lambda row: (SPLITS.index(row.split), row.id))
