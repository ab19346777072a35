"""The stage `frames` on clips of real anime art, with the truth known frame by frame."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_clips import SIZE, Script, drawing, pan, whole_script, write_clip
from dataset_takes import Done, take


@pytest.fixture(scope="module")
def truth() -> Script:
    return whole_script()


@pytest.fixture(scope="module")
def film(truth: Script, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", truth.frames)


@pytest.fixture(scope="module")
def done(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return take(tmp_path_factory.mktemp("done"), film)


def test_cuts_are_exact(truth: Script, done: Done) -> None:
    found = done.cuts()
    assert len(truth.cuts) == 13
    assert set(truth.cuts) <= set(found)
    assert len(found) == truth.shots - 1 == 15
    # After the dissolve and the fade the next shot begins within a frame or two.
    starts = [first for first, _ in truth.allowed]
    others = sorted(set(found) - set(truth.cuts))
    assert all(any(0 <= other - first <= 3 for first in starts) for other in others)


def test_each_chosen_frame_is_settled(truth: Script, done: Done) -> None:
    for number in done.numbers():
        assert any(first <= number < end for first, end in truth.allowed), number
    per_drawing = Counter(
        place for number in done.numbers()
        for place, (first, end) in enumerate(truth.allowed) if first <= number < end
    )  # fmt: skip
    assert set(per_drawing.values()) == {1}  # one of each hold
    # All drawings are there, but for the flash's second half, which is its first again.
    assert len(per_drawing) == len(truth.allowed) - 1


def test_expressions_are_two_pictures_and_pans_their_ends(truth: Script, done: Done) -> None:
    assert len(done.numbers(0)) == 2
    first, last = done.numbers(4)
    assert truth.cuts[3] <= first < truth.cuts[3] + 8
    assert truth.cuts[4] - 8 <= last < truth.cuts[4]


def test_shots_say_why(done: Done) -> None:
    short = done.decisions["film0/shot-00014", "shot"]
    assert (short.verdict, short.reason) == ("drop", "too short")
    flash = done.decisions["film0/shot-00010", "shot"].details
    assert flash["flash"] == 2
    fade = done.decisions["film0/shot-00008", "shot"].details
    assert 24 <= fade["transition"] <= 30
    film = done.decisions["film0", "film"]
    assert film.details["frames"] == sum(shot.details["frames"] for shot in done.shots)
    assert film.details["pictures"] == len(done.pictures) == done.told["keep"]
    assert film.details["shots"] == 16
    for shot in done.shots:
        d = shot.details
        parts = ("held", "moving", "combed", "transition", "flash", "damaged")
        assert d["frames"] == sum(d[name] for name in parts)


def test_pictures_show_what_was_drawn(truth: Script, done: Done) -> None:
    for picture in done.pictures:
        drawn = truth.frames[picture.provenance["frame"]].astype(int)
        assert np.abs(done.pixels(picture) - drawn).mean() < 6
        assert (picture.width, picture.height) == SIZE
        p = picture.provenance
        assert picture.id == f"film0-{p['pts']:010d}"
        assert p["seconds"] == pytest.approx(p["frame"] / 24)
        assert Fraction(p["time_base"]) * p["pts"] == Fraction(p["frame"], 24)
        assert p["kind"] in "IPB"
        assert p["shot_first"] <= p["seconds"] <= p["shot_last"]
        assert (p["matrix"], p["range"], p["hdr"], p["crop"]) == (
            "bt709", "limited", False, [0, 0, *SIZE],
        )  # fmt: skip


def test_done_is_done(film: Path, done: Done) -> None:
    before = (done.folder / done.forms[done.pictures[0].id].path).stat().st_mtime_ns
    again = take(done.folder, film)
    assert not again.told
    assert again.pictures == done.pictures
    assert (done.folder / done.forms[done.pictures[0].id].path).stat().st_mtime_ns == before


def test_what_never_stands_still_gives_its_sharpest_frame_or_none(tmp_path: Path) -> None:
    script = Script().cut().hold(drawing("club"), 12)
    script.cut().move(pan("concert1", 20, 8)).cut()
    script.move([p for p in pan("lecturehall", 8, 14) for _ in range(3)])  # on threes
    path = write_clip(tmp_path / "film.mp4", script.frames)
    one = take(tmp_path / "one", path)
    assert one.cuts() == script.cuts[:2]
    assert [shot.details["pictures"] for shot in one.shots] == [1, 1, 1]
    assert not one.pictures[1].provenance["settled"]
    none = take(tmp_path / "none", path, moving="none")
    assert [shot.reason for shot in none.shots[1:]] == ["never stands still"] * 2


def test_cuts_at_worse_quality(truth: Script, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mkv", truth.frames, options={"crf": "30"}, keyframes=250)
    worse = take(tmp_path / "out", path)
    assert set(truth.cuts) <= set(worse.cuts())
    assert len(worse.cuts()) == 15
    for number in worse.numbers():
        assert any(first <= number < end for first, end in truth.allowed), number


def test_grain(truth: Script, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    noisy = (
        np.clip(f + random.normal(0, 5, (*f.shape[:2], 1)), 0, 255).astype(np.uint8)
        for f in truth.frames
    )
    worse = take(tmp_path / "out", write_clip(tmp_path / "film.mkv", noisy), held=6.0)
    assert set(truth.cuts) <= set(worse.cuts())
    for number in worse.numbers():
        assert any(first <= number < end for first, end in truth.allowed), number


def test_a_variable_frame_rate_goes_by_pts(tmp_path: Path) -> None:
    script = Script()
    script.cut().hold(drawing("uni"), 8).cut().hold(drawing("club"), 8)
    script.cut().hold(drawing("meadow"), 12)
    times = [100 * n for n in range(8)] + [800 + 33 * n for n in range(20)]
    path = write_clip(tmp_path / "film.mkv", script.frames, times=times, fps=24)
    out = take(tmp_path / "out", path)
    assert out.cuts() == script.cuts
    for picture in out.pictures:
        p = picture.provenance
        assert p["pts"] == times[p["frame"]]
        assert p["seconds"] == pytest.approx(times[p["frame"]] / 1000)
