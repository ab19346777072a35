"""The demo film and its truth (training/dataset/demo.py)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.dataset_demo import demo_folder, demo_truth  # noqa: F401
from training.dataset import demo
from training.dataset.demo import build_demo, main, shown, truth, unmet
from training.dataset.demo_film.scenes import Figure
from training.dataset.demo_film.script import BAR, FULL, Film, Shot, Transition, films, still
from training.dataset.demo_film.timeline import fields, lay_out, telecined

WIDE, HIGH = 160, 90


def luma(path: Path) -> Iterator[np.ndarray]:
    """The Y plane of each frame, 16 (black) to 235 (white)."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            plane = frame.planes[0]  # reformat("gray") would take a detour by way of BT.601
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            yield rows[:, : plane.width].astype(np.float32)


def small(grey: np.ndarray) -> np.ndarray:
    """Means of 8 x 8 pixels."""
    return grey.reshape(HIGH, 8, WIDE, 8).mean((1, 3))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def faults(told: dict[str, Any], film: str) -> list[set[str]]:
    return [set(run["faults"]) for run in told["films"][film]["runs"]
            for _ in range(run["first"], run["last"] + 1)]  # fmt: skip


@pytest.fixture(scope="module")
def first(demo_folder: Path) -> list[np.ndarray]:  # noqa: F811
    return [small(grey) for grey in luma(demo_folder / "episode-1.mkv")]


def test_every_frame_of_the_films_is_told_of_once(demo_truth: dict[str, Any]) -> None:  # noqa: F811
    assert sum(Path(film["file"]).suffix == ".mkv" for film in demo_truth["films"].values()) == 4
    for film in demo_truth["films"].values():
        edges = [(run["first"], run["last"]) for run in film["runs"]]
        assert edges[0][0] == 0
        assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(edges))
        assert edges[-1][1] + 1 == len(film["pts"])
        assert len(film["shots"]) >= 12
        parts = sorted([*film["shots"], *film["transitions"]], key=lambda part: part["first"])
        assert all(a["last"] < b["first"] for a, b in itertools.pairwise(parts))
        assert set(film["cuts"]) <= {shot["first"] for shot in film["shots"]}


