from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.dataset_work import open_work
from training.dataset import ingest
from training.settings import ConfigError


def save(path, value=100, size=(7, 5), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path, **options)


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "pictures"
    save(folder / "b.png", 10)
    save(folder / "a.jpg", 20)
    save(folder / "sub" / "c.webp", 30, lossless=True)
    (folder / "b.txt").write_text("a girl,\nsmiling\n")
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "notes.md").write_text("no picture")
    return folder


def ingested(tmp_path, *sources, **settings):
    with open_work(
        tmp_path / "set", ingest={"sources": [str(source) for source in sources], **settings}
    ) as work:
        told = ingest.run(work)
        return told, work.ledger.pictures(), work.ledger.forms("colour"), work.ledger.decisions()


def test_a_folder_becomes_pictures_in_order_with_captions(tmp_path, sources):
    told, pictures, forms, _ = ingested(tmp_path, sources)
    assert told == {"keep": 3}
    assert [p.provenance["file"] for p in pictures] == ["a.jpg", "b.png", "sub/c.webp"]
    assert [p.provenance.get("caption") for p in pictures] == [None, "a girl, smiling", None]
    assert [(p.width, p.height) for p in pictures] == [(7, 5)] * 3
    pixels = np.array(Image.open(tmp_path / "set" / forms[pictures[1].id].path))
    assert (pixels == 10).all()


def test_ingesting_again_does_only_what_changed(tmp_path, sources):
    _, before, files, _ = ingested(tmp_path, sources)
    stamps = {
        form.path: (tmp_path / "set" / form.path).stat().st_mtime_ns for form in files.values()
    }
    save(sources / "b.png", 11)
    save(sources / "0.png", 40)
    (sources / "a.jpg").unlink()
    told, after, forms, _ = ingested(tmp_path, sources)
    assert told == {"keep": 3}
    assert [p.provenance["file"] for p in after] == ["0.png", "b.png", "sub/c.webp"]
    assert after[1].id != before[1].id
    assert after[2].id == before[2].id
    unchanged = forms[after[2].id].path
    assert (tmp_path / "set" / unchanged).stat().st_mtime_ns == stamps[unchanged]
    assert len(list((tmp_path / "set" / "pictures" / "colour").iterdir())) == 3


def test_a_file_that_was_taken_away_is_made_again(tmp_path, sources):
    first = ingested(tmp_path, sources)
    paths = [tmp_path / "set" / form.path for form in first[2].values()]
    whole = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    paths[1].unlink()
    assert ingested(tmp_path, sources) == first
    assert [path.read_bytes() for path in paths] == [data for data, _ in whole]
    again = [path.stat().st_mtime_ns != time for path, (_, time) in zip(paths, whole, strict=True)]
    assert again == [False, True, False]


def test_the_same_picture_twice_is_two_pictures_of_one_content(tmp_path, sources):
    save(sources / "copy.png", 10)
    _, pictures, forms, _ = ingested(tmp_path, sources)
    twins = [p for p in pictures if p.provenance["file"] in ("b.png", "copy.png")]
    assert twins[0].id != twins[1].id
    assert forms[twins[0].id].sha256 == forms[twins[1].id].sha256


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path, sources, capsys):
    (sources / "broken.png").write_bytes((sources / "b.png").read_bytes()[:40])
    (sources / "text.png").write_text("no picture at all")
    save(sources / "huge.png", 255, (25_000, 20_000), "L")
    (sources / "c.png").write_bytes((sources / "b.png").read_bytes())
    (sources / "c.txt").write_bytes(b"\xff\xfe\xff")
    told, pictures, _, decisions = ingested(tmp_path, sources)
    assert told == {"keep": 3, "failed": 4}
    assert len(pictures) == 3
    reasons = {item.split("/")[1]: decision.reason for item, _, decision in decisions}
    assert "25000 x 20000 pixels, 500 million; at most 200 million" in reasons["huge.png"]
    assert "cannot be read as a picture" in reasons["broken.png"]
    assert "cannot be read as a picture" in reasons["text.png"]
    assert "not UTF-8" in reasons["c.png"]
    assert "huge.png" in capsys.readouterr().out
    (sources / "broken.png").unlink()
    (sources / "c.txt").unlink()
    told, pictures, _, decisions = ingested(tmp_path, sources)
    assert told == {"keep": 4, "failed": 2}


def test_transparent_turned_grey_and_deep_pictures_are_put_right(tmp_path):
    folder = tmp_path / "odd"
    save(folder / "clear.png", 0, (2, 2), "RGBA")
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(folder / "deep.png")
    save(folder / "grey.png", 77, (3, 2), "L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(folder / "turned.jpg", 50, (7, 5), exif=exif)
    _, pictures, forms, _ = ingested(tmp_path, folder)
    read = {
        p.provenance["file"]: np.array(Image.open(tmp_path / "set" / forms[p.id].path))
        for p in pictures
    }
    assert (read["clear.png"] == 255).all()
    assert read["deep.png"].tolist() == [[0, 255]]
    assert read["grey.png"].shape == (2, 3)
    assert read["turned.jpg"].shape == (7, 5, 3)


def test_films_are_named_by_their_content_and_a_copy_is_left_out(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "one.mkv").write_bytes(b"first")
    (tmp_path / "films" / "two.mkv").write_bytes(b"second")
    (tmp_path / "films" / "zcopy.mkv").write_bytes(b"first")
    told, _, _, decisions = ingested(tmp_path, tmp_path / "films")
    assert told == {"keep": 2, "failed": 1}
    assert "zcopy.mkv is the same film as" in capsys.readouterr().out
    assert decisions[0][2].verdict == "failed"
    (tmp_path / "films" / "zcopy.mkv").unlink()
    (tmp_path / "films" / "two.mkv").unlink()
    with open_work(tmp_path / "set", ingest={"sources": [str(tmp_path / "films")]}) as work:
        ingest.run(work)
        assert [source.details["file"] for source in work.ledger.sources()] == ["one.mkv"]


def test_a_source_that_is_away_keeps_what_was_made_of_it(tmp_path, sources, capsys):
    save(tmp_path / "other" / "x.png")
    ingested(tmp_path, sources, tmp_path / "other")
    sources.rename(tmp_path / "away")
    told, pictures, _, _ = ingested(tmp_path, sources, tmp_path / "other")
    assert told == {"keep": 1, "missing": 1}
    assert len(pictures) == 4
    _, pictures, _, _ = ingested(tmp_path, tmp_path / "other")
    assert len(pictures) == 1
    assert len(list((tmp_path / "set" / "pictures" / "colour").iterdir())) == 1


def test_no_source_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"it is empty\. Name films"):
        ingested(tmp_path)
    with pytest.raises(ConfigError, match="absent"):
        ingested(tmp_path, tmp_path / "absent")
