from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_likeness import (
    EXPRESSIONS,
    Drawing,
    Shown,
    add,
    both_films,
    draw,
    film,
    truth,
    verdicts,
    work_with,
)  # fmt: skip

from training.dataset import dedup, fingerprint
from training.dataset.config import DatasetConfig, DedupSettings, RunSettings
from training.dataset.duplicates import comparer
from training.dataset.duplicates.clusters import clusters_of
from training.dataset.duplicates.comparer import Comparer
from training.dataset.duplicates.likeness import compare
from training.dataset.duplicates.rank import ranked
from training.dataset.fingerprint import summaries
from training.dataset.ledger import Decision, Outcome
from training.dataset.stages import before
from training.dataset.work import Work

DROPPED = {"exact", "held", "across", "camera"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    return {one.id: one for one in both_films(tmp_path_factory.mktemp("films"))}


@pytest.fixture(scope="module")
def decided(shown: dict[str, Shown], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    work = work_with(list(shown.values()), tmp_path_factory.mktemp("data"))
    assert fingerprint.run(work) == {"keep": len(shown)}
    dedup.run(work)
    yield work
    work.ledger.__exit__(None, None, None)


@pytest.fixture(scope="module")
def kinds(decided: Work) -> dict[frozenset[str], str]:
    """All pairs that were found alike."""
    prints, pictures = summaries(decided.ledger), decided.ledger.kept(before("dedup"))
    compares = Comparer(decided, prints, pictures)
    edges = dedup.find(pictures, ranked(pictures, {}), prints, compares, decided)
    return {frozenset((a, b)): edge.kind for a in edges for b, edge in edges[a].items()}


def test_nothing_different_is_dropped(decided: Work, shown: dict[str, Shown]) -> None:
    dropped = {item: d for item, d in verdicts(decided).items() if d.verdict == "drop"}
    kept = set(shown) - set(dropped)
    for item, decision in dropped.items():
        of = decision.details["of"]
        assert of in kept, "what stands for a picture is there"
        assert truth(shown[item], shown[of]) in DROPPED, (item, decision)


def test_each_drawing_is_kept(decided: Work, shown: dict[str, Shown]) -> None:
    def scene(one: Shown) -> object:
        return replace(one.drawing, shift=(0, 0), zoom=1.0)

    dropped = {item for item, d in verdicts(decided).items() if d.verdict == "drop"}
    scenes = {scene(one) for one in shown.values()}
    assert {scene(shown[item]) for item in shown if item not in dropped} == scenes


def test_duplicates_are_found(decided: Work, shown: dict[str, Shown]) -> None:
    kept = [shown[item] for item in shown if verdicts(decided).get(item) is None]
    kept += [shown[item] for item, d in verdicts(decided).items() if d.verdict != "drop"]
    left = Counter(
        truth(one, other) for n, one in enumerate(kept) for other in kept[n + 1 :]
    )  # fmt: skip
    assert left["exact"] == 0
    assert left["held"] + left["across"] <= 2, left
    assert left["camera"] <= 3, left


def test_kinds_are_named(kinds: dict[frozenset[str], str], shown: dict[str, Shown]) -> None:
    right, told = Counter[str](), Counter[str]()
    for pair, kind in kinds.items():
        one, other = sorted(pair)
        real = truth(shown[one], shown[other])
        told[real] += 1
        right[real] += kind == real or (real, kind) == ("camera", "across")
    for kind in ("expression", "subtitled"):
        assert right[kind] == told[kind] > 0, (kind, right, told)
    assert right["held"] >= 0.9 * told["held"] > 10
    assert right["across"] >= 0.9 * told["across"] > 10
    assert right["camera"] >= 0.85 * told["camera"] > 10
    assert right["relit"] >= 0.8 * told["relit"] > 5
    assert right["same shot"] >= 1
    assert told["none"] < 0.1 * sum(told.values())


def test_decisions_say_why(decided: Work, shown: dict[str, Shown]) -> None:
    decision = verdicts(decided)["first-001"]
    assert (decision.check, decision.verdict, decision.threshold) == ("held", "drop", 2.5)
    assert decision.score is not None
    assert decision.score < 2.5
    assert decision.reason == f"the same drawing as first-000, {decision.score:.2f} levels apart"
    assert decision.details["of"] == "first-000"
    assert decision.details["cluster"] in clusters_of(decided.ledger)
    best = verdicts(decided)[str(decision.details["cluster"])]
    assert (best.check, best.verdict) == ("representative", "keep")


def test_clusters_hold_all_likenesses(
    decided: Work, kinds: dict[frozenset[str], str], shown: dict[str, Shown]
) -> None:
    clusters = clusters_of(decided.ledger)
    for pair in kinds:
        one, other = pair
        assert clusters[one] == clusters[other]
    alone = {item for item in shown if shown[item].drawing.background == "lecturehall"}
    assert all(
        shown[cluster].drawing.background == "lecturehall"
        for item, cluster in clusters.items()
        if item in alone
    )


def test_order_and_steps_do_not_matter(shown: dict[str, Shown], tmp_path: Path) -> None:
    some = [one for one in shown.values() if one.id < "first-016" or one.source == "folder"]
    late = [one for one in shown.values() if one.source == "second" and one.shot == 0]
    at_once, in_steps = (
        work_with(some + late, tmp_path / "1"),
        work_with(some[::-1], tmp_path / "2"),
    )
    with at_once.ledger, in_steps.ledger:
        fingerprint.run(at_once)
        dedup.run(at_once)
        fingerprint.run(in_steps)
        dedup.run(in_steps)
        add(in_steps, late)
        assert fingerprint.run(in_steps) == {"keep": len(late)}
        dedup.run(in_steps)
        assert verdicts(in_steps) == verdicts(at_once)
        assert len(verdicts(at_once)) == len(some + late)


def test_only_changes_are_written(few: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    told = dedup.run(few), verdicts(few)
    few.ledger.record("first-000", "measure", "", Outcome(features={
        "quality": b'{"share": 0.9, "edge_width": 2.5, "text": []}',
    }))  # fmt: skip
    written: list[str] = []
    record = few.ledger.record
    monkeypatch.setattr(
        few.ledger, "record", lambda item, *rest: (written.append(item), record(item, *rest))
    )
    assert (dedup.run(few), verdicts(few)) == told  # it was the best before, too
    assert written == [dedup.ALL]


def test_nothing_is_compared_again_if_nothing_changed(
    few: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Counter[str]()
    find = dedup.find
    monkeypatch.setattr(dedup, "find", lambda *given: (looks.update(["look"]), find(*given))[1])
    before = dedup.run(few), verdicts(few)
    assert dedup.run(few) == {}
    assert (looks["look"], verdicts(few)) == (1, before[1])
    other = replace(few, config=DatasetConfig(dedup=DedupSettings(radius=5)))
    assert (dedup.run(other), looks["look"]) == (before[0], 2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dedup, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            dedup.run(few)
    assert (dedup.run(other), looks["look"]) == (before[0], 4)  # it may have been half written


def test_several_processes_find_the_same(
    decided: Work, kinds: dict[frozenset[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparer, "MANY", 1)
    monkeypatch.setattr(comparer, "BLOCK", 5)
    work = replace(decided, config=DatasetConfig(run=RunSettings(threads=2)))
    pairs = [sorted(pair) for pair in kinds][:20]
    found = Comparer(work, summaries(work.ledger), work.ledger.pictures()).compare_all(
        [(one, other) for one, other in pairs]
    )
    assert {frozenset(pair): edge.kind for pair, edge in found.items()} == {
        frozenset(pair): kinds[frozenset(pair)] for pair in pairs
    }


@pytest.fixture
def few(shown: dict[str, Shown], tmp_path: Path) -> Iterator[Work]:
    """The first shot: four expressions, each held for two pictures."""
    work = work_with([one for one in shown.values() if one.id < "first-008"], tmp_path)
    fingerprint.run(work)
    with work.ledger:
        yield work


def test_each_expression_is_kept_once(few: Work) -> None:
    assert dedup.run(few) == {"keep": 4, "drop": 4}
    kinds = Counter(decision.check for decision in verdicts(few).values())
    assert kinds == {"held": 4, "representative": 1, "expression": 3}


def test_settings_say_what_happens(few: Work) -> None:
    settings = DedupSettings(expression="drop", held="review")
    work = replace(few, config=DatasetConfig(dedup=settings))
    assert dedup.run(work) == {"keep": 1, "review": 1, "drop": 6}
    higher = DedupSettings(expression_change=200.0)
    assert dedup.run(replace(few, config=DatasetConfig(dedup=higher))) == {"keep": 1, "drop": 7}


def test_what_a_person_restored_stays(few: Work) -> None:
    few.ledger.record("first-001", "review", "", Outcome([Decision("person", "keep")]))
    assert dedup.run(few) == {"keep": 5, "drop": 3}
    decision = verdicts(few)["first-001"]
    assert (decision.check, decision.verdict) == ("held", "keep")


def test_the_best_one_stands_for_all(few: Work) -> None:
    few.ledger.record("first-003", "measure", "", Outcome(features={
        "quality": b'{"share": 0.9, "edge_width": 2.5, "text": []}',
    }))  # fmt: skip
    dedup.run(few)
    assert verdicts(few)["first-003"].check == "representative"
    assert verdicts(few)["first-002"].details["of"] == "first-003"


def test_pictures_that_went_are_forgotten(few: Work) -> None:
    dedup.run(few)
    few.ledger.record("first-001", "filter", "", Outcome([Decision("blur", "drop")]))
    dedup.run(few)
    assert "first-001" not in verdicts(few)
    assert "first-001" not in few.ledger.digests("dedup")


def test_a_picture_without_fingerprint_is_told(few: Work) -> None:
    few.ledger.forget("first-005", "fingerprint")
    assert dedup.run(few)["failed"] == 1
    assert "run the stage `fingerprint`" in verdicts(few)["first-005"].reason


def test_larger_motion_of_one_shot_is_kept_so_many_times(
    shown: dict[str, Shown], tmp_path: Path
) -> None:
    shot = [one for one in shown.values() if one.source == "first" and one.drawing.figure == "green"
            and one.drawing.background == "meadow" and one.drawing.left != 0.5]  # fmt: skip
    config = DatasetConfig(dedup=DedupSettings(same_shot_most=1))
    work = work_with(shot, tmp_path, config)
    fingerprint.run(work)
    with work.ledger:
        assert dedup.run(work) == {"keep": 1, "drop": 2}
        assert dedup.run(replace(work, config=DatasetConfig())) == {"keep": 3}


def test_mirror_images_are_found_if_wanted(shown: dict[str, Shown], tmp_path: Path) -> None:
    one = shown["first-000"]
    turned = replace(one, source="folder", number=1, pixels=one.pixels[:, ::-1].copy())
    work = work_with([one, turned], tmp_path)
    fingerprint.run(work)
    with work.ledger:
        assert dedup.run(work) == {"keep": 2}
        wanted = replace(work, config=DatasetConfig(dedup=DedupSettings(find_mirrored=True)))
        assert dedup.run(wanted) == {"keep": 1, "drop": 1}
        assert verdicts(work)["folder-001"].check == "mirrored"


def test_black_frames_cost_little(shown: dict[str, Shown], tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    one, frames = shown["first-000"], 120
    black = [
        replace(one, source="dark", shot=n, number=n,
                pixels=(chance.random((90, 160, 3)) * 3).astype(np.uint8))
        for n in range(frames)
    ]  # fmt: skip
    work = work_with([*black, one], tmp_path)
    fingerprint.run(work)
    prints, pictures = summaries(work.ledger), work.ledger.pictures()
    compares = Comparer(work, prints, pictures)
    dedup.find(pictures, ranked(pictures, {}), prints, compares, work)
    with work.ledger:
        assert compares.compared < 6 * frames
        assert dedup.run(work) == {"keep": 2, "drop": frames - 1}


def test_the_same_pixels_are_told_from_the_same_drawing(
    shown: dict[str, Shown], tmp_path: Path
) -> None:
    pictures = [shown["first-001"], shown["folder-000"], shown["folder-001"]]
    work = work_with(pictures[1:], tmp_path)
    fingerprint.run(work)
    with work.ledger:
        assert dedup.run(work) == {"keep": 1, "drop": 1}
        assert verdicts(work)["folder-001"].check == "exact"
        add(work, pictures[:1])
        fingerprint.run(work)
        assert dedup.run(work) == {"keep": 1, "drop": 2}
        assert verdicts(work)["folder-001"].check == "across"


@pytest.mark.parametrize("crf", [18, 23, 28])
def test_the_threshold_lies_between_coding_and_expressions(crf: int, tmp_path: Path) -> None:
    shot = [Drawing("lecturehall", "blue", e, scale=0.6) for e in EXPRESSIONS for _ in range(2)]
    shown = film("film", [shot], tmp_path / "film.mp4", crf, size=(960, 540))
    small = [fingerprint.thumbnail(one.pixels) for one in shown]
    changes: dict[str, list[float]] = {"held": [], "expression": []}
    for n, one in enumerate(shown):
        for m, other in enumerate(shown[:n]):
            kind = "held" if one.drawing == other.drawing else "expression"
            changes[kind].append(compare(small[m], small[n], 2.5).change)
    assert sum(change < 2.5 for change in changes["held"]) >= 3, "the coder settles after the first"
    assert min(changes["expression"]) > 5


def test_a_hue_alone_is_a_difference(shown: dict[str, Shown], tmp_path: Path) -> None:
    one = shown["first-000"]
    hair = one.pixels.copy()
    hair[100:300, 600:700] = hair[100:300, 600:700, ::-1]
    red = np.full((90, 160, 3), (200, 60, 60), np.uint8)
    green = np.full((90, 160, 3), (20, 133, 60), np.uint8)  # of the same luma
    others = [replace(one, source="folder", number=n, pixels=p)
              for n, p in enumerate([hair, red, green])]  # fmt: skip
    work = work_with([one, *others], tmp_path)
    fingerprint.run(work)
    with work.ledger:
        assert dedup.run(work) == {"keep": 4}


def test_fingerprints_read_back(shown: dict[str, Shown]) -> None:
    pixels = draw(shown["first-000"].drawing)
    small = fingerprint.thumbnail(pixels)
    found = fingerprint.summary(pixels, small)
    turned = fingerprint.summary(pixels[:, ::-1].copy(), small.mirrored())
    assert fingerprint.Summary.unpack(found.pack()).pack() == found.pack()
    assert (fingerprint.Thumbnail.unpack(small.pack()).luma == small.luma).all()
    assert (found.hash, found.mirrored) == (turned.mirrored, turned.hash)
    grey = fingerprint.thumbnail(pixels[..., 0])
    assert (grey.chroma == 128).all()
