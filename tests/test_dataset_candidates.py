from __future__ import annotations

import numpy as np
import pytest

from training.dataset.duplicates import candidates
from training.dataset.duplicates.candidates import hash_pairs, nearest, pairs_across, shot_pairs
from training.dataset.fingerprint import Summary


def some_hashes(count: int, seed: int = 0) -> np.ndarray:
    """Random hashes, half of them near another."""
    chance = np.random.default_rng(seed)
    hashes = chance.integers(0, 2**64, count, dtype=np.uint64)
    for place in range(count // 2, count):
        flips = chance.choice(64, chance.integers(0, 14), replace=False)
        mask = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
        hashes[place] = hashes[place - count // 2] ^ np.uint64(mask)
    return hashes


def distance(one: object, other: object) -> int:
    return bin(int(one) ^ int(other)).count("1")  # type: ignore[call-overload]


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_nearest_finds_what_looking_at_all_finds(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "BLOCK", block)
    hashes = some_hashes(101)
    expected = {
        (i, j) for j in range(101) for i in range(j) if distance(hashes[i], hashes[j]) <= 10
    }
    found = nearest(hashes, 10, 101)
    assert set(found) == expected
    assert len(found) == len(expected) > 20


def test_nearest_keeps_the_nearest_and_then_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "BLOCK", 2)
    hashes = np.array([0b111, 0b001, 0b011, 0b001, 0b000], np.uint64)
    assert nearest(hashes, 3, 1) == [(0, 1), (0, 2), (1, 3), (1, 4)]


def test_equal_hashes_cost_a_line_not_a_square() -> None:
    assert len(nearest(np.zeros(5000, np.uint64), 12, 4)) <= 4 * 5000


def test_mirror_images_are_looked_for_among_the_mirrored() -> None:
    hashes, mirrored = np.array([1, 240], np.uint64), np.array([240, 1], np.uint64)
    assert nearest(hashes, 2, 9, mirrored) == [(0, 1)]
    assert nearest(hashes, 2, 9) == []


def flat(luma: int, number: int) -> Summary:
    tiny = np.array([luma] * 64 + [128, 128], np.uint8)
    return Summary(bytes(32), number * 0x9E3779B97F4A7C15 % 2**64, 0, 0.1, tiny)


def test_flat_pictures_are_paired_by_colour() -> None:
    prints = [flat(0, 1), flat(2, 2), flat(200, 3), flat(1, 4)]
    assert hash_pairs(prints, 12, 9) == [(0, 1), (0, 3), (1, 3)]


def test_pictures_of_a_shot_are_paired() -> None:
    assert shot_pairs(["a", "b", "a", None, "b", None]) == [(0, 2), (1, 4)]
    assert len(shot_pairs(["a"] * 1000)) < 1000 * candidates.IN_SHOT


def test_two_shots_that_share_a_picture_are_compared_whole() -> None:
    shots = ["a", "b", "a", "b", None]
    assert pairs_across([(0, 1), (0, 4)], shots, {(0, 1)}) == [(0, 3), (1, 2), (2, 3)]
