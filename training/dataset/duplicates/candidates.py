"""Finds the pairs of pictures that may be alike, without comparing each with each.

Pairs come from the hashes, and from shots: a pan moves a hash far, and two pictures of one shot
are worth a look anyway. Distances are taken in blocks, as products of signs, so memory is bounded;
so is the number of pairs, for each picture looks only at the nearest that rank before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..fingerprint import Summary

BITS = 64
BLOCK = 2048  # rows and columns of a block of distances: 16 MiB
CROWD = 8  # times as many near ones as are wanted, from which on they are not listed one by one
FLAT = 2.0  # levels; a hash of less contrast is the coding's noise
IN_SHOT = 24  # pictures of one shot that each is compared with

Pair = tuple[int, int]
"""Places of two pictures in order of rank, the better first."""


def nearest(
    hashes: NDArray[np.uint64],
    radius: int,
    most: int,
    others: NDArray[np.uint64] | None = None,
    device: torch.device | None = None,
) -> list[Pair]:
    """Finds for each hash the nearest before it.

    Args:
        hashes: [n], in order of rank.
        radius: in bits; farther ones are not alike.
        most: as many for each hash; of equally near ones the first.
        others: [n], the hashes to look among, if not `hashes` themselves (mirror images).
        device: where the distances are taken.

    Returns:
        (place of the earlier, place of the later), in order of the later.
    """
    rows = _signs(hashes, device)
    columns = rows if others is None else _signs(others, device)
    found: list[Pair] = []
    for start in range(0, len(hashes), BLOCK):
        stop = min(start + BLOCK, len(hashes))
        near = np.empty((0, 3), np.int64)
        for first in range(0, stop, BLOCK):
            columns_here = columns[first : min(first + BLOCK, stop)]
            more = _near(rows[start:stop], columns_here, first, start, radius, most)
            near = _first_of_each(np.concatenate([near, more]), most)
        found += [(int(column), int(row) + start) for row, _, column in near]
    return found


def _near(
    rows: torch.Tensor, columns: torch.Tensor, first: int, start: int, radius: int, most: int
) -> NDArray[np.int64]:
    """[m, 3]: row, distance, place of the column, of near ones that come before the row."""
    distances = (BITS - rows @ columns.T) / 2  # exact: sums of 64 signs
    close = distances <= radius
    if first == start:  # the block on the diagonal
        close &= torch.ones_like(close).tril(-1)
    if int(close.sum()) > CROWD * most * len(rows):
        nearest_first = distances * len(columns) + torch.arange(len(columns), device=rows.device)
        chosen = nearest_first.masked_fill_(~close, torch.inf).topk(
            min(most, len(columns)), largest=False
        )
        close = torch.zeros_like(close).scatter_(1, chosen.indices, chosen.values.isfinite())
    row, column = close.nonzero(as_tuple=True)
    distance = distances[row, column].long()
    return torch.stack([row, distance, column + first], 1).cpu().numpy()


def _first_of_each(near: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    near = near[np.lexsort((near[:, 2], near[:, 1], near[:, 0]))]
    begins = np.searchsorted(near[:, 0], near[:, 0])  # where each one's row begins
    return near[np.arange(len(near)) - begins < most]


def _signs(hashes: NDArray[np.uint64], device: torch.device | None) -> torch.Tensor:
    """-1 and 1 for the bits; [n, 64]."""
    values = np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    signs = torch.from_numpy(np.unpackbits(values, axis=1)).to(device)
    return signs.float() * 2 - 1


def hash_pairs(
    prints: Sequence[Summary], radius: int, most: int, device: torch.device | None = None
) -> list[Pair]:
    """Finds pairs by hash; flat pictures, whose hashes are noise, by colour instead.

    Args:
        prints: in order of rank.
        radius: in bits.
        most: pairs for each picture with those that rank before it.
        device: where the distances are taken.
    """
    flat = np.array([found.contrast < FLAT for found in prints], bool)
    hashes = np.array([found.hash for found in prints], np.uint64)
    colours = np.array([_thermometer(found) for found in prints], np.uint64)
    pairs: list[Pair] = []
    for group, values, bits in ((~flat, hashes, radius), (flat, colours, 2)):
        places = np.flatnonzero(group)
        found = nearest(values[places], bits, most, device=device)
        pairs += [(int(places[i]), int(places[j])) for i, j in found]
    return sorted(pairs)


def mirror_pairs(
    prints: Sequence[Summary], radius: int, most: int, device: torch.device | None = None
) -> list[Pair]:
    """Finds pairs of which one may be the other's mirror image; as `hash_pairs`."""
    places = [place for place, found in enumerate(prints) if found.contrast >= FLAT]
    hashes = np.array([prints[place].hash for place in places], np.uint64)
    mirrored = np.array([prints[place].mirrored for place in places], np.uint64)
    found = nearest(hashes, radius, most, mirrored, device)
    return sorted((places[i], places[j]) for i, j in found)


def _thermometer(found: Summary) -> int:
    """Mean luma, Cr and Cb as 22, 21 and 21 bits, so that the distance is that of the colours."""
    luma = float(found.tiny[:-2].mean())
    filled = 0
    for value, bits in ((luma, 22), (float(found.tiny[-2]), 21), (float(found.tiny[-1]), 21)):
        filled = filled << bits | (1 << round(value / 255 * bits)) - 1
    return filled


def shot_pairs(shots: Sequence[Hashable | None]) -> list[Pair]:
    """Pairs the pictures of each shot, each with those next to it.

    Args:
        shots: by place in the order of rank, the shot; None for a picture that is of none.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, shot in enumerate(shots):
        if shot is not None:
            members[shot].append(place)
    return sorted(
        (i, j)
        for places in members.values()
        for number, j in enumerate(places)
        for i in places[max(0, number - IN_SHOT) : number]
    )


def pairs_across(
    alike: Iterable[Pair], shots: Sequence[Hashable | None], known: set[Pair]
) -> list[Pair]:
    """Pairs all of two shots of which two pictures are alike: an opening comes in whole shots.

    Args:
        alike: pairs that are alike.
        shots: as for `shot_pairs`.
        known: pairs that have been compared.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, shot in enumerate(shots):
        if shot is not None:
            members[shot].append(place)
    twins = {(shots[i], shots[j]) for i, j in alike if shots[i] != shots[j]}
    found = {
        (min(i, j), max(i, j))
        for one, other in twins
        if one is not None and other is not None
        for i in members[one][:IN_SHOT]
        for j in members[other][:IN_SHOT]
    }
    return sorted(found - known)
