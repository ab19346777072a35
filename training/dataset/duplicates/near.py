"""Finds pairs of pictures whose fingerprints are nearly the same, all of them.

The hash cannot see faces (fingerprint.py), so two that are near may differ in what matters to a
trainer. For keeping training and test apart that is the right side to err on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..fingerprint import summaries
from ..ledger import Ledger
from .candidates import BITS, BLOCK, FLAT


def near_pairs(ledger: Ledger, pictures: Iterable[str], most: int) -> list[tuple[str, str]]:
    """Lists the pairs whose hashes differ in at most so many bits.

    Args:
        ledger: has the fingerprints; a picture without one is near to none, and neither is a flat
            one, whose hash is noise.
        pictures: ids to look among.
        most: bits of 64; below 0 nothing is near.
    """
    found = summaries(ledger)
    names = [name for name in pictures if name in found and found[name].contrast >= FLAT]
    hashes = np.array([found[name].hash for name in names], np.uint64)
    return [(names[i], names[j]) for i, j in _near(hashes, most)] if most >= 0 else []


def _near(hashes: NDArray[np.uint64], most: int) -> Iterator[tuple[int, int]]:
    """The places (i < j) of near pairs; in blocks of 64 MiB."""
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)  # [n, 64]
    signs = bits.astype(np.float32) * 2 - 1  # a product of two is 64 less twice the distance
    for top in range(0, len(signs), BLOCK):
        for left in range(top, len(signs), BLOCK):
            products = signs[top : top + BLOCK] @ signs[left : left + BLOCK].T
            rows, columns = np.nonzero(products >= BITS - 2 * most)
            for i, j in zip((rows + top).tolist(), (columns + left).tolist(), strict=True):
                if i < j:
                    yield i, j
