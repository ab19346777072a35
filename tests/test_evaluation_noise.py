"""The noise of a case: its own, the same each time, and the one that ComfyUI draws."""

from __future__ import annotations

import hashlib

import pytest
import torch

from training.evaluation.cases import Case, Pair
from training.evaluation.noise import noise, noise_seed


def case(pair: str, seed: int, prompt: str = "a girl") -> Case:
    return Case(Pair(pair, prompt), seed)


def test_the_seed_is_a_hash_of_pair_and_seed() -> None:
    digest = hashlib.sha256(b"wink-007").hexdigest()
    assert noise_seed(case("wink", 7)) == int(digest[:12], 16)
    assert noise_seed(case("wink", 7, "a boy")) == noise_seed(case("wink", 7))


def test_no_two_cases_share_it() -> None:
    names = ("a", "b", "a-001", "a-1")
    seeds = [noise_seed(case(name, seed)) for name in names for seed in range(250)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**48


def test_it_is_what_a_seeded_torch_draws() -> None:
    ours = noise(case("wink", 7), 4, 5, 7)
    with torch.random.fork_rng():
        torch.manual_seed(noise_seed(case("wink", 7)))
        assert torch.equal(ours, torch.randn(1, 4, 5, 7))
    assert (ours.dtype, ours.device.type) == (torch.float32, "cpu")


def test_drawing_it_leaves_torchs_own_chance_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        noise(case("wink", 7), 4, 5, 7)
        assert torch.equal(torch.rand(3), expected)


def test_it_is_standard_normal() -> None:
    values = noise(case("wink", 0), 16, 64, 64).flatten()  # 65536 numbers: errors of 0.004
    assert values.mean().item() == pytest.approx(0, abs=0.02)
    assert values.std().item() == pytest.approx(1, abs=0.02)
    other = noise(case("wink", 1), 16, 64, 64).flatten()
    assert torch.corrcoef(torch.stack([values, other]))[0, 1].abs() < 0.02
