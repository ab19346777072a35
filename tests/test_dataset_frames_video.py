"""The stage `frames` on films with bars, telecined, interlaced, damaged, or no films at all."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from dataset_clips import SIZE, Script, drawing, pan, whole_script, write_clip
from dataset_takes import take
from PIL import Image

from training.dataset import frames
from training.dataset.config import DatasetConfig
from training.dataset.film.films import Film, open_film
from training.dataset.film.interlacing import is_combed
from training.dataset.film.survey import survey
from training.dataset.images import to_grey
from training.dataset.ledger import Ledger, Source
from training.dataset.work import Work
from training.workers import Workers


@pytest.fixture(scope="module")
def truth() -> Script:
    return whole_script()


@pytest.fixture(scope="module")
def film(truth: Script, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", truth.frames)


def boxed(picture: np.ndarray, top: int, left: int, text: bool = False) -> np.ndarray:
    out = np.zeros_like(picture)
    height, width = picture.shape[0] - 2 * top, picture.shape[1] - 2 * left
    out[top : top + height, left : left + width] = np.array(
        Image.fromarray(picture).resize((width, height))
    )
    if text:  # letters in the lower bar: thin, white, in the middle
        for x in range(150, 490, 9):
            out[-top + 8 : -top + 30, x : x + 3] = 255
    return out


@pytest.mark.parametrize(("top", "left"), [(44, 0), (0, 80), (44, 60), (0, 0)])
def test_bars_are_cut(tmp_path: Path, top: int, left: int) -> None:
    dark = drawing("club") // 12
    script = Script()
    for place, text in (("meadow", True), ("uni", True), ("club", False), ("lecturehall", True)):
        picture = drawing(place, "sylvie_blue_smile")
        script.cut().hold(boxed(picture, top, left, text and top > 0), 16)
        script.cut().hold(boxed(dark, top, left), 10)
    path = write_clip(tmp_path / "film.mp4", script.frames)
    box = take(tmp_path / "out", path).pictures[0].provenance["crop"]
    assert box == pytest.approx([left, top, SIZE[0] - left, SIZE[1] - top], abs=2)
    assert box[0] >= left
    assert box[1] >= top


def test_long_films_are_surveyed_here_and_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    for place in ("meadow", "uni", "club", "lecturehall"):
        script.cut().hold(boxed(drawing(place, "sylvie_blue_smile"), 44, 0), 24)
    film = open_film(write_clip(tmp_path / "film.mp4", script.frames, keyframes=8))
    whole = survey(film)
    looked: list[int] = []
    burst = Film.burst
    monkeypatch.setattr(Film, "burst", lambda *a: looked.append(1) or burst(*a))
    monkeypatch.setattr("training.dataset.film.survey.SHORT", 1.0)
    monkeypatch.setattr("training.dataset.film.survey.FEW", 4)
    assert survey(film).crop == whole.crop
    assert len(looked) == 48


def telecined(path: Path, pictures: list[np.ndarray]) -> Path:
    """29.97 frames a second of 23.976, by FFmpeg's telecine filter."""
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=SIZE[0], height=SIZE[1], format=av.VideoFormat("rgb24"),
        time_base=Fraction(1001, 24000),
    )  # fmt: skip
    rate = graph.add("fps", "fps=24000/1001")  # telecine refuses an unknown rate
    telecine, sink = graph.add("telecine", "pattern=23"), graph.add("buffersink")
    source.link_to(rate)
    rate.link_to(telecine)
    telecine.link_to(sink)
    graph.configure()
    out = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts, frame.time_base = number, Fraction(1001, 24000)
        graph.push(frame)
        out += pulled(graph)
    return write_clip(path, out, fps=Fraction(30000, 1001))


def pulled(graph: Any) -> Iterator[np.ndarray]:
    while True:
        try:
            yield graph.pull().to_ndarray()
        except (BlockingIOError, EOFError):
            return


