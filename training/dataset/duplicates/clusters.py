"""Groups pictures that are alike, and chooses which of them to keep.

Two groupings, for two ends. Whatever is alike in any way, over however many steps, is one cluster:
near duplicates must not come into both training and test. Dropped is a picture only for another
that is kept and that it was itself compared with: A like B and B like C does not make C like A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..config import DedupSettings
from ..ledger import Ledger, Verdict
from .kinds import SAME_DRAWING, Kind
from .likeness import Likeness


@dataclass(frozen=True)
class Edge:
    """What two pictures have to do with each other.

    Attributes:
        kind: its name.
        like: what was measured.
        with_text: which of the two has a subtitle that the other has not.
    """

    kind: Kind
    like: Likeness = field(default_factory=Likeness)
    with_text: str = ""


@dataclass(frozen=True)
class Choice:
    """What becomes of a picture.

    Attributes:
        verdict: "keep", "drop" or "review".
        of: the picture that is kept, and that this one was compared with.
        edge: what the two have to do with each other.
    """

    verdict: Verdict
    of: str
    edge: Edge


Edges = Mapping[str, Mapping[str, Edge]]
"""{picture: {picture: edge}}, both ways."""

Compare = Callable[[str, str], Edge | None]


def components(order: Sequence[str], edges: Edges) -> dict[str, str]:
    """Finds what hangs together.

    Args:
        order: pictures, the best first.
        edges: between them.

    Returns:
        {picture: the best picture of its cluster}, of those that are like another.
    """
    found: dict[str, str] = {}
    for best in order:
        if best in found or not edges.get(best):
            continue
        waiting = [best]
        found[best] = best
        while waiting:
            for other in edges[waiting.pop()]:
                if other not in found:
                    found[other] = best
                    waiting.append(other)
    return found


def choose(
    order: Sequence[str],
    edges: dict[str, dict[str, Edge]],
    restored: set[str],
    settings: DedupSettings,
    compare: Compare,
) -> dict[str, Choice]:
    """Decides for each picture that is like another whether it is kept.

    Args:
        order: pictures, the best first.
        edges: between them; those that `compare` finds are added.
        restored: pictures that a person wants to keep.
        settings: what to do with each kind.
        compare: compares two pictures that have not been compared.

    Returns:
        {picture: choice}; a picture that is not named is kept without reserve.
    """
    rank = {picture: place for place, picture in enumerate(order)}
    choices: dict[str, Choice] = {}
    for picture in order:
        _reach(picture, rank, edges, choices, compare)
        rivals = [
            (other, edge)
            for other, edge in edges.get(picture, {}).items()
            if rank[other] < rank[picture] and not _dropped(other, choices)
        ]
        if rivals:
            # The kept picture that tells most: one that would replace it, then the most alike.
            rivals.sort(key=lambda rival: (*_strength(rival[1], settings), rank[rival[0]]))
            choices[picture] = _choice(rivals, picture in restored, settings)
    return choices


def verdict_of(edge: Edge, settings: DedupSettings) -> Verdict:
    """What the settings say of a likeness."""
    verdict: Verdict = getattr(settings, edge.kind.replace(" ", "_"))
    if edge.kind == "camera" and edge.like.overlap < settings.camera_overlap:
        return "keep"
    return verdict


def _choice(rivals: list[tuple[str, Edge]], restored: bool, settings: DedupSettings) -> Choice:
    of, edge = rivals[0]
    verdict = verdict_of(edge, settings)
    mates = [rival for rival in rivals if rival[1].kind == "same shot"]
    if verdict == "keep" and len(mates) >= settings.same_shot_most:
        (of, edge), verdict = mates[0], "drop"
    return Choice("keep" if restored else verdict, of, edge)


def _strength(edge: Edge, settings: DedupSettings) -> tuple[int, float]:
    return ("drop", "review", "keep").index(verdict_of(edge, settings)), edge.like.change


def _dropped(picture: str, choices: Mapping[str, Choice]) -> bool:
    return picture in choices and choices[picture].verdict == "drop"


def _reach(
    picture: str,
    rank: Mapping[str, int],
    edges: dict[str, dict[str, Edge]],
    choices: Mapping[str, Choice],
    compare: Compare,
) -> None:
    """Compares a picture with those for which its like were dropped."""
    mine = edges.get(picture, {})
    for other in sorted(mine, key=rank.__getitem__):
        if mine[other].kind not in (*SAME_DRAWING, "camera") or not _dropped(other, choices):
            continue
        of = choices[other].of
        if of in mine or of == picture or rank[of] > rank[picture]:
            continue
        edge = compare(of, picture)
        if edge is not None:
            edges[picture][of] = edges[of][picture] = edge
            mine = edges[picture]


def clusters_of(ledger: Ledger) -> dict[str, str]:
    """Lists {picture: cluster} of all pictures that are like another in any way, kept or not."""
    return {
        item: str(decision.details["cluster"])
        for item, stage, decision in ledger.decisions()
        if stage == "dedup" and "cluster" in decision.details
    }
