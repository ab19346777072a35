"""Funnel, report and explain (training/dataset/report.py and its parts)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.dataset_work import add_picture, open_work
from training.dataset.demo_film.scenes import Figure, scene
from training.dataset.demo_film.script import FULL
from training.dataset.explain import clock, explain, number
from training.dataset.images import PictureError, Pixels
from training.dataset.ledger import Decision, Outcome, Picture, Source, Text
from training.dataset.report import run, write_report
from training.dataset.reporting.charts import histogram
from training.dataset.reporting.funnel import UNUSED, funnel, read_findings
from training.dataset.reporting.sheets import WIDTH, Sheets, spread
from training.dataset.reporting.warnings import warnings
from training.dataset.stages import ORDER
from training.dataset.work import Work

FACES = ("normal", "smile", "giggle", "surprised")
COUNT = 12


def pixels(number: int) -> Pixels:
    background = ("club", "uni", "meadow")[number % 3]
    figure = Figure(f"blue_{FACES[number % 4]}", 100 + 60 * number, 40, 800)
    return np.asarray(scene(background, FULL, figure).resize((480, 270)))


@pytest.fixture(scope="module")
def art() -> list[Pixels]:
    return [pixels(number) for number in range(COUNT)]


@pytest.fixture
def work(tmp_path: Path, art: list[Pixels]) -> Iterator[Work]:
    with film_and_folder(tmp_path, art) as work:
        yield work


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, art: list[Pixels]) -> Iterator[Work]:
    """After all stages, with a report; only to be read."""
    with film_and_folder(tmp_path_factory.mktemp("finished"), art) as work:
        run_stages(work)
        write_report(work)
        yield work


@contextmanager
def film_and_folder(folder: Path, art: list[Pixels]) -> Iterator[Work]:
    """Twelve pictures of one film, and two of a folder that were never looked at."""
    with open_work(folder, rights={"note": "MIT"}) as work:
        work.ledger.add_source(
            Source("film01", "/films/one <b>.mkv", "film", {"sha256": "ab" * 32})
        )
        work.ledger.add_source(Source("source", "/pictures", "folder"))
        for number, picture in enumerate(art):
            take(work, f"film01-{number:010}", picture, number)
        for number in (0, 1):
            add_picture(work, f"loose{number}", art[number][:135], number, file=f"{number}.png")
        told = {"frames": 500, "shots": 4, "combed": 7, "transition": 20, "fps": "24000/1001",
                "crop": [0, 92, 1280, 628], "interlaced": True}  # fmt: skip
        film = Decision("film", "keep", "500 frames", details=told)
        work.ledger.record("film01", "frames", "d", Outcome([film]))
        for shot in range(4):
            decision = Decision("shot", "keep" if shot else "drop", "too short", 0.1 + shot, 0.25)
            work.ledger.record(f"film01/shot-{shot:05}", "frames", "d", Outcome([decision]))
        yield work


def take(work: Work, name: str, picture: Pixels, number: int) -> None:
    provenance = {"shot": number // 3, "seconds": 61.5 + number, "pts": 1000 * number}
    height, width = picture.shape[:2]
    entry = Picture(name, "film01", number, width, height, provenance)
    forms = {"colour": work.write(entry, "colour", picture)}
    work.ledger.record(name, "frames", "d", Outcome(forms=forms), [entry])


def ids(work: Work) -> list[str]:
    return [picture.id for picture in work.ledger.pictures() if picture.source == "film01"]


def run_stages(work: Work) -> None:
    """As the real stages would, with known results."""
    names = ids(work)
    for k, name in enumerate(names):
        blur = Decision("blur", "drop" if k < 3 else "keep", "soft" * (k < 3), k / 10, 0.25)
        text = Decision("text", "drop" if k == 2 else "review" if k == 3 else "keep")
        work.ledger.record(name, "filter", "f", Outcome([blur, text]))
    for name in names[3:]:
        k = names.index(name)
        details: dict[str, Any] = {"cluster": "c1", "kind": "held", "of": names[4]}
        told = Outcome([Decision("held", "drop", "", 1.5, 3.0, details)] if k in (5, 6) else [])
        if k == 4:
            told = Outcome([Decision("representative", "keep", details={"cluster": "c1"})])
        work.ledger.record(name, "dedup", "e", told)
    for name in names[3:5] + names[7:]:
        if name == names[11]:
            work.ledger.fail(name, "sketch", "no <memory>")
            continue
        picture = next(p for p in work.ledger.pictures() if p.id == name)
        grey = work.read(picture, "colour")[..., 1]
        work.ledger.record(
            name, "sketch", "s", Outcome(forms={"sketch": work.write(picture, "sketch", grey)})
        )
        form = work.write(picture, "adjusted", 255 - grey, coverage_before=0.01, coverage=0.05,
                          gamma=1.5, black=3, white=250, noise=0.5, clahe=True)  # fmt: skip
        work.ledger.record(name, "adjust", "a", Outcome(forms={"adjusted": form}))
        details = {"candidates": [{"text": "a girl", "itm": 0.75}], "writer": "blip2"}
        texts = {
            "caption_sketch": Text("anime sketch, lineart, a <girl> " + name, details),
            "caption_color": Text("a girl with red hair", {}),
        }
        work.ledger.record(name, "caption", "c", Outcome(texts=texts))


def page_of(work: Work) -> str:
    return (work.folder / "report" / "index.html").read_text(encoding="utf-8")


def person(verdict: str, reason: str = "") -> Outcome:
    by = {"reviewer": "Mio", "time": "2025-11-25T17:09:01", "seq": 1}
    return Outcome([Decision("person", verdict, reason, details=by)])  # type: ignore[arg-type]


def test_the_funnel_counts_each_picture_where_it_ended(work: Work) -> None:
    run_stages(work)
    told = {step.stage: step for step in funnel(work)}
    assert list(told) == list(ORDER)
    assert told["ingest"][:7] == ("ingest", 3, 3, 0, 0, 0, {})
    combed = {"combed": 7, "in a dissolve or fade": 20, UNUSED: 500 - 12 - 27}
    assert told["frames"][:7] == ("frames", 500, 12, 488, 0, 0, combed)
    assert told["measure"][:7] == ("measure", 14, 14, 0, 0, 0, {})
    assert told["filter"][:7] == ("filter", 14, 11, 3, 1, 0, {"blur": 3, "text": 1})
    assert told["dedup"][:7] == ("dedup", 11, 9, 2, 0, 0, {"held": 2})
    assert told["sketch"][:7] == ("sketch", 9, 8, 0, 0, 1, {})
    assert told["export"].kept == 8
    assert [step.stage for step in told.values() if not step.ran] == [
        "measure", "fingerprint", "review", "split", "export",
    ]  # fmt: skip
    for place, stage in enumerate(ORDER[2:], 3):
        assert told[stage].kept == len(work.ledger.kept(ORDER[:place]))
    assert {p.id for p in read_findings(work).kept} == {p.id for p in work.ledger.kept(ORDER)}


def test_a_person_counts_more_than_a_check_but_cannot_mend_a_failure(work: Work) -> None:
    run_stages(work)
    names = ids(work)
    work.ledger.record(names[0], "review", "r", person("keep"))  # dropped as blurred
    work.ledger.record(names[11], "review", "r", person("keep"))  # failed
    work.ledger.record(names[3], "review", "r", person("drop", "bad sketch"))
    waiting = Decision("person", "drop", "waits for review", details={"why": "was flagged"})
    work.ledger.record(names[4], "review", "r", Outcome([waiting]))
    told = {step.stage: step for step in funnel(work)}
    assert told["filter"].checks == {"blur": 2, "text": 1}
    assert told["filter"].dropped == 2
    assert told["sketch"].failed == 1
    assert told["review"][2:7] == (7, 2, 0, 0, {"rejected": 1, "waits for a person": 1})
    assert {p.id for p in read_findings(work).kept} == {p.id for p in work.ledger.kept(ORDER)}


def test_an_empty_data_set_has_a_report(tmp_path: Path) -> None:
    with open_work(tmp_path) as work:
        page = write_report(work).read_text(encoding="utf-8")
        assert run(work) == {"kept": 0, "warnings": 2}
    assert "0 pictures → 0 kept" in page
    assert "There is none yet" in page
    assert "Not run yet: ingest, measure, filter" in page
    assert "Nothing can be exported before rights.note" in page


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(finished: Work) -> None:
    path, page = finished.folder / "report" / "index.html", page_of(finished)
    assert "1 film → 500 frames → 4 shots → 14 pictures → 8 kept (57%)" in page
    assert "about 6,000 frames → 1,818 kept (30%)" in page
    assert "blur 3, text 1" in page
    assert "no &lt;memory&gt;" in page
    assert "a &lt;girl&gt;" in page
    assert "one &lt;b&gt;.mkv" in page
    assert "23.976 frames/s, interlaced, crop [0, 92, 1280, 628]" in page
    assert not re.search(r"<script|<memory>|<girl>|http-equiv", page)
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == page.count("</svg>") == 4  # funnel, shot, blur, ink
    for part in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")
    links = re.findall(r'(?:src|href)="(?!#)([^"]+)"', page)
    assert len(links) > 40
    for link in links:
        assert (path.parent / link).is_file(), link
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    with Image.open(path.parent / "kept.jpg") as sheet:
        assert sheet.width == 3 * 320


def test_both_sides_of_a_threshold_are_shown_the_nearest_first(finished: Work) -> None:
    names, page = ids(finished), page_of(finished)
    section = page.split("<h3>filter: blur</h3>")[1].split("<h3>")[0]
    kept, rest = section.split("Not kept, nearest to the threshold")
    shown = [re.findall(r"<code>([^<]+)</code>", part) for part in (kept, rest)]
    assert shown[0] == [names[3], names[4], names[5], names[6]]  # 0.3, 0.4, ...; threshold 0.25
    assert shown[1] == [names[2], names[1], names[0]]
    assert "0.2 / 0.25 soft" in rest


def test_duplicates_are_shown_together_the_best_first(finished: Work) -> None:
    names, page = ids(finished), page_of(finished)
    section = page.split('<h2 id="duplicates">')[1].split("<h2")[0]
    assert re.findall(r"<code>([^<]+)</code>", section) == [names[4], names[5], names[6]]
    assert "<td>held</td><td class=n>2</td>" in section


def test_thumbnails_are_made_once_and_the_superfluous_go(finished: Work) -> None:
    work, before_page = finished, page_of(finished)
    folder = work.folder / "report" / "thumbnails"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    form = work.ledger.forms("colour")[ids(work)[4]]
    with Image.open(folder / f"{form.sha256[:24]}.jpg") as small:
        assert small.size == (WIDTH, 180)
    (folder / "old.jpg").touch()
    assert write_report(work) == work.folder / "report" / "index.html"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert page_of(work) == before_page


def test_a_missing_picture_is_told_and_the_page_written(work: Work) -> None:
    form = work.ledger.forms("colour")[ids(work)[4]]
    (work.folder / form.path).unlink()
    page = write_report(work).read_text(encoding="utf-8")
    assert f"There is no picture {work.folder / form.path}" in page


def test_warnings_in_words(work: Work) -> None:
    run_stages(work)
    names = ids(work)

    def told() -> list[str]:
        return warnings(work, read_findings(work), funnel(work))

    assert told()[0].startswith("1 picture failed at sketch")
    assert any("Not run yet: measure, fingerprint, review, split, export" in t for t in told())
    assert not any("one shot" in text or "one and the same" in text for text in told())
    work.ledger.record("film01", "frames", "d", Outcome([
        Decision("film", "keep"), Decision("end", "review", "one.mkv stopped at 3 s"),
    ]))  # fmt: skip
    assert "one.mkv stopped at 3 s." in told()

    for name in names[3:]:
        texts = {"caption_sketch": Text("anime sketch, lineart")}
        work.ledger.record(name, "caption", "c", Outcome(texts=texts))
    # A failed picture is not kept; 6 of film 1 are.
    assert "6 of 6 captions are one and the same: 'anime sketch, lineart'." in told()
    for name in (names[3], names[4], "loose0"):
        work.ledger.record(name, "split", "p", Outcome([Decision("split", "drop")]))
    waiting = Decision("person", "drop", "waits for review", details={"why": "was flagged"})
    work.ledger.record("loose1", "review", "r", Outcome([waiting]))
    assert any(text.startswith("1 picture still to be seen by a person") for text in told())

    for name in names:
        work.ledger.record(name, "filter", "f", Outcome([Decision("blur", "drop")]))
    (strict,) = [text for text in told() if "drops" in text]
    assert strict.startswith("The check 'blur' of filter drops 86% of its pictures.")


def test_one_shot_with_a_third_of_the_pictures_is_told(work: Work) -> None:
    for name in [*ids(work)[3:8], "loose0"]:
        work.ledger.record(name, "filter", "f", Outcome([Decision("blur", "drop")]))
    told = warnings(work, read_findings(work), funnel(work))
    assert "38% of the kept pictures come from one shot (film01/shot-0)." in told
    assert "88% of the kept pictures come from one source (/films/one <b>.mkv)." in told


def test_explain_tells_a_pictures_whole_way(work: Work) -> None:
    run_stages(work)
    names = ids(work)
    text = explain(work, names[5])
    assert text.startswith(f"{names[5]}: dropped by dedup: held")
    assert "/films/one <b>.mkv" in text
    assert "ab" * 32 in text
    assert "0:01:06.500, pts 5000" in text
    assert "480 x 270" in text
    assert "keep    blur  0.5, threshold 0.25" in text
    assert "drop    held  1.5, threshold 3  cluster: c1, kind: held" in text
    colour = work.ledger.forms("colour")[names[5]]
    assert f"pictures/colour/{names[5]}.png  sha256 {colour.sha256}" in text
    assert "Not dealt with by: ingest" not in text
    assert "Not dealt with by: measure, fingerprint, sketch" in text

    text = explain(work, names[4])
    assert text.startswith(f"{names[4]}: kept, in no split yet")
    assert f"caption_sketch: anime sketch, lineart, a <girl> {names[4]}" in text
    assert "candidate  itm: 0.75, text: a girl" in text
    assert "coverage: 0.05" in text
    assert explain(work, names[11]).startswith(f"{names[11]}: failed at sketch: no <memory>")
    assert "dropped by filter: blur (soft); text" in explain(work, names[2])


def test_explain_tells_what_a_person_decided(work: Work) -> None:
    run_stages(work)
    names = ids(work)
    kept = person("keep")
    work.ledger.record(names[0], "review", "r", kept)
    where = Decision("split", "keep", details={"split": "test", "group": "g"})
    work.ledger.record(names[0], "split", "p", Outcome([where]))
    text = explain(work, names[0])
    assert "brought back by a person after filter: blur, in the split 'test'" in text
    assert "(Mio, 2025-11-25T17:09:01)" in text
    edited = Outcome(person("drop", "dull").decisions, texts={"reviewed_sketch": Text("a cat", {})})
    work.ledger.record(names[4], "review", "r", edited)
    text = explain(work, names[4])
    assert text.startswith(f"{names[4]}: dropped by review: rejected (dull)")
    assert "caption_sketch (replaced by a person): anime sketch" in text
    assert "reviewed_sketch: a cat" in text


def test_a_beginning_of_an_id_is_enough_if_no_other_has_it(work: Work) -> None:
    assert explain(work, "loose1").startswith("loose1: kept")
    assert explain(work, "film01-0000000003") == explain(work, ids(work)[3])
    with pytest.raises(PictureError, match=r"12 ids begin with 'film01-'; there is film01-0000.* "
                       r"and 4 more\. Give more of it"):  # fmt: skip
        explain(work, "film01-")
    with pytest.raises(PictureError, match=r"no picture, shot or source 'lose1'; there is loose1"):
        explain(work, "lose1")
    with pytest.raises(PictureError, match="explain needs the id of a picture"):
        explain(work, " ")


def test_explain_tells_of_shots_and_sources_too(work: Work) -> None:
    text = explain(work, "film01/shot-00001")
    assert "keep    shot  1.1, threshold 0.25" in text
    assert "3 pictures came of it, 3 kept" in text
    assert "film01-0000000003  kept" in text
    text = explain(work, "film01")
    assert text.startswith("film01: a film, /films/one <b>.mkv")
    assert "12 pictures came of it, 12 kept" in text
    assert text.endswith("  ...\n")


def test_numbers_are_short() -> None:
    assert [number(x) for x in (0.25, 1e-6, 12345.6, 3)] == ["0.25", "1e-06", "12,346", "3"]
    assert clock(3723.5) == "1:02:03.500"
    assert clock(59.9999) == "0:01:00.000"
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread([], 3) == []


def test_whole_numbers_have_a_bar_each() -> None:
    drawn = histogram({"keep": [1, 1, 3], "drop": [2]}, "words", [2.0])
    assert drawn.count("<path") > 6
    ElementTree.fromstring(drawn)
    ElementTree.fromstring(histogram({"x": [0.001, 0.002, 5.0, 1000.0]}, "wide"))
    ElementTree.fromstring(histogram({"x": [0.5]}, "one value"))


def test_thousands_of_pictures_take_seconds_and_show_hundreds(
    tmp_path: Path, art: list[Pixels]
) -> None:
    with open_work(tmp_path) as work:
        work.ledger.add_source(Source("film01", "/one.mkv", "film"))
        form = work.write(Picture("one", "film01", 0, 480, 270), "colour", art[0])
        work.ledger._db.execute("BEGIN")  # one transaction for all, as they are many
        for number in range(2000):
            picture = Picture(f"p{number:06}", "film01", number, 480, 270, {"shot": number // 5})
            work.ledger._db.execute(
                "INSERT INTO pictures VALUES (?, 'film01', ?, 480, 270, ?)",
                (picture.id, number, f'{{"shot": {number // 5}}}'),
            )
            score = struct.unpack("<H", struct.pack("<H", number * 31 % 65536))[0] / 65536
            verdict = "drop" if score < 0.3 else "keep"
            work.ledger._db.execute(
                "INSERT INTO decisions VALUES (?, 'filter', 'blur', ?, '', ?, 0.3, '{}')",
                (picture.id, verdict, score),
            )
            work.ledger._write(picture.id, "frames", Outcome(forms={"colour": form}))
        work.ledger._db.execute("COMMIT")
        page = write_report(work).read_text(encoding="utf-8")
    assert page.count("<img") < 300
    assert "2,000 pictures → " in page
    assert len(list((tmp_path / "report" / "thumbnails").iterdir())) == 1


def test_explain_by_the_command_line(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    from training.dataset.__main__ import main

    arguments = ["--run.output", str(work.folder), "--run.device", "cpu"]
    assert main(["explain", "loose0", *arguments]) == 0
    assert capsys.readouterr().out.startswith("loose0: kept")
    assert main(["explain", "nothing", *arguments]) == 2
    assert "no picture, shot or source 'nothing'" in capsys.readouterr().err
    assert main(["report", *arguments]) == 0
    out = capsys.readouterr().out
    assert "report/index.html" in out
    assert "14 kept" in out


def test_sheets_without_a_form_have_a_gap(work: Work) -> None:
    sheets = Sheets(work, work.folder / "report")
    assert 'class="none">no sketch' in sheets.image("loose0", "sketch")
    assert "no colour" in sheets.image("unknown")
    assert sheets.make() == []
