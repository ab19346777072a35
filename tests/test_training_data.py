from __future__ import annotations

import io
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_world
from training.config import DataSettings
from training.data import DataError, Dataset, square


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_world.write_sketches(tmp_path_factory.mktemp("data") / "sketches")


def test_each_epoch_shows_every_row_once(folder):
    dataset = Dataset(DataSettings(folder=str(folder)))
    samples = [dataset.sample(5, position) for position in range(24)]
    assert len({s.picture for s in samples[:12]}) == len({s.picture for s in samples[12:]}) == 12
    assert all(s.reference == s.picture for s in samples)


def test_a_sample_draws_one_of_its_captions(folder):
    dataset = Dataset(DataSettings(folder=str(folder)))
    kinds = Counter(dataset.sample(0, p).caption.split()[0] for p in range(1200))
    assert kinds["a"] + kinds["drawing"] == 1200
    assert kinds["a"] == pytest.approx(600, abs=70)  # four standard deviations
    assert len(dataset.captions) == 24


def test_group_references_are_the_target_itself_as_often_as_asked(folder):
    settings = DataSettings(folder=str(folder), reference="group", self_reference=0.25)
    dataset = Dataset(settings)
    group = {row.picture: row.group for row in dataset.rows}
    pairs = [dataset.sample(1, p) for p in range(2400)]
    assert all(group[s.picture] == group[s.reference] for s in pairs)
    own = sum(s.picture == s.reference for s in pairs)
    assert own == pytest.approx(600, abs=85)  # four standard deviations
    others = Counter((s.picture, s.reference) for s in pairs if s.picture != s.reference)
    assert len(others) == 12 * 2  # groups of three: each row meets both of the others
    assert min(others.values()) > 40
    assert dataset.alone == 0


def test_a_row_alone_in_its_group_is_its_own_reference(tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "d", count=4)  # groups of three and one
    dataset = Dataset(DataSettings(folder=str(folder), reference="group", self_reference=0.0))
    pairs = [dataset.sample(1, p) for p in range(40)]
    assert {s.reference for s in pairs if s.picture == "03.png"} == {"03.png"}
    assert all(s.picture != s.reference for s in pairs if s.picture != "03.png")
    assert dataset.alone == 1


def test_a_column_can_name_the_reference(tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "d", count=3)
    lines = [{"file_name": "00.png", "text": "x", "sketch": "02.png"}]
    tiny_world.write_metadata(folder, lines)
    dataset = Dataset(DataSettings(folder=str(folder), reference="sketch"))
    assert dataset.sample(0, 17).reference == "02.png"
    assert dataset.references == ["02.png"]
    assert dataset.targets == ["00.png"]


def test_pictures_in_a_tar_are_the_same_as_loose_ones(folder, tmp_path):
    tiny_world.write_metadata(tmp_path, [{"file_name": "03.png", "text": "x"}])
    with tarfile.open(tmp_path / "part-0.tar", "w") as archive:
        archive.add(folder / "02.png", "./02.png")
        archive.add(folder / "03.png", "./03.png")
    packed = Dataset(DataSettings(folder=str(tmp_path), resolution=32))
    loose = Dataset(DataSettings(folder=str(folder), resolution=32))
    assert torch.equal(packed.target_pixels("03.png"), loose.target_pixels("03.png"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "00.png"}', r"line 2 has no 'text'; it has file_name"),
        ('{"text": "x"}', r"line 2 has no 'file_name'"),
        ('{"file_name": "99.png", "text": "x"}', r"file_name is '99\.png', and .* no such file"),
        ('{"file_name": "00.png", "text": 3}', r"text is 3; expected a caption or a list"),
        ('{"file_name": "00.png", "text": []}', r"text is \[\]; expected a caption"),
        ('{"file_name": ', r"line 2 is not valid JSON"),
        ("[1]", r"line 2 is not a JSON object"),
    ],
)
def test_a_wrong_line_is_an_error_that_names_it(tmp_path, line, message):
    folder = tiny_world.write_sketches(tmp_path / "d", count=2)
    (folder / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        Dataset(DataSettings(folder=str(folder)))


def test_missing_data_is_an_error_that_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"data\.folder is not set"):
        Dataset(DataSettings())
    with pytest.raises(DataError, match=r"no .*metadata\.jsonl.*file_name"):
        Dataset(DataSettings(folder=str(tmp_path)))
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(DataError, match="lists no pictures"):
        Dataset(DataSettings(folder=str(tmp_path)))
    folder = tiny_world.write_sketches(tmp_path / "d", count=1)
    with pytest.raises(DataError, match=r"has no 'shot'"):
        Dataset(DataSettings(folder=str(folder), reference="group", group_column="shot"))


def test_a_damaged_picture_is_an_error_that_names_it(tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "d", count=2)
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    dataset = Dataset(DataSettings(folder=str(folder)))
    with pytest.raises(DataError, match=r"01\.png cannot be read as a picture.*Replace"):
        dataset.target_pixels("01.png")


def test_transparency_becomes_white_paper(tmp_path):
    drawing = np.zeros((6, 6, 4), dtype=np.uint8)  # black lines, all of it transparent but one dot
    drawing[2, 3, 3] = 255
    content = io.BytesIO()
    Image.fromarray(drawing).save(content, "PNG")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    tiny_world.write_metadata(tmp_path, [{"file_name": "a.png", "text": ""}])
    dataset = Dataset(DataSettings(folder=str(tmp_path), resolution=8, fit="pad"))
    assert dataset.target_pixels("a.png").max() == 1
    dataset = Dataset(DataSettings(folder=str(tmp_path), resolution=8))
    assert dataset.target_pixels("a.png")[0, :, 0, 0].tolist() == [1, 1, 1]
    assert dataset.reference_pixels("a.png", 6)[0, 2, 3].tolist() == [0, 0, 0]
    assert dataset.reference_pixels("a.png", 6)[0, 0, 0].tolist() == [1, 1, 1]


def test_crop_keeps_the_middle_and_pad_keeps_all():
    tall = torch.ones(1, 12, 4, 4)
    tall[:, 0] = torch.tensor([0.0, 0, 0, 1])  # a black line at the very top
    assert square(tall, 4, "crop").min() == 1
    padded = square(tall, 12, "pad")
    assert padded.shape == (1, 3, 12, 12)
    assert padded[0, 0, 0].tolist() == [1] * 4 + [0] * 4 + [1] * 4
