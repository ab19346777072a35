from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny_world
import webdataset
from dataset_pairs import RIGHTS, caption_line, colour_of, pairs, sketch_of
from huggingface_hub import DatasetCard
from PIL import Image

from animesketchnet_core.files import StorageError
from training import train
from training.config import from_mapping
from training.data import Dataset
from training.dataset import export, split, validate
from training.dataset.config import LAYOUTS
from training.dataset.export.folder import files_of, is_whole, read_checksums
from training.dataset.export.webdataset import shards
from training.dataset.images import PictureError
from training.dataset.ledger import Decision, Ledger, Outcome, Text
from training.dataset.split import SPLITS, splits_of
from training.dataset.work import Work
from training.files import sha256_of
from training.settings import ConfigError, tomllib
from training.sources import Pictures, read_source
from training.workers import Workers

EXTRAS = {"README.md", "provenance.jsonl", "checksums.sha256"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def build(work: Work) -> Path:
    split.run(work)
    export.run(work)
    return work.folder / "exports"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All layouts of twelve pairs; {split: ids}."""
    folder = tmp_path_factory.mktemp("set") / "set"
    with pairs(folder, export={"layouts": list(LAYOUTS)}) as work:
        assert set(export.LAYOUTS) == set(LAYOUTS)
        exports = build(work)
        splits = {name: [] for name in SPLITS}
        for item, (name, _) in sorted(splits_of(work.ledger).items()):
            splits[name].append(item)
    return exports, splits


def number_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def assert_target(pixels, name: str) -> None:
    expected = np.minimum(sketch_of(number_of(name)), 250)
    np.testing.assert_array_equal(np.asarray(pixels), expected)


def assert_colour(pixels, name: str) -> None:
    np.testing.assert_array_equal(np.asarray(pixels), colour_of(number_of(name)))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
    return picture


def test_splits_hold_whole_scenes(built):
    _, splits = built
    assert {name: len(ids) for name, ids in splits.items()} == {
        "train": 8, "validation": 2, "test": 2,
    }  # fmt: skip


@pytest.mark.parametrize("by_card", [False, True])
def test_imagefolder_comes_back_through_datasets(built, by_card):
    exports, splits = built
    place = str(exports / "imagefolder")
    loaded = datasets.load_dataset(place) if by_card else datasets.load_dataset(
        "imagefolder", data_dir=place
    )  # fmt: skip
    assert {name: len(part) for name, part in loaded.items()} == {
        name: len(ids) for name, ids in splits.items()
    }
    for name, part in loaded.items():
        assert isinstance(part.features["image"], datasets.Image)
        assert isinstance(part.features["colour"], datasets.Image)
        assert sorted(part["id"]) == splits[name]
        for row in part:
            assert row["text"] == caption_line(number_of(row["id"]))
            assert row["colour_text"] == f"a red girl {number_of(row['id'])}"
            assert row["source"] == "f11ce"
            assert row["image"].mode == "L"
            assert_target(row["image"], row["id"])
            assert_colour(row["colour"], row["id"])


@pytest.mark.parametrize("by_card", [False, True])
def test_controlnet_has_the_columns_of_diffusers(built, by_card):
    exports, splits = built
    place = str(exports / "controlnet")
    loaded = datasets.load_dataset(place) if by_card else datasets.load_dataset(
        "imagefolder", data_dir=place
    )  # fmt: skip
    assert set(loaded["train"].column_names) == {"image", "conditioning_image", "text"}
    names = {caption_line(number_of(name)): name for name in splits["train"]}
    assert len(loaded["train"]) == len(names) == 8
    for row in loaded["train"]:
        assert_target(row["image"], names[row["text"]])
        assert_colour(row["conditioning_image"], names[row["text"]])


def test_lllyasviel_reads_prompt_json_line_by_line(built):
    exports, splits = built
    for name, ids in splits.items():
        folder = exports / "lllyasviel" / name
        with (folder / "prompt.json").open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        assert [Path(line["target"]).stem for line in lines] == ids
        for line, item in zip(lines, ids, strict=True):
            assert line.keys() == {"source", "target", "prompt"}
            assert line["prompt"] == caption_line(number_of(item))
            assert_colour(opened(folder / line["source"]), item)
            assert_target(opened(folder / line["target"]), item)


def test_kohya_pairs_pictures_captions_and_conditioning(built):
    exports, splits = built
    for name, ids in splits.items():
        plain, control = (
            tomllib.loads((exports / "kohya" / f"{name}{kind}.toml").read_text(encoding="utf-8"))
            for kind in ("", "-controlnet")
        )
        (dataset,) = control["datasets"]
        (subset,) = dataset["subsets"]
        assert plain["datasets"][0]["subsets"][0] == {
            "image_dir": subset["image_dir"], "num_repeats": 1,
        }  # fmt: skip
        assert control["general"]["caption_extension"] == ".txt"
        assert control["general"]["keep_tokens"] == 3
        folder, conditioning = Path(subset["image_dir"]), Path(subset["conditioning_data_dir"])
        assert folder.is_absolute()
        assert folder.name == "1_sketch"
        assert {path.name for path in folder.iterdir()} == {
            f"{item}{suffix}" for item in ids for suffix in (".png", ".txt")
        }
        assert {path.stem for path in conditioning.iterdir()} == set(ids)
        for item in ids:
            with (folder / f"{item}.txt").open(encoding="utf-8") as file:
                assert [line.strip() for line in file] == [caption_line(number_of(item))]
            assert_target(opened(folder / f"{item}.png"), item)
            assert_colour(opened(conditioning / f"{item}.png"), item)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the library leaves its files open
def test_webdataset_comes_back_through_its_library(built):
    exports, splits = built
    for name, ids in splits.items():
        paths = sorted(str(path) for path in (exports / "webdataset" / name).glob("*.tar"))
        assert [Path(shard).name for shard in paths] == ["000000.tar"]
        reader = webdataset.WebDataset(paths, shardshuffle=False).decode("pil")
        samples = list(reader)
        assert [sample["__key__"] for sample in samples] == ids
        for sample in samples:
            item = sample["__key__"]
            assert sample["txt"] == caption_line(number_of(item))
            assert sample["json"]["colour_text"] == f"a red girl {number_of(item)}"
            # webdataset's "pil" turns pictures into RGB
            assert_target(sample["png"].convert("L"), item)
            assert_colour(sample["cond.png"], item)


def test_tar_files_are_cut_by_size_and_name_nobody(tmp_path):
    with pairs(tmp_path, export={"layouts": ["webdataset"]}) as work:
        split.run(work)
        export.run(work)
        rows = export.gather(work)
        size = sum(
            (tmp_path / form.path).stat().st_size
            for row in rows if row.split == "train" for form in (row.target, row.conditioning)
        )  # fmt: skip
        train_rows = [row for row in rows if row.split == "train"]
        parts = list(shards(train_rows, size // 3, tmp_path))
        assert [row for part in parts for row in part] == train_rows
        assert 3 <= len(parts) <= 5
        assert len(list(shards(train_rows, 1, tmp_path))) == len(train_rows)
    with tarfile.open(tmp_path / "exports/webdataset/train/000000.tar", "r:") as archive:
        members = archive.getmembers()
    assert [m.name for m in members[:4]] == [
        f"{train_rows[0].id}{suffix}" for suffix in (".png", ".cond.png", ".txt", ".json")
    ]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (
            0,
            0,
            0,
            "",
            "",
        )
        assert member.name.split(".")[0] == member.name[:10]


@pytest.mark.parametrize("layout", ["trainer", "imagefolder", "webdataset"])
def test_the_trainer_reads_it(built, layout):
    exports, splits = built
    folder = exports / layout / "train"
    pictures = Pictures()
    records = read_source(folder, pictures, "file_name")
    assert len(records) == len(splits["train"])
    for record in records:
        item = record.fields["id"]
        text = record.fields["text"]
        assert text in (caption_line(number_of(item)), [caption_line(number_of(item))])
        target = np.array(Image.open(io.BytesIO(pictures.read(record.picture))))
        assert_target(target, item)
    data = {"folders": [str(folder)], "reference": "group", "resolution": 32}
    dataset = Dataset(from_mapping({"data": data}).data)
    assert dataset.alone == 0  # scenes of two pictures, never torn apart


@pytest.mark.parametrize("reference", ["group", "colour_file_name"])
def test_training_runs_on_it(built, tmp_path, reference):
    exports, _ = built
    models = tiny_world.write_models(tmp_path / "models")
    settings = tiny_world.settings(
        models, exports / "trainer" / "train", tmp_path / "run",
        run={"max_steps": 3}, data={"reference": reference},
    )  # fmt: skip
    result = train.train(from_mapping(settings))
    assert (result.step, result.reason) == (3, "finished")
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_has_card_provenance_and_checksums(built, layout):
    exports, splits = built
    place = exports / layout
    assert is_whole(place)
    for name, digest in read_checksums(place).items():
        assert sha256_of(place / name) == digest
    lines = (place / "provenance.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    assert sorted(rows) == sorted(item for ids in splits.values() for item in ids)
    row = rows["f11ce-0005"]
    assert row["source"] == {
        "id": "f11ce", "kind": "film", "file": "film.mkv", "sha256": "ab" * 32,
    }  # fmt: skip
    assert row["provenance"] == {"shot": 2, "pts": 5005, "seconds": 5 / 24}
    assert row["caption"] == caption_line(5)
    assert row["forms"]["sketch"]["details"] == {"network": "net.pth"}
    assert row["forms"]["adjusted"]["details"] == {"gamma": 1.5}
    assert row["forms"]["colour"]["sha256"] == sha256_of(
        exports.parent / "pictures/colour/f11ce-0005.png"
    )
    card = DatasetCard.load(place / "README.md")
    assert card.data.license == "other"
    assert card.data.license_name == RIGHTS["licence"]
    assert card.data.size_categories == ["n<1K"]
    for text in ("Studio Ghost", "Given by the holder.", "ab" * 32, "| train | 8 | 4 | 1 |",
                 "12 different captions", "anime (12), lineart (12)", "girl (4)",
                 "`by = \"shot\"`", "Seed 0."):  # fmt: skip
        assert text in card.text
    for file in files_of(place):
        if not file.endswith((".png", ".tar", ".toml")):
            content = (place / file).read_text(encoding="utf-8")
            assert "/home/me" not in content
            assert str(exports.parent) not in content
    if layout == "manifest":
        assert files_of(place) | {"checksums.sha256"} == EXTRAS


def test_sha256sum_agrees(built):
    exports, _ = built
    command = ["sha256sum", "--check", "--quiet", "checksums.sha256"]
    subprocess.run(command, cwd=exports / "kohya", check=True)


def test_known_licences_get_the_hubs_names(tmp_path):
    rights = {**RIGHTS, "licence": "CC BY-SA 4.0"}
    with pairs(tmp_path, 4, rights=rights, export={"layouts": ["manifest"]}) as work:
        place = build(work) / "manifest"
    assert DatasetCard.load(place / "README.md").data.license == "cc-by-sa-4.0"


def test_the_same_data_set_gives_the_same_bytes(built, tmp_path):
    exports, _ = built
    with pairs(tmp_path / "again", export={"layouts": list(LAYOUTS)}) as work:
        again = build(work)
    for layout in LAYOUTS:
        one, other = read_checksums(exports / layout), read_checksums(again / layout)
        differing = {name for name in one if one[name] != other.get(name)}
        assert one.keys() == other.keys()
        assert all(name.endswith(".toml") for name in differing)  # they name their folder


@pytest.mark.parametrize(
    "missing", [("licence",), ("holder", "note"), ("licence", "holder", "note")]
)
def test_nothing_is_exported_before_the_rights_are_told(tmp_path, missing):
    with pairs(tmp_path, 2, rights=RIGHTS | dict.fromkeys(missing, " ")) as work:
        split.run(work)
        with pytest.raises(ConfigError) as raised:
            export.run(work)
    for name in RIGHTS:
        assert f"rights.{name}: " in str(raised.value)
        named = f"rights.{name}" in str(raised.value).partition("empty")[0]
        assert named == (name in missing)
    assert not (tmp_path / "exports").exists()


def stamps(place: Path) -> dict[str, int]:
    return {name: (place / name).stat().st_ino for name in files_of(place)}


def test_it_is_written_again_only_if_something_has_changed(tmp_path):
    with pairs(tmp_path, 6, export={"layouts": ["trainer", "webdataset"]}) as work:
        exports = build(work)
        before = stamps(exports / "trainer"), stamps(exports / "webdataset")
        build(work)
        assert (stamps(exports / "trainer"), stamps(exports / "webdataset")) == before
        texts = {"reviewed_sketch": Text("lineart, a cat")}
        work.ledger.record("f11ce-0002", "review", "1", Outcome(texts=texts))
        build(work)
        assert "a cat" in "".join(p.read_text() for p in exports.glob("trainer/*/metadata.jsonl"))
        after = stamps(exports / "webdataset")
        assert after != before[1]
        (exports / "webdataset" / "README.md").unlink()
        (exports / "trainer" / "stray.txt").write_text("?")
        build(work)
        assert is_whole(exports / "webdataset")
        assert is_whole(exports / "trainer")


def test_removed_and_dropped_pictures_leave_the_export(tmp_path):
    with pairs(tmp_path, 8) as work:
        exports = build(work)
        assert len(list(exports.rglob("f11ce-*.png"))) == 16
        work.remove([p for p in work.ledger.pictures() if p.id == "f11ce-0003"])
        drop = Decision("person", "drop")
        work.ledger.record("f11ce-0004", "review", "1", Outcome([drop]))
        build(work)
    names = {path.stem for path in exports.rglob("f11ce-*.png")}
    assert names == {f"f11ce-{n:04d}" for n in (0, 1, 2, 5, 6, 7)}
    assert "0003" not in (exports / "trainer" / "provenance.jsonl").read_text()


def test_smaller_pictures_stay_aligned_and_follow_the_setting(tmp_path):
    with pairs(tmp_path, 4, export={"longest_side": 88}) as work:
        build(work)
    for path in tmp_path.glob("exports/trainer/*/*.png"):
        other = opened(path.parent / "colour" / path.name)
        assert opened(path).size == other.size == (88, 72)
        whole = Image.fromarray(colour_of(number_of(path.stem)))
        expected = whole.resize((88, 72), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(np.array(other), np.array(expected))
    with pairs(tmp_path, 4) as work:  # back again: the small ones are cleared away
        build(work)
        assert not list(tmp_path.glob("pictures/target/*"))
    for path in tmp_path.glob("exports/trainer/*/*.png"):
        assert_target(opened(path), path.stem)


@pytest.mark.parametrize("invert", [True, False])
def test_colour_as_the_target_is_conditioned_on_white_lines(tmp_path, invert):
    settings = {"target": "colour", "invert_conditioning": invert, "layouts": ["controlnet"]}
    with pairs(tmp_path, 4, export=settings) as work:
        build(work)
    folder = tmp_path / "exports" / "controlnet"
    for path in folder.glob("*/conditioning_image/*.png"):
        lines = np.minimum(sketch_of(number_of(path.stem)), 250)
        expected = 255 - lines if invert else lines
        np.testing.assert_array_equal(np.array(opened(path)), expected)
        assert_colour(opened(path.parents[1] / path.name), path.stem)
    assert "a red girl 3" in "".join(p.read_text() for p in folder.glob("*/metadata.jsonl"))


def test_links_share_the_files_and_copies_do_not(tmp_path):
    for files, shared in (("link", True), ("copy", False)):
        with pairs(tmp_path, 4, export={"files": files}) as work:
            build(work)
        for path in tmp_path.glob("exports/trainer/*/*.png"):
            own = tmp_path / "pictures" / "adjusted" / path.name
            assert path.samefile(own) == shared


def test_links_across_file_systems_are_refused(tmp_path, monkeypatch):
    def other(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other)
    with (
        pairs(tmp_path, 4, export={"files": "link"}) as work,
        pytest.raises(StorageError, match=r'cross-device.*Set export.files = "copy"'),
    ):
        build(work)
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_picture_that_is_gone_is_told_and_left_out(tmp_path):
    with pairs(tmp_path, 4) as work:
        build(work)
        (tmp_path / "pictures" / "colour" / "f11ce-0001.png").unlink()
        assert export.run(work) == {"keep": 3, "failed": 1}
        (reason,) = [d.reason for _, s, d in work.ledger.decisions("f11ce-0001") if s == "export"]
        assert "There is no picture" in reason
    assert len(list(tmp_path.glob("exports/trainer/*/*.png"))) == 3


@pytest.mark.parametrize("files", ["copy", "link"])
def test_a_picture_that_was_exchanged_stops_the_export(tmp_path, files):
    with pairs(tmp_path, 4, export={"files": files}) as work:
        exports = build(work)
        before = stamps(exports / "trainer")
        path = tmp_path / "pictures" / "colour" / "f11ce-0001.png"
        path.unlink()
        Image.new("RGB", (9, 9)).save(path)
        work.ledger.record("f11ce-0002", "review", "1", Outcome([Decision("person", "drop")]))
        with pytest.raises(PictureError, match=r"f11ce-0001.png is another file"):
            build(work)
    assert stamps(exports / "trainer") == before
    assert [path.name for path in exports.iterdir()] == ["trainer"]


def test_a_pair_that_cannot_be_prepared_is_told_and_left_out(tmp_path):
    with pairs(tmp_path, 4) as work:
        picture = work.ledger.pictures()[1]
        form = work.write(picture, "adjusted", np.zeros((7, 5), np.uint8))
        work.ledger.record(picture.id, "adjust", "2", Outcome(forms={"adjusted": form}))
        split.run(work)
        assert export.run(work) == {"keep": 3, "failed": 1}
        (reason,) = [d.reason for _, s, d in work.ledger.decisions(picture.id) if s == "export"]
        assert "the adjusted has 5 x 7 pixels and the colour picture 176 x 144" in reason
    assert len(list(tmp_path.glob("exports/trainer/*/*.png"))) == 3


def test_a_kill_between_the_two_moves_is_mended(tmp_path):
    with pairs(tmp_path, 4) as work:
        exports = build(work)
        before = stamps(exports / "trainer")
        (exports / "trainer").rename(exports / ".trainer.old")
        (exports / ".trainer.new").mkdir()
        build(work)
    assert stamps(exports / "trainer") == before
    assert [path.name for path in exports.iterdir()] == ["trainer"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs root on Linux, for a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_export_whole(tmp_path, small_disk):
    with pairs(tmp_path / "set", 6) as work:
        exports = tmp_path / "set" / "exports"
        exports.symlink_to(small_disk)
        split.run(work)
        work.ledger.record("f11ce-0002", "review", "1", Outcome([Decision("person", "drop")]))
        work.ledger.record("f11ce-0003", "review", "1", Outcome([Decision("person", "drop")]))
        export.run(work)
        before = {name: (exports / "trainer" / name).read_bytes()
                  for name in read_checksums(exports / "trainer")}  # fmt: skip
        filler = small_disk / "filler"
        free = os.statvfs(small_disk)
        filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 150_000)))
        work.ledger.forget("f11ce-0002", "review")
        with pytest.raises(StorageError, match=r"No space left .*Make room .*unchanged"):
            export.run(work)
        assert not list(exports.glob(".trainer*"))
        assert {name: (exports / "trainer" / name).read_bytes() for name in before} == before
        assert is_whole(exports / "trainer")
        filler.unlink()
        export.run(work)
        assert len(list(exports.glob("trainer/*/*.png"))) == 5


def test_no_pictures_make_an_empty_export(tmp_path):
    with pairs(tmp_path, 0, export={"layouts": list(LAYOUTS)}) as work:
        exports = build(work)
    for layout in LAYOUTS:
        assert files_of(exports / layout) | {"checksums.sha256"} == EXTRAS


def test_enlarged_sketches_take_their_colour_pictures_along(tmp_path):
    with pairs(tmp_path, 4, sketch={"keep_large": True}) as work:
        for picture in work.ledger.pictures():
            large = Image.fromarray(sketch_of(picture.place)).resize((529, 433))
            form = work.write(picture, "adjusted", np.array(large))
            work.ledger.record(picture.id, "adjust", "2", Outcome(forms={"adjusted": form}))
        build(work)
    for path in tmp_path.glob("exports/trainer/*/*.png"):
        assert opened(path).size == opened(path.parent / "colour" / path.name).size == (529, 433)


class Rank(Workers):
    """One of several processes, as a thread."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: dict[int, Any]) -> None:
        super().__init__("cpu")
        self.rank, self.count = rank, barrier.parties
        self._barrier = barrier
        self._board = board

    def wait(self) -> None:
        self._barrier.wait(60)

    def gather(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self.wait()
        values = [self._board[rank] for rank in range(self.count)]
        self.wait()
        return values


@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_processes_changes_nothing(built, tmp_path, count):
    exports, _ = built
    with pairs(tmp_path / "set", export={"layouts": list(LAYOUTS)}) as work:
        split.run(work)

    barrier, board = threading.Barrier(count), {}

    def part(rank: int):
        with Ledger(work.ledger.path) as ledger:
            mine = replace(work, ledger=ledger, workers=Rank(rank, barrier, board))
            return export.run(mine), validate.run(mine)

    with ThreadPoolExecutor(count) as pool:
        told = list(pool.map(part, range(count)))
    assert sum(exported["keep"] for exported, _ in told) == 12
    # Four of the captions hold characters that cannot be seen.
    assert sum((validated for _, validated in told), Counter()) == {"keep": 8, "fault": 4}
    for layout in LAYOUTS:
        one, other = (
            read_checksums(place / layout) for place in (exports, tmp_path / "set/exports")
        )
        assert {name: digest for name, digest in one.items() if not name.endswith(".toml")} == {
            name: digest for name, digest in other.items() if not name.endswith(".toml")
        }