def test_telecined_films_give_whole_frames(tmp_path: Path) -> None:
    walk = [drawing("club", "sylvie_green_normal", 60 + 8 * n) for n in range(30)]
    script = Script().cut().hold(drawing("uni", "sylvie_blue_smile"), 20)
    script.cut().move(walk).cut().move(pan("concert1", 20, 10)).cut().hold(drawing("meadow"), 20)
    path = telecined(tmp_path / "film.mp4", script.frames)
    known = survey(open_film(path))
    assert known.combs
    assert not known.interlaced
    assert known.combed / known.moving == pytest.approx(0.4, abs=0.06)  # two in five
    out = take(tmp_path / "out", path)
    assert len(out.shots) == 4
    # The walk is 37 or 38 frames now, of which two in five are combed.
    assert out.shots[1].details["combed"] == pytest.approx(15, abs=1)
    for picture in out.pictures:
        shown = out.pixels(picture).astype(int)
        near = min(np.abs(shown - drawn).mean() for drawn in script.frames)
        assert near < 6
        assert not is_combed(to_grey(out.pixels(picture)))
        assert not picture.provenance["deinterlaced"]


def woven(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Every frame of two moments, as a camera of 60 fields a second has it."""
    out = []
    for a, b in zip(pictures[::2], pictures[1::2], strict=True):
        frame = a.copy()
        frame[1::2] = b[1::2]
        out.append(frame)
    return out


def test_interlaced_films_are_deinterlaced(tmp_path: Path) -> None:
    script = Script().cut().hold(drawing("uni", "sylvie_blue_smile"), 24)
    script.move([drawing("club", "sylvie_green_normal", 40 + 6 * n) for n in range(60)])
    path = write_clip(tmp_path / "film.mp4", woven(script.frames), fps=30)
    known = survey(open_film(path))
    assert known.interlaced
    out = take(tmp_path / "out", path)
    assert len(out.shots) == 2
    assert all(picture.provenance["deinterlaced"] for picture in out.pictures)
    assert out.decisions["film0", "film"].details["frames"] == 42
    moving = out.pixels(out.pictures[-1]).astype(int)
    assert min(np.abs(moving - drawn).mean() for drawn in script.frames) < 7
    raw = take(tmp_path / "raw", path, deinterlace="never")
    assert raw.shots[1].reason == "all frames combed"
    assert not any(picture.provenance["deinterlaced"] for picture in raw.pictures)


def test_progressive_art_is_not_combed(film: Path) -> None:
    known = survey(open_film(film))
    assert known.moving > 30
    assert known.combed == 0


def test_a_truncated_film_gives_what_there_is(truth: Script, film: Path, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mkv", truth.frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = take(tmp_path / "out", path)
    end = out.decisions["film0", "end"]
    assert end.verdict == "review"
    assert "stopped at" in end.reason
    assert str(path) in end.reason
    assert end.score is not None
    assert end.threshold == pytest.approx(len(truth.frames) / 24, abs=0.1)
    assert len(out.pictures) > 4
    for number in out.numbers():
        assert any(first <= number < end for first, end in truth.allowed)


def test_damage_in_the_middle_is_skipped_and_counted(truth: Script, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mkv", truth.frames, keyframes=24)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    random = np.random.default_rng(3)
    data[middle : middle + 20_000] = random.integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    out = take(tmp_path / "out", path)
    film = out.decisions["film0", "film"].details
    assert film["frames"] > 0.7 * len(truth.frames)
    assert out.decisions["film0", "damage"].verdict == "review"
    late = [p for p in out.pictures if p.provenance["seconds"] > 0.75 * len(truth.frames) / 24]
    assert late
    for picture in out.pictures:  # none shows the damage
        shown = out.pixels(picture).astype(int)
        assert min(np.abs(shown - drawn).mean() for drawn in truth.frames[::2]) < 6


def test_one_bad_film_does_not_stop_the_others(film: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"no film at all" * 100)
    gone = tmp_path / "gone.mp4"
    out = take(tmp_path / "out", gone, junk, film)
    assert out.told["failed"] == 2
    assert len([p for p in out.pictures if p.source == "film2"]) == out.told["keep"] > 10
    failed = out.decisions["film1", "input"]
    assert failed.verdict == "failed"
    assert "junk.mp4 cannot be opened as a film" in failed.reason
    assert "There is no film" in out.decisions["film0", "input"].reason
    assert take(tmp_path / "out", gone, junk, film).told == {"failed": 2}  # tried again


def test_folders_are_left_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_source(Source("a", str(tmp_path), "folder"))
        told = frames.run(Work(DatasetConfig(), tmp_path, ledger, Workers("cpu")))
    assert not told


def test_a_black_film_has_no_pictures(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mp4", [np.zeros((360, 640, 3), np.uint8)] * 30)
    out = take(tmp_path / "out", path)
    assert not out.pictures
    assert out.shots[0].reason == "nothing but fades, single colours or damage"
