"""The layouts of data sets that people have (training/sources.py)."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from training.config import DataSettings
from training.data import Dataset
from training.sources import DataError, Pictures, read_source


def png(shade: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("L", (5, 3), shade).save(content, "PNG")
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def pack(path: Path, files: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def told(source: Path, **settings: object) -> dict[str, tuple[tuple[str, ...], float]]:
    """What a data set makes of a source: captions and weight of each picture."""
    dataset = Dataset(DataSettings(folders=(str(source),), **settings))  # type: ignore[arg-type]
    for row in dataset.rows:
        assert dataset.pictures.open(row.picture).shape == (1, 3, 5, 4)
    root = source if source.is_dir() else source.parent
    return {
        Path(row.picture).relative_to(root).as_posix(): (row.captions, row.weight)
        for row in dataset.rows
    }


def test_captions_beside_the_pictures(tmp_path):
    write(tmp_path, {"a.png": png(), "a.txt": "a cat\n", "b.JPG": png(), "b.caption": "one\n\ntwo"})
    assert told(tmp_path) == {"a.png": (("a cat",), 1), "b.JPG": (("one", "two"), 1)}


def test_kohyas_folders_count_as_often_as_their_name_says(tmp_path):
    files = {"10_girl/a.png": png(), "10_girl/a.txt": "a girl", "2_boy/x/b.png": png()}
    write(tmp_path, {**files, "2_boy/x/b.txt": "a boy", "c.png": png(), "c.txt": "c"})
    assert told(tmp_path) == {
        "10_girl/a.png": (("a girl",), 10),
        "2_boy/x/b.png": (("a boy",), 2),
        "c.png": (("c",), 1),
    }
    groups = Dataset(
        DataSettings(folders=(str(tmp_path),), reference="group", group_column="folder")
    )
    assert {row.group[1] for row in groups.rows} == {"10_girl", "2_boy/x", "."}


def test_lists_as_csv_jsonl_and_json(tmp_path):
    write(tmp_path, {"p/a.png": png(), "b.png": png()})
    rows = [{"file_name": "p/a.png", "text": "a, with commas"}, {"file_name": "b.png", "text": "b"}]
    expected = {"p/a.png": (("a, with commas",), 1), "b.png": (("b",), 1)}
    write(tmp_path, {"list.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n"})
    assert told(tmp_path / "list.jsonl") == expected
    write(tmp_path, {"list.csv": 'file_name,text\r\np/a.png,"a, with commas"\r\nb.png,b\r\n'})
    assert told(tmp_path / "list.csv") == expected
    write(
        tmp_path, {"metadata.csv": "\ufeff" + (tmp_path / "list.csv").read_text()}
    )  # as Excel does
    assert told(tmp_path) == expected
    # The list of tencent-ailab/IP-Adapter's trainer.
    other = [{"image_file": row["file_name"], "text": row["text"]} for row in rows]
    write(tmp_path, {"data.json": json.dumps(other)})
    assert told(tmp_path / "data.json", picture_column="image_file") == expected


def test_webdataset_tars(tmp_path):
    first = {"a.png": png(), "a.txt": "a", "s/b.jpg": png(), "s/b.json": '{"text": ["x", "y"]}'}
    pack(tmp_path / "0.tar", {**first, "s/b.sha256": "0"})
    pack(tmp_path / "1.tar", {"a.png": png(9), "a.txt": "another"})
    assert told(tmp_path) == {
        "0.tar/a.png": (("a",), 1),
        "0.tar/s/b.jpg": (("x", "y"), 1),
        "1.tar/a.png": (("another",), 1),
    }
    assert told(tmp_path / "1.tar") == {"1.tar/a.png": (("another",), 1)}
    pack(tmp_path / "2.tar", {"c.webp": png(), "c.json": '{"caption": "c"}'})
    assert told(tmp_path / "2.tar", caption_column="caption") == {"2.tar/c.webp": (("c",), 1)}


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({"a.png": png()}, ".", r"no caption for a\.png\..*ends in \.txt"),
        ({"a.png": png(), "a.txt": " \n"}, ".", r"a\.txt is empty.*metadata\.jsonl"),
        ({"a.png": png(), "a.txt": b"\xff\xfe"}, ".", r"a\.txt is not UTF-8"),
        ({"x.csv": "file_name,text\na.png\n"}, "x.csv", r"line 2 has more or fewer columns"),
        ({"x.csv": "image,text\na.png,x\n"}, "x.csv", r"no 'file_name'; it has image, text"),
        ({"x.json": "{}"}, "x.json", r"x\.json is no JSON array"),
        ({"x.json": "[3]"}, "x.json", r"x\.json, entry 1 is not a JSON object"),
        ({"x.csv": "file_name,text\n"}, "x.csv", "lists no pictures"),
        ({"x.tar": b"no tar"}, ".", r"x\.tar is not an uncompressed tar file.*tar -cf"),
        ({"x.zip": b""}, "x.zip", r"x\.zip is no data set"),
        ({"readme.md": "x"}, ".", r"no pictures\. Expected one JSON object"),
    ],
)
def test_a_wrong_source_is_an_error_that_names_it(tmp_path, files, source, message):
    write(tmp_path, files)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path / source, Pictures(), "file_name")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "p/../../secret.png", "C:x.png"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    write(tmp_path, {"secret.png": png(), "set/p/a.png": png()})
    line = json.dumps({"file_name": name, "text": "x"})
    write(tmp_path, {"set/metadata.jsonl": line})
    with pytest.raises(DataError, match="leads out of"):
        read_source(tmp_path / "set", Pictures(), "file_name")
    write(tmp_path, {"set/metadata.jsonl": json.dumps({"file_name": ".", "text": "x"})})
    with pytest.raises(DataError, match="leads out of"):
        read_source(tmp_path / "set", Pictures(), "file_name")


def test_no_tar_member_leads_out_of_the_tar(tmp_path):
    pack(tmp_path / "0.tar", {"../a.png": png(), "../a.txt": "a"})
    with pytest.raises(DataError, match=r"0\.tar holds '\.\./a\.png', a name that leads out"):
        read_source(tmp_path, Pictures(), "file_name")


def test_a_picture_too_large_to_be_one_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)  # 5 x 3 is more than twice that
    write(tmp_path, {"a.png": png()})
    with pytest.raises(DataError, match=r"a\.png cannot be read as a picture.*pixels"):
        Pictures().open(f"{tmp_path}/a.png")
