"""Finds pictures that show the same, says of what kind each likeness is, and keeps the best.

Candidates come from hashes and shots, a comparison of thumbnails decides (duplicates/), and the
settings say what becomes of each kind. The first process decides it all, with help of its own for
many comparisons (comparer.py): it is minutes of work for 100,000 pictures. If anything changed it
is done anew as a whole, so that the result does not depend on the order in which films were added;
only what changed is written.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from .config import DedupSettings
from .duplicates.candidates import Pair, hash_pairs, mirror_pairs, pairs_across, shot_pairs
from .duplicates.clusters import Choice, Edge, choose, components, verdict_of
from .duplicates.comparer import Comparer, shot_of
from .duplicates.kinds import SAME_DRAWING
from .duplicates.rank import ranked
from .fingerprint import Summary, summaries
from .ledger import Decision, Outcome, Picture
from .stages import before, worst
from .work import Work, digest

NAME = "dedup"
ALL = "pictures"  # the ledger's item for all of them at once
FEW, MOST = 4, 16  # candidates of each picture: of all, then of those that are left

Edges = dict[str, dict[str, Edge]]


def run(work: Work) -> Counter[str]:
    """Decides of all pictures which are duplicates; returns how many got which verdict.

    With the same pictures and settings as the last time nothing is done or told.
    """
    settings = work.config.dedup
    prints = summaries(work.ledger)
    pictures = work.ledger.kept(before(NAME))
    told: Counter[str] = Counter()
    for picture in pictures:
        if picture.id not in prints:
            reason = f"{picture.id} has no fingerprint yet; run the stage `fingerprint`."
            work.ledger.fail(picture.id, NAME, reason)
            told["failed"] += 1
    pictures = [picture for picture in pictures if picture.id in prints]
    qualities = work.ledger.features("quality")
    restored = {
        item
        for item, stage, decision in work.ledger.decisions()
        if stage == "review" and decision.verdict == "keep"
    }
    inputs = [
        (p, prints[p.id].pixels.hex(), qualities.get(p.id), p.id in restored) for p in pictures
    ]
    wanted = digest(settings, *inputs)
    if work.ledger.digests(NAME).get(ALL) == wanted:
        return told
    work.ledger.forget(ALL, NAME)  # until all is written
    comparer = Comparer(work, prints, pictures)
    edges = find(pictures, ranked(pictures, qualities), prints, comparer, work)
    order = ranked(pictures, qualities, with_text(edges))
    choices = choose(order, edges, restored, settings, comparer.compare)
    outcomes = decided(components(order, edges), choices, settings)
    told += _write(work, pictures, outcomes)
    work.ledger.record(ALL, NAME, wanted)
    return told


def find(
    pictures: Sequence[Picture],
    order: Sequence[str],
    prints: Mapping[str, Summary],
    comparer: Comparer,
    work: Work,
) -> Edges:
    """Finds all likenesses, {picture: {picture: edge}}.

    First each picture is compared with the few that are nearest: most copies are found so, and are
    not looked at again. A thousand black frames cost a thousand comparisons, not half a million.
    """
    settings, device = work.config.dedup, work.workers.device
    shots = {picture.id: shot_of(picture) for picture in pictures}
    edges: Edges = defaultdict(dict)
    known: set[tuple[str, str]] = set()

    def look(pairs: Iterable[Pair], among: Sequence[str], mirrored: bool = False) -> None:
        named = [(among[i], among[j]) for i, j in pairs]
        named = [pair for pair in named if mirrored or pair not in known]
        if not mirrored:
            known.update(named)
        found = comparer.compare_all(named, mirrored, NAME)
        for (one, other), edge in found.items():
            if other not in edges[one]:
                edges[one][other] = edges[other][one] = edge

    look(_copies(order, prints), order)
    left = _without_copies(order, edges)
    look(hash_pairs([prints[item] for item in left], settings.radius, FEW, device), left)
    left = _without_copies(left, edges)
    look(hash_pairs([prints[item] for item in left], settings.radius, MOST, device), left)
    look(shot_pairs([shots[item] for item in left]), left)
    place = {item: number for number, item in enumerate(order)}
    alike = [(place[i], place[j]) for i in edges for j, edge in edges[i].items() if _same(edge)]
    seen = {(place[i], place[j]) for i, j in known}
    look(pairs_across(alike, [shots[item] for item in order], seen), order)
    if settings.find_mirrored:
        pairs = mirror_pairs([prints[item] for item in left], settings.radius, MOST, device)
        look(pairs, left, mirrored=True)
    return edges


def _copies(order: Sequence[str], prints: Mapping[str, Summary]) -> list[Pair]:
    """Pairs each picture with the first that has the same pixels."""
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(prints[item].pixels, n), n) for n, item in enumerate(order)]
    return [(i, j) for i, j in pairs if i != j]


def _without_copies(order: Sequence[str], edges: Edges) -> list[str]:
    """Leaves out what is the same drawing as a better picture."""
    place = {item: number for number, item in enumerate(order)}

    def is_copy(item: str) -> bool:
        return any(
            edge.kind in SAME_DRAWING and place.get(other, -1) < place[item]
            for other, edge in edges.get(item, {}).items()
        )

    return [item for item in order if not is_copy(item)]


def _same(edge: Edge) -> bool:
    return edge.kind in (*SAME_DRAWING, "camera")


def with_text(edges: Edges) -> set[str]:
    """The pictures that have a subtitle which their like has not."""
    return {edge.with_text for others in edges.values() for edge in others.values()} - {""}


def decided(
    clusters: Mapping[str, str], choices: Mapping[str, Choice], settings: DedupSettings
) -> dict[str, Outcome]:
    """Puts into words what became of the pictures of all clusters."""
    sizes = Counter(clusters.values())
    outcomes = {}
    for item, cluster in clusters.items():
        details = {"cluster": cluster, "size": sizes[cluster]}
        if item in choices:
            decision = _explained(choices[item], details, settings)
        else:
            reason = f"the best of {sizes[cluster]} pictures that are alike"
            decision = Decision("representative", "keep", reason, details=details)
        outcomes[item] = Outcome([decision])
    return outcomes


def _explained(choice: Choice, details: dict[str, object], settings: DedupSettings) -> Decision:
    edge, like = choice.edge, choice.edge.like
    score, threshold = like.change, settings.expression_change
    if edge.kind == "camera":
        threshold = settings.camera_change
    elif edge.kind == "relit":
        score, threshold = like.light, settings.light_change
    reason = _WORDS[edge.kind].format(of=choice.of, change=score)
    if choice.verdict == "keep" and verdict_of(edge, settings) == "drop":
        reason += "; a person wants to keep it"
    more = {"kind": edge.kind, "of": choice.of, **like.details()}
    return Decision(
        edge.kind, choice.verdict, reason, round(score, 2), threshold, {**details, **more}
    )


_WORDS = {
    "exact": "the same pixels as {of}",
    "held": "the same drawing as {of}, {change:.2f} levels apart",
    "across": "the same drawing as {of} of another source, {change:.2f} levels apart",
    "camera": "the same picture as {of}, moved or zoomed, {change:.2f} levels apart",
    "mirrored": "the mirror image of {of}, {change:.2f} levels apart",
    "subtitled": "the same drawing as {of}, but for a subtitle",
    "expression": "a small part differs from {of}, by {change:.2f} levels",
    "relit": "the same lines as {of} in other light, {change:.2f} levels apart",
    "same shot": "of the same shot as {of}",
}


def _write(
    work: Work, pictures: Sequence[Picture], outcomes: Mapping[str, Outcome]
) -> Counter[str]:
    """Writes what differs from what the ledger holds, and takes back what no longer counts."""
    done = work.ledger.digests(NAME)
    told: Counter[str] = Counter()
    for picture in pictures:
        outcome = outcomes.get(picture.id, Outcome())
        told[worst(outcome)] += 1
        words = json.dumps([asdict(decision) for decision in outcome.decisions], sort_keys=True)
        wanted = digest(work.config.dedup, words)
        if done.pop(picture.id, None) != wanted:
            work.ledger.record(picture.id, NAME, wanted, outcome)
    for item in done:
        work.ledger.forget(item, NAME)
    return told
