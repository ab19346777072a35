from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_world
from training.config import DataSettings
from training.data import Dataset
from training.framing import frame
from training.sources import DataError
from training.views import View


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_world.write_sketches(tmp_path_factory.mktemp("data") / "sketches")


def test_each_epoch_shows_every_row_once(folder):
    dataset = Dataset(DataSettings(folders=(str(folder),)))
    samples = [dataset.sample(5, position) for position in range(24)]
    assert len({s.picture for s in samples[:12]}) == len({s.picture for s in samples[12:]}) == 12
    assert all(s.reference == s.picture for s in samples)


def test_a_sample_draws_one_of_its_captions(folder):
    dataset = Dataset(DataSettings(folders=(str(folder),)))
    kinds = Counter(dataset.sample(0, p).caption.split()[0] for p in range(1200))
    assert kinds["a"] + kinds["drawing"] == 1200
    assert kinds["a"] == pytest.approx(600, abs=70)  # four standard deviations
    assert len(dataset.captions) == 24


def test_group_references_are_the_target_itself_as_often_as_asked(folder):
    settings = DataSettings(folders=(str(folder),), reference="group", self_reference=0.25)
    dataset = Dataset(settings)
    group = {View(row.picture): row.group for row in dataset.rows}
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
    dataset = Dataset(DataSettings(folders=(str(folder),), reference="group", self_reference=0.0))
    pairs = [dataset.sample(1, p) for p in range(40)]
    lone = View(f"{folder}/03.png")
    assert {s.reference for s in pairs if s.picture == lone} == {lone}
    assert all(s.picture != s.reference for s in pairs if s.picture != lone)
    assert dataset.alone == 1


def test_a_column_can_name_the_reference(tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "d", count=3)
    lines = [{"file_name": "00.png", "text": "x", "sketch": "02.png"}]
    tiny_world.write_metadata(folder, lines)
    dataset = Dataset(DataSettings(folders=(str(folder),), reference="sketch"))
    assert dataset.sample(0, 17).reference == View(f"{folder}/02.png")
    assert dataset.references == [View(f"{folder}/02.png")]
    assert dataset.targets == [View(f"{folder}/00.png")]


def test_pictures_in_a_tar_are_the_same_as_loose_ones(folder, tmp_path):
    tiny_world.write_metadata(tmp_path, [{"file_name": "03.png", "text": "x"}])
    with tarfile.open(tmp_path / "part-0.tar", "w") as archive:
        archive.add(folder / "02.png", "./02.png")
        archive.add(folder / "03.png", "./03.png")
    packed = Dataset(DataSettings(folders=(str(tmp_path),), resolution=32))
    loose = Dataset(DataSettings(folders=(str(folder),), resolution=32))
    unpacked = loose.target_pixels(View(f"{folder}/03.png"))
    assert torch.equal(packed.target_pixels(View(f"{tmp_path}/03.png")), unpacked)


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
        Dataset(DataSettings(folders=(str(folder),)))


def test_missing_data_is_an_error_that_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"data\.folders is not set"):
        Dataset(DataSettings())
    with pytest.raises(DataError, match=r"There is no .*nowhere; the settings name it"):
        Dataset(DataSettings(folders=(str(tmp_path / "nowhere"),)))
    with pytest.raises(DataError, match=r"no metadata\.jsonl.*file_name"):
        Dataset(DataSettings(folders=(str(tmp_path),)))
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(DataError, match="lists no pictures"):
        Dataset(DataSettings(folders=(str(tmp_path),)))
    folder = tiny_world.write_sketches(tmp_path / "d", count=1)
    with pytest.raises(DataError, match=r"has no 'shot'"):
        Dataset(DataSettings(folders=(str(folder),), reference="group", group_column="shot"))


def test_a_damaged_picture_is_an_error_that_names_it(tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "d", count=2)
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    dataset = Dataset(DataSettings(folders=(str(folder),)))
    with pytest.raises(DataError, match=r"01\.png cannot be read as a picture.*Replace"):
        dataset.target_pixels(View(f"{folder}/01.png"))


def test_transparency_becomes_white_paper(tmp_path):
    drawing = np.zeros((6, 6, 4), dtype=np.uint8)  # black lines, all of it transparent but one dot
    drawing[2, 3, 3] = 255
    content = io.BytesIO()
    Image.fromarray(drawing).save(content, "PNG")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    tiny_world.write_metadata(tmp_path, [{"file_name": "a.png", "text": ""}])
    dataset = Dataset(DataSettings(folders=(str(tmp_path),), resolution=8, fit="pad"))
    name = View(f"{tmp_path}/a.png")
    assert dataset.target_pixels(name).max() == 1
    dataset = Dataset(DataSettings(folders=(str(tmp_path),), resolution=8))
    assert dataset.target_pixels(name)[0, :, 0, 0].tolist() == [1, 1, 1]
    assert dataset.reference_pixels(name, 6)[0, 2, 3].tolist() == [0, 0, 0]
    assert dataset.reference_pixels(name, 6)[0, 0, 0].tolist() == [1, 1, 1]


def test_crop_keeps_the_middle_and_pad_keeps_all():
    tall = torch.ones(1, 12, 4, 4)
    tall[:, 0] = torch.tensor([0.0, 0, 0, 1])  # a black line at the very top
    assert frame(tall, (4, 4), "crop").min() == 1
    padded = frame(tall, (12, 12), "pad")
    assert padded.shape == (1, 3, 12, 12)
    assert padded[0, 0, 0].tolist() == [1] * 4 + [0] * 4 + [1] * 4


def test_weights_and_repeats_say_how_often_an_epoch_shows_a_picture(tmp_path):
    first = tiny_world.write_sketches(tmp_path / "first", count=4)
    second = tiny_world.write_sketches(tmp_path / "second", count=6)
    settings = DataSettings(folders=(str(first), str(second)), weights=(2.0, 0.5))
    dataset = Dataset(settings)
    assert dataset.stream.epoch_length == 2 * 4 + 3
    epochs = [
        Counter(dataset.sample(3, epoch * 11 + place).picture.picture for place in range(11))
        for epoch in range(16)
    ]
    for shown in epochs:
        assert {name: n for name, n in shown.items() if "first" in name} == {
            f"{first}/{n:02d}.png": 2 for n in range(4)
        }
        halves = [n for name, n in shown.items() if "second" in name]
        assert halves == [1, 1, 1]  # each at most once
    assert len({name for shown in epochs for name in shown}) == 10  # another half in each epoch
    # The stream does not depend on how it is read.
    assert dataset.sample(3, 5) == Dataset(settings).sample(3, 5)


def test_weights_that_fit_no_folder_are_an_error(tmp_path):
    folder = str(tiny_world.write_sketches(tmp_path / "d", count=2))
    with pytest.raises(DataError, match=r"data\.weights has 2 numbers for 1 folders"):
        Dataset(DataSettings(folders=(folder,), weights=(1.0, 2.0)))
    with pytest.raises(DataError, match="No picture is left to train on"):
        Dataset(DataSettings(folders=(folder,), weights=(0.0,)))


def test_groups_of_two_data_sets_do_not_mix(tmp_path):
    folders = [str(tiny_world.write_sketches(tmp_path / name, count=3)) for name in ("a", "b")]
    dataset = Dataset(DataSettings(folders=tuple(folders), reference="group", self_reference=0))
    pairs = [dataset.sample(1, p) for p in range(60)]
    assert all(Path(s.picture.picture).parent == Path(s.reference.picture).parent for s in pairs)