def test_the_films_are_small_and_say_what_they_are(
    demo_folder: Path, demo_truth: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    assert sum(path.stat().st_size for path in demo_folder.iterdir()) < 30e6
    for name, film in demo_truth["films"].items():
        with av.open(str(demo_folder / film["file"])) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            assert (context.name, stream.width, stream.height) == ("h264", 1280, 720)
            tags = context.colorspace, context.color_primaries, context.color_trc
            assert tuple(map(int, tags)) == (1, 1, 1)
            assert int(context.color_range) == 1
            rate = "30000/1001" if name == "episode-3" else "24000/1001"
            assert str(stream.average_rate) == film["rate"] == rate
            pts = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        assert sorted(pts) == film["pts"]
        seconds = [k / eval_rate(rate) for k in range(len(pts))]
        assert np.allclose(np.array(film["pts"]) / 1000, seconds, atol=0.001)


def eval_rate(text: str) -> float:
    over, under = text.split("/")
    return int(over) / int(under)


def test_a_run_shows_one_picture_and_the_next_run_another(
    first: list[np.ndarray], demo_truth: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    runs = demo_truth["films"]["episode-1"]["runs"]
    held = [difference(first[k], first[run["first"]])
            for run in runs for k in range(run["first"] + 1, run["last"] + 1)]  # fmt: skip
    assert max(held) < 8  # the edges of a subtitle, coded twice
    changes = {run["first"]: difference(first[run["first"]], first[run["first"] - 1])
               for run in runs[1:]}  # fmt: skip
    quiet = {"zoom", "grain", "dark", "credits", "black", ""}  # these change by little
    loud = [change for frame, change in changes.items()
            if shown(demo_truth, "episode-1", frame)["shot"] not in quiet]  # fmt: skip
    assert min(loud) > 8


def test_what_is_painted_is_what_the_film_shows(
    first: list[np.ndarray], demo_truth: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    for run in lay_out(films()[0]).runs:
        if run.drawing.name.endswith("/0") or run.shot == "talk":
            rgb = np.asarray(run.drawing.paint(), np.float32)
            painted = 16 + rgb @ np.array([0.2126, 0.7152, 0.0722], np.float32) * 219 / 255
            assert np.abs(small(painted) - first[run.first]).mean() < 0.5, run.drawing.name
            assert shown(demo_truth, "episode-1", run.first)["drawing"] == run.drawing.name


def test_the_opening_comes_again_frame_by_frame(
    demo_folder: Path, first: list[np.ndarray], demo_truth: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    opening = [run for run in demo_truth["films"]["episode-1"]["runs"] if run["last"] < 156]
    again = [run for run in demo_truth["films"]["episode-2"]["runs"] if run["last"] < 156]
    assert [r["drawing"] for r in opening if r["shot"]] == [
        r["drawing"] for r in again if r["shot"]
    ]
    assert sum(run["shot"] != "" for run in opening) == 6 + 12  # six still shots and the walk
    second = luma(demo_folder / "episode-2.mkv")
    for mine, other in zip(first[:156], second, strict=False):
        assert difference(mine, small(other)) < 2


def test_faces_change_in_a_small_place_only(
    first: list[np.ndarray], demo_truth: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    faces = [run for run in demo_truth["films"]["episode-1"]["runs"] if run["shot"] == "talk"]
    names = [run["drawing"] for run in faces]
    assert names == ["talk/normal", "talk/smile", "talk/giggle", "talk/surprised", "talk/normal"]
    assert difference(first[faces[0]["first"]], first[faces[4]["first"]]) < 8
    for one, other in itertools.pairwise(faces):
        change = np.abs(first[one["first"]] - first[other["first"]])
        assert change.max() > 15
        assert (change > 4).mean() < 0.01


def test_the_pan_moves_8_pixels_a_frame(demo_folder: Path, demo_truth: dict[str, Any]) -> None:  # noqa: F811
    shot = next(s for s in demo_truth["films"]["episode-1"]["shots"] if s["name"] == "pan")
    frames = [grey for number, grey in enumerate(luma(demo_folder / "episode-1.mkv"))
              if shot["first"] <= number <= shot["last"]]  # fmt: skip
    assert np.abs(frames[0] - frames[11]).mean() < 0.5
    assert np.abs(frames[-1] - frames[-12]).mean() < 0.5
    for one, other in itertools.pairwise(frames[11:-11]):
        errors = [np.abs(one[:, k:] - other[:, : 1280 - k]).mean() for k in (0, 7, 8, 9)]
        assert int(np.argmin(errors)) == 2


def test_the_letterbox_is_as_high_as_told(demo_folder: Path, demo_truth: dict[str, Any]) -> None:  # noqa: F811
    assert demo_truth["films"]["movie"]["bar"] == BAR == 92
    brightest = np.zeros((720, 1280), np.float32)
    for grey in luma(demo_folder / "movie.mkv"):
        brightest = np.maximum(brightest, grey)
    rows = brightest.mean(1)
    assert max(rows[:92].max(), rows[-92:].max()) < 17.5
    assert min(rows[92:94].min(), rows[-94:-92].min()) > 200


def test_combed_frames_are_the_ones_told_of(demo_folder: Path, demo_truth: dict[str, Any]) -> None:  # noqa: F811
    film = demo_truth["films"]["episode-3"]
    combed = ["combed" in found for found in faults(demo_truth, "episode-3")]
    assert sum(combed) == 26
    measured = []
    for grey in luma(demo_folder / "episode-3.mkv"):
        between = np.minimum(grey[1:-1] - grey[:-2], grey[1:-1] - grey[2:])  # above both neighbours
        measured.append(float((between > 25).mean()))
    shots = {shot["name"]: shot for shot in film["shots"]}
    walk = range(shots["tv-walk"]["first"], shots["tv-walk"]["last"] + 1)
    clean = max(measured[k] for k in walk if not combed[k])
    assert min(measured[k] for k in walk if combed[k]) > 1.5 * clean


def test_fields_of_a_pulldown() -> None:
    assert fields(4) == [(0, 0), (1, 1), (1, 2), (2, 3), (3, 3)]
    assert fields(6)[5:] == [(4, 4), (5, 5)]
    assert len(fields(100)) == 125


def test_after_the_pulldown_a_frame_of_two_shots_belongs_to_none() -> None:
    film = Film("x", (still("a", 2, "uni", FULL), still("b", 2, "club", FULL)))
    told_of = telecined(lay_out(film))
    assert [(run.first, run.last, run.shot) for run in told_of.runs] == [
        (0, 1, "a"), (2, 2, ""), (3, 4, "b"),
    ]  # fmt: skip
    assert told_of.runs[1].drawing.faults == ("combed",)
    assert told_of.cuts == [3]
    assert told_of.shots == [
        {"name": "a", "first": 0, "last": 1}, {"name": "b", "first": 3, "last": 4},
    ]  # fmt: skip


def test_cuts_and_transitions_of_a_small_film() -> None:
    film = Film("x", (
        Transition("from black", 3), still("a", 4, "uni", FULL), still("b", 5, "club", FULL),
        Transition("dissolve", 2), still("c", 2, "uni", FULL), Transition("to black", 3),
        still("d", 1, "uni", FULL),
    ))  # fmt: skip
    timeline = lay_out(film)
    assert timeline.cuts == [7, 19]
    assert [part["first"] for part in timeline.transitions] == [0, 12, 16]
    assert [run.drawing.faults for run in timeline.runs[:3]] == [("fade",)] * 3


def test_the_same_script_makes_the_same_bytes_and_a_damaged_film_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shot = still("a", 5, "uni", FULL, Figure("blue_smile", 90, 40))
    script = (Film("one", (shot, Transition("to black", 4))),
              Film("two", (shot, still("b", 6, "club", FULL)), telecined=True))  # fmt: skip
    monkeypatch.setattr(demo, "films", lambda: script)
    paths = build_demo(tmp_path / "one")
    assert [path.name for path in paths] == ["one.mkv", "two.mkv"]
    assert main([str(tmp_path / "two")]) == 0
    assert "one, held" not in capsys.readouterr().out.splitlines()[0]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    before = paths[0].stat().st_mtime_ns
    build_demo(tmp_path / "one")
    assert paths[0].stat().st_mtime_ns == before
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:1000])
    build_demo(tmp_path / "one")
    assert paths[0].read_bytes() == whole


def test_what_is_kept_is_compared_with_what_should_be(demo_truth: dict[str, Any]) -> None:  # noqa: F811
    clean, seen = [], set()
    for name, film in demo_truth["films"].items():
        for run in film["runs"]:
            good = not set(run["faults"]) & {*demo_truth["must_go"], *demo_truth["doubtful"]}
            group = demo_truth["group_of"].get(run["shot"])
            once = run["drawing"] if group == "talk" or "reaction" in str(group) else group
            if "m-secret" in str(group):
                once = run["drawing"]
            if good and group and once not in seen:
                seen.add(once)
                clean.append((name, run["first"]))
    assert unmet(demo_truth, clean) == []
    assert len(clean) == 23 + 9 + 15  # of episode 1, episode 2 and the film

    (lost,) = unmet(demo_truth, clean[1:])
    assert lost.startswith("op-road (held: one drawing, held) has 0 pictures; expected 1 to 1")
    (twice,) = unmet(demo_truth, [*clean, clean[0]])
    assert "has 2 pictures" in twice
    line = next(r for r in demo_truth["films"]["episode-1"]["runs"] if "line art" in r["faults"])
    assert unmet(demo_truth, [*clean, ("episode-1", line["first"])]) == [
        f"episode-1, frame {line['first']} (line-art/0) has line art."
    ]
    with pytest.raises(KeyError, match="has no frame 99999"):
        shown(demo_truth, "episode-1", 99999)


def test_a_folder_without_a_demo_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Run: python -m training\.dataset\.demo"):
        truth(tmp_path)
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file")]) == 2


def test_the_plan_names_only_faults_that_it_explains(demo_truth: dict[str, Any]) -> None:  # noqa: F811
    named = {fault for film in films() for part in film.parts if isinstance(part, Shot)
             for drawing in part.drawings for fault in drawing.faults}  # fmt: skip
    known = {*demo_truth["must_go"], *demo_truth["doubtful"]}
    assert named <= known
    assert known - named == {"fade", "dissolve", "combed", "logo"} - named
    assert json.dumps(demo_truth)  # plain data
