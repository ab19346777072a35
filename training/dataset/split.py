"""The stage `split`: which pictures are trained on, watched, and kept for the test.

What belongs together stays together. Pictures of one shot are nearly alike, and so are those that
`dedup` found alike across shots, and those whose fingerprints are near; so shots, clusters and near
pairs that touch form a group, and a group goes to one split as a whole. Dropped pictures link the
shots that they lie in, too: a shot that shows what another one shows is no test of it.

A group goes where a hash of its name and of run.seed falls. So nothing depends on the order of the
pictures, and a new film moves none of the old ones; the shares are met as closely as chance meets
them (of 1000 groups, 50 +- 7 for a share of 0.05). Below FEW groups that would be too rough: there
the groups are counted off in the order of their hashes, and a new one may move one or two at the
bounds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .config import SplitSettings
from .duplicates.clusters import clusters_of
from .duplicates.near import near_pairs
from .ledger import Decision, Ledger, Outcome, Picture
from .stages import before
from .work import Work, digest

NAME = "split"
SPLITS = ("train", "validation", "test")
FEW = 100  # of as many groups, chance gives a share of 0.05 to 5 +- 2


def run(work: Work) -> Counter[str]:
    """Assigns each kept picture to a split."""
    ledger, settings = work.ledger, work.config.split
    kept = ledger.kept(before(NAME))
    near = near_pairs(ledger, (picture.id for picture in kept), settings.near)
    groups = groups_of(ledger.pictures(), clusters_of(ledger), settings.by, near)
    splits = assign({groups[p.id] for p in kept}, shares(settings), work.config.run.seed)
    done = ledger.digests(NAME)
    for picture in kept:
        group = groups[picture.id]
        wanted = digest(settings, work.config.run.seed, group, splits[group])
        if done.pop(picture.id, None) != wanted:
            details = {"split": splits[group], "group": group}
            reason = f"{splits[group]}, with all of the group {group}."
            decision = Decision(NAME, "keep", reason, details=details)
            ledger.record(picture.id, NAME, wanted, Outcome([decision]))
    for gone in done:
        ledger.forget(gone, NAME)
    return Counter(keep=len(kept))


def shares(settings: SplitSettings) -> dict[str, float]:
    """The splits that get something, with their shares of 1."""
    parts = {name: getattr(settings, name) for name in SPLITS}
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items() if part > 0}


def groups_of(
    pictures: Iterable[Picture],
    clusters: Mapping[str, str],
    by: str = "shot",
    near: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """Joins what must not be separated.

    Args:
        pictures: all, dropped ones too.
        clusters: {picture: cluster of pictures that are alike}; not every picture has one.
        by: "shot" or "source".
        near: pairs of pictures that stay together, too.

    Returns:
        {picture: group}; a group is named after the first of its shots, in the alphabet.
    """
    parents: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = node = parents[parent]
        return node

    def join(one: tuple[int, str], other: tuple[int, str]) -> None:
        one, other = root(one), root(other)
        parents[max(one, other)] = min(one, other)

    scenes = {picture.id: (0, scene_of(picture, by)) for picture in pictures}
    for picture, scene in scenes.items():
        if picture in clusters:
            join(scene, (1, clusters[picture]))  # 1: a cluster never names a group
    for one, other in near:
        join(scenes[one], scenes[other])
    return {picture: root(scene)[1] for picture, scene in scenes.items()}


def scene_of(picture: Picture, by: str) -> str:
    """Names a picture's shot, or its source; a picture without a shot stands alone."""
    if by == "source":
        return picture.source
    if "shot" in picture.provenance:
        return f"{picture.source}/shot-{picture.provenance['shot']}"
    return f"{picture.source}/{picture.id}"


def splits_of(ledger: Ledger) -> dict[str, tuple[str, str]]:
    """Lists {picture: (split, group)}."""
    return {
        item: (decision.details["split"], decision.details["group"])
        for item, stage, decision in ledger.decisions()
        if stage == NAME
    }


def assign(groups: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assigns groups to splits; see above.

    Args:
        groups: their names.
        shares: of each split, above 0; together 1.
        seed: another one, another assignment.

    Returns:
        {group: split}. No split is empty unless there are fewer groups than splits.
    """
    places = {group: _place(group, seed) for group in groups}
    ordered = sorted(places, key=lambda group: (places[group], group))
    if len(ordered) < FEW:
        counts = _counts(len(ordered), shares)
        names = [name for name, count in counts.items() for _ in range(count)]
        return dict(zip(ordered, names, strict=True))
    assigned = {}
    bounds = _bounds(shares)
    for group in ordered:
        inside = (name for name, (_, high) in bounds.items() if places[group] < high)
        assigned[group] = next(inside, list(bounds)[-1])  # rounding may leave the last below 1
    _fill_empty(assigned, places, bounds)
    return assigned


def _place(group: str, seed: int) -> float:
    """Where a group falls in [0, 1)."""
    hashed = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(hashed[:6], "big") / 2**48


def _bounds(shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    bounds, low = {}, 0.0
    for name, share in shares.items():
        bounds[name] = (low, low + share)
        low += share
    return bounds


def _counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divides a number by largest remainders, one for each at least if there are enough."""
    least = 1 if total >= len(shares) else 0
    quotas = {name: share * total for name, share in shares.items()}
    counts = {name: max(least, int(quota)) for name, quota in quotas.items()}
    while sum(counts.values()) < total:
        counts[max(counts, key=lambda name: quotas[name] - counts[name])] += 1
    while sum(counts.values()) > total:
        counts[max(counts, key=lambda name: counts[name] - quotas[name] if counts[name] > least
                   else -1.0)] -= 1  # fmt: skip
    return counts


def _fill_empty(
    assigned: dict[str, str], places: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]
) -> None:
    """Gives a split that chance left empty the nearest group of the largest one."""
    for name, (low, high) in bounds.items():
        if name not in assigned.values():
            largest = Counter(assigned.values()).most_common(1)[0][0]
            candidates: Sequence[str] = [g for g, split in assigned.items() if split == largest]
            nearest = min(candidates, key=lambda g: (max(low - places[g], places[g] - high), g))
            assigned[nearest] = name
