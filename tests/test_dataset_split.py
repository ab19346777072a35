from __future__ import annotations

from collections import Counter

import pytest
from dataset_work import open_work

from training.dataset import split
from training.dataset.ledger import Decision, Outcome, Picture
from training.dataset.split import assign, groups_of, shares, splits_of
from training.settings import ConfigError

SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}


def picture(name: str, source: str = "s", **provenance) -> Picture:
    return Picture(name, source, 0, 1, 1, provenance)


def test_shots_and_clusters_that_touch_are_one_group():
    pictures = [
        picture("a", shot=2), picture("b", shot=2),  # one shot
        picture("c", shot=7), picture("d", "t", shot=2),  # like b, across shots and films
        picture("e", "t", shot=3), picture("f", "u"), picture("g", "u"), picture("h", "u"),
    ]  # fmt: skip
    clusters = {"b": "x", "d": "x", "c": "y", "a": "y", "g": "z", "h": "z"}
    assert groups_of(pictures, clusters) == {
        "a": "s/shot-2", "b": "s/shot-2", "c": "s/shot-2", "d": "s/shot-2",
        "e": "t/shot-3", "f": "u/f", "g": "u/g", "h": "u/g",
    }  # fmt: skip
    assert groups_of(pictures, {}, "source") == {p.id: p.source for p in pictures}
    joined = groups_of(pictures, clusters, "source")  # s and t show the same thing
    assert set(joined.values()) == {"s", "u"}
    assert groups_of(pictures[::-1], clusters) == groups_of(pictures, clusters)


def test_shares_are_met_as_chance_meets_them_and_new_groups_move_no_old_ones():
    names = [f"s/shot-{number}" for number in range(1000)]
    for seed in range(5):
        counts = Counter(assign(names, SHARES, seed).values())
        for name, share in SHARES.items():  # four standard deviations of a binomial
            assert abs(counts[name] - 1000 * share) < 4 * (1000 * share * (1 - share)) ** 0.5
    before, after = assign(names, SHARES, 0), assign([*names, *"abcdefgh"], SHARES, 0)
    assert all(after[name] == before[name] for name in names)
    assert assign(names[::-1], SHARES, 0) == before
    assert assign(names, SHARES, 1) != before


@pytest.mark.parametrize(
    ("total", "counts"),
    [
        (1, {"train": 1}),
        (2, {"train": 2}),  # fewer than splits: the largest shares are served
        (3, {"train": 1, "validation": 1, "test": 1}),
        (5, {"train": 3, "validation": 1, "test": 1}),
        (19, {"train": 17, "validation": 1, "test": 1}),
    ],
)
def test_few_groups_are_counted_off(total, counts):
    assert Counter(assign([f"g{n}" for n in range(total)], SHARES, 3).values()) == counts


def test_a_new_group_moves_one_or_two_of_few_others():
    names = [f"g{n}" for n in range(60)]
    before, after = assign(names, SHARES, 0), assign([*names, "new"], SHARES, 0)
    assert sum(before[name] != after[name] for name in names) <= 2


def test_largest_remainders():
    shares = {"train": 0.5, "validation": 0.3, "test": 0.2}
    counted = Counter(assign([f"g{n}" for n in range(13)], shares, 0).values())
    assert counted == {"train": 6, "validation": 4, "test": 3}  # 6.5, 3.9, 2.6


@pytest.mark.parametrize("seed", range(40))
def test_chance_leaves_no_split_empty(seed):
    shares = {"train": 0.98, "validation": 0.01, "test": 0.01}
    names = [f"g{n}" for n in range(split.FEW)]
    counts = Counter(assign(names, shares, seed).values())
    assert min(counts[name] for name in shares) >= 1


def test_a_share_of_0_gets_nothing(tmp_path):
    with open_work(tmp_path, split={"train": 8, "validation": 2, "test": 0}) as work:
        assert shares(work.config.split) == {"train": 0.8, "validation": 0.2}


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"split.by is 'frame'; expected one of shot, source"):
        open_work(tmp_path, split={"by": "frame"}).__enter__()
    with pytest.raises(ConfigError, match=r"export.layouts has 'kohia'; expected some of trainer"):
        open_work(tmp_path, export={"layouts": ["kohia"]}).__enter__()


def add(work, name: str, **provenance) -> None:
    work.ledger.record(name, "frames", "1", pictures=[picture(name, **provenance)])


def test_the_stage_writes_splits_forgets_dropped_pictures_and_does_nothing_twice(tmp_path):
    with open_work(tmp_path, split={"train": 2, "validation": 1, "test": 1}) as work:
        for number in range(240):
            add(work, f"p{number}", shot=number // 2)
        cluster = Decision("near", "drop", details={"cluster": "c"})
        alike = Decision("near", "keep", details={"cluster": "c"})
        work.ledger.record("p0", "dedup", "1", Outcome([alike]))
        work.ledger.record("p7", "dedup", "1", Outcome([cluster]))  # dropped, and still a link
        assert split.run(work) == {"keep": 239}
        found = splits_of(work.ledger)
        assert found.keys() == {f"p{n}" for n in range(240)} - {"p7"}
        assert found["p0"] == found["p1"] == found["p6"]
        assert all(found[f"p{n}"] == found[f"p{n + 1}"] for n in range(10, 240, 2))
        assert {name for name, _ in found.values()} == {"train", "validation", "test"}
        before, digests = work.ledger.decisions(), work.ledger.digests("split")
        work.ledger.record = None  # type: ignore[method-assign]
        split.run(work)
        assert work.ledger.decisions() == before
        del work.ledger.record
        work.ledger.record("p239", "dedup", "2", Outcome([Decision("near", "drop")]))
        work.ledger.remove_pictures(["p238"])
        split.run(work)
        assert splits_of(work.ledger) == {
            k: v for k, v in found.items() if k not in ("p238", "p239")
        }
        assert work.ledger.digests("split").items() < digests.items()
