"""What happens when a program is stopped, or the disk, a model or the clock fails it.

The table "What happens when" in training/README.md states it; these tests hold the programs to it.
Each program runs once undisturbed, then disturbed, then by the same command again: the result must
be the undisturbed one. Kills at random moments, of several processes and of the review are tested
beside what they belong to (test_training_train.py, test_dataset_build.py, ...).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from animesketchnet_core.files import StorageError
from animesketchnet_core.mini import MINI_FOLDER
from tests import tiny_world
from tests.dataset_netg import write_netg
from tests.faults import Ended, Fault, read_only, run, small_disk
from tests.tiny_adapters import tiny_state
from training.config import from_mapping
from training.dataset.ledger import Ledger
from training.evaluation.config import EvaluateConfig
from training.files import append_line, occupied
from training.settings import from_mapping as settings_from
from training.settings import to_toml

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")

Whole = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A command line that makes something of an empty folder.

    Attributes:
        module: whose `main` it is.
        words: of the command line, for a folder.
        result: {name: content} of what it makes, as far as it must always be the same.
    """

    module: str
    words: Callable[[Path], list[str]]
    result: Callable[[Path], Whole]

    def run(self, folder: Path, *more: str, fault: Fault | None = None) -> Ended:
        """Runs it."""
        return run(self.module, [*self.words(folder), *more], fault)


NAMES = ("train", "evaluate", "dataset", "mini", "convert")
OUTPUT = {"train": "out", "evaluate": "out", "dataset": "out", "mini": "workspace"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the programs read."""
    folder = tmp_path_factory.mktemp("world")
    tiny_world.write_models(folder / "models")
    tiny_world.write_sketches(folder / "sketches")
    tiny_world.write_sketches(folder / "art", count=4, size=96)
    (folder / "art" / "metadata.jsonl").unlink()
    for picture in (folder / "art").glob("*.png"):
        picture.with_suffix(".txt").write_text(f"a drawing of {picture.stem} lines")
    write_netg(folder / "netG.safetensors")
    save_file(tiny_state(), folder / "other.safetensors")
    train = tiny_world.settings(
        folder / "models", folder / "sketches", folder / "unused",
        run={"max_steps": 3, "log_every": 1, "save_every": 1},
        preview={"every": 3, "steps": 1, "reference_count": 1},
        held_out={"every": 3, "share": 0.2, "timesteps": 1},
        optimizer={"ema_decay": 0.9, "learning_rate": 1e-2},
    )  # fmt: skip
    (folder / "train.toml").write_text(to_toml(from_mapping(train)))
    shutil.copy(MINI_FOLDER / "adapter.safetensors", folder / "adapter.safetensors")
    evaluate = {
        "cases": {"limit": 1, "more": 0},
        "draw": {"height": 128, "width": 128, "steps": 1, "guidance": 1.0, "batch": 1},
        "methods": [
            {"name": "Ours", "weights": str(folder / "adapter.safetensors")},
            {"name": "Text only", "kind": "text"},
        ],
        "tables": {"table1": ["sketch_likeness"], "table2": [], "ours": "Ours"},
        "run": {"device": "cpu"},
    }
    (folder / "evaluate.toml").write_text(to_toml(settings_from(EvaluateConfig, evaluate)))
    return folder


@pytest.fixture(scope="module")
def programs(world: Path) -> dict[str, Program]:
    """The programs that write, by name."""
    off = ("size", "aspect", "resolution", "upscale", "blur", "motion", "dark", "bright", "empty",
           "monochrome", "line_art", "live_action", "subtitle", "logo", "credits")  # fmt: skip
    dataset = [
        "build", "--ingest.sources", str(world / "art"), "--caption.writer", "sidecar",
        "--rights.licence", "none", "--rights.holder", "us", "--rights.note", "ours",
        "--export.layouts", "trainer", "--run.threads", "1", "--run.device", "cpu",
        "--filter.text", "false", *(w for name in off for w in (f"--filter.{name}", "off")),
    ]  # fmt: skip

    def mini(folder: Path) -> list[str]:
        if not (folder / "bundle").is_dir():
            shutil.copytree(MINI_FOLDER, folder / "bundle")
        named = {name: str(folder / name) for name in ("workspace", "bundle", "rivals")}
        folders = [word for name, path in named.items() for word in (f"--{name}", path)]
        return ["decoder", *folders, "--steps", "1", "--limit", "2", "--threads", "1"]

    return {
        "train": Program(
            "training.train",
            lambda f: ["--config", str(world / "train.toml"), "--run.output", str(f / "out")],
            lambda f: trained(f / "out"),
        ),
        "evaluate": Program(
            "training.evaluate",
            lambda f: ["--config", str(world / "evaluate.toml"), "--run.output", str(f / "out")],
            lambda f: files(f / "out", "pictures/**/*.png", "table1.*", "pictures.csv"),
        ),
        "dataset": Program(
            "training.dataset.__main__",
            lambda f: [*dataset, "--run.output", str(f / "out")],
            lambda f: files(f / "out", "exports/**/*", "pictures/**/*") | told(f / "out"),
        ),
        "mini": Program(
            "training.mini.__main__", mini,
            lambda f: files(f, "bundle/vae/*", "workspace/pictures/*"),
        ),
        "convert": Program(
            "training.convert",
            lambda f: [str(world / "other.safetensors"), str(f / "a.safetensors"), "--force"],
            lambda f: files(f, "*.safetensors"),
        ),
    }  # fmt: skip


def files(folder: Path, *patterns: str) -> Whole:
    """{path: hash} of files."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def trained(output: Path) -> Whole:
    """The last checkpoint's tensors, hashed, and the losses of the log."""
    found: Whole = files(output, "best.safetensors", "adapter.safetensors", "previews/*.png")
    checkpoints = sorted((output / "checkpoints").glob("*.pt"))
    if checkpoints:
        state = torch.load(checkpoints[-1], weights_only=True)
        found |= {name: hashed(state[name]) for name in ("step", "adapter", "optimizer", "average")}
    return found


def hashed(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: hashed(each) for key, each in value.items()}
    return [hashed(each) for each in value] if isinstance(value, (list, tuple)) else value


def told(folder: Path) -> Whole:
    """All that a ledger says of its pictures."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        return {"told": (ledger.pictures(), ledger.decisions(), ledger.texts("caption_sketch"))}


@pytest.fixture(scope="module")
def whole(
    programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Whole]]:
    """Runs a program undisturbed, once; gives its folder and what it made."""
    known: dict[str, tuple[Path, Whole]] = {}

    def of(name: str) -> tuple[Path, Whole]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            ended = programs[name].run(folder)
            assert ended.code == 0, ended.said
            known[name] = folder, programs[name].result(folder)
            assert known[name][1]
        return known[name]

    return of


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


def assert_told(ended: Ended, *messages: str) -> None:
    """An error of ours: in a line, with the file and what can be done."""
    assert ended.code == 2, ended.said
    assert "Traceback" not in ended.said, ended.said
    (error,) = [line for line in ended.said.splitlines() if "error: " in line]
    assert all(message in error for message in messages), error


def copied(name: str, whole: Callable[[str], tuple[Path, Whole]], tmp_path: Path) -> Path:
    """A copy of the folder in which a program is done."""
    return Path(shutil.copytree(whole(name)[0], tmp_path / "copy"))


@pytest.mark.parametrize("name", NAMES)
def test_stopped_by_each_signal_it_goes_on_to_the_same_result(name, programs, whole, tmp_path):
    program, wanted = programs[name], whole(name)[1]
    places = (0, 2, 1, 3) if name in OUTPUT else (0, 0, 0)
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    for number, at in zip(signals, places, strict=False):
        ended = program.run(tmp_path, fault=Fault(at, number))
        if number is signal.SIGKILL:
            assert ended.code == -signal.SIGKILL, ended.said
            assert leftovers(tmp_path)  # half a file, under no final name
        else:
            assert ended.code == 128 + number, ended.said
            assert "Traceback" not in ended.said
            assert f"{number.name} after step" in ended.said or "interrupted; " in ended.said
        made = set(files(tmp_path, "**/[!.]*").items())
        if name == "dataset":
            assert {item for item in made if "/pictures/" in item[0]} <= {
                (f"out/{path}", content) for path, content in wanted.items() if path != "told"
            }
    assert program.run(tmp_path).code == 0
    assert program.result(tmp_path) == wanted
    assert name not in OUTPUT or not leftovers(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_the_system_refuses_is_named_and_nothing_is_lost(
    name, programs, whole, tmp_path
):
    program, wanted = programs[name], whole(name)[1]
    for at in (None, 2) if name in OUTPUT else (None,):
        assert_told(program.run(tmp_path, fault=Fault(at, full=True)), "cannot be ", "Make room")
        assert not leftovers(tmp_path)
    assert program.run(tmp_path).code == 0
    assert program.result(tmp_path) == wanted


@pytest.mark.parametrize("name", OUTPUT)
def test_a_full_disk_is_told_and_nothing_is_lost(name, programs, whole, tmp_path):
    program, wanted = programs[name], whole(name)[1]
    disk = tmp_path / "disk"
    with small_disk(disk, 128) as leave:
        program.words(disk)  # what it reads is there
        for room in (0, 200_000):
            leave(room)
            ended = program.run(disk)
            if room == 0 or ended.code:
                assert_told(ended, "Make room")
            assert not leftovers(disk)
        (disk / "filler").unlink()
        assert program.run(disk).code == 0
        assert program.result(disk) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_folder_is_told_and_stays_as_it_is(name, programs, whole, tmp_path):
    folder = copied(name, whole, tmp_path)
    before = files(folder, "**/*")
    with read_only(folder):
        assert_told(programs[name].run(folder), "cannot be written", str(folder))
        if name == "train":
            place = ["--config", str(folder / "out" / "config.toml")]
            ended = run("training.doctor", [*place, "--run.output", str(folder / "out" / "next")])
            assert ended.code == 1
            assert "cannot be written" in ended.said
            assert_told(run("training.report", [str(folder / "out")]), "cannot be written")
        if name == "dataset":
            for command in ("review", "explain", "filter"):
                words = [command, "x", *programs[name].words(folder)[1:]]
                assert_told(run(programs[name].module, words), "cannot be ", "writable")
    assert files(folder, "**/*") == before


def test_a_cache_on_a_read_only_disk_serves(programs, whole, tmp_path):
    cache = whole("train")[0] / "out" / "cache"
    with read_only(Path(shutil.copytree(cache, tmp_path / "cache"))):
        words = ("--cache.folder", str(tmp_path / "cache"))
        assert programs["train"].run(tmp_path, *words).code == 0
        assert programs["train"].result(tmp_path) == whole("train")[1]
        # What is not in it cannot be kept.
        ended = programs["train"].run(tmp_path / "2", *words, "--data.fit", "pad")
    assert_told(ended, str(tmp_path / "cache"), "cannot be written", "writable")


@pytest.mark.parametrize("name", OUTPUT)
def test_a_second_process_is_kept_out(name, programs, tmp_path):
    folder = tmp_path / OUTPUT[name]
    with occupied(folder):
        assert_told(programs[name].run(tmp_path), f"Another process is at work in {folder}")
        assert {path.name for path in folder.iterdir()} <= {".lock", "ledger.sqlite"}


@pytest.mark.parametrize("name", NAMES)
def test_a_clock_that_jumps_changes_nothing(name, programs, whole, tmp_path):
    wanted = whole(name)[1]
    assert programs[name].run(tmp_path, fault=Fault(clock=3e8)).code == 0  # ten years
    assert programs[name].result(tmp_path) == wanted


@pytest.mark.parametrize("name", OUTPUT)
def test_times_of_files_say_nothing(name, programs, whole, tmp_path):
    """After a clock went back, the newest file has not the latest time."""
    folder, program = copied(name, whole, tmp_path), programs[name]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(paths):  # later ones get earlier times, back to the year 2001
        os.utime(path, (2e9 - 1e9 * number / len(paths),) * 2)
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert program.run(folder).code == 0
    assert program.result(folder) == whole(name)[1]
    again = [path for path in paths if path.stat().st_mtime_ns != before[path]]
    made = {"pictures", "exports", "scores", "checkpoints", "cache", "workspace"}
    assert not [path for path in again if made & set(path.parts)]


def test_a_picture_that_was_exchanged_is_noticed_whatever_its_time(programs, tmp_path, world):
    art, program = tmp_path / "art", programs["dataset"]
    shutil.copytree(world / "art", art)
    for one in art.glob("*.png"):  # so that all have one size
        one.write_bytes(one.read_bytes().ljust(4000, b"\0"))
    words = ("--ingest.sources", str(art))
    assert program.run(tmp_path, *words).code == 0
    one, other = sorted(art.glob("*.png"))[:2]
    status = one.stat()
    one.write_bytes(other.read_bytes())
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert program.run(tmp_path, *words).code == 0
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        (found,) = [p for p in ledger.pictures() if p.provenance["file"] == one.name]
    assert found.provenance["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("train", "unet/config.json"),
        ("evaluate", "adapter.safetensors"),
        ("mini", "vae/model.safetensors"),
    ],
)
def test_a_lost_model_is_named_and_nothing_is_lost(name, lost, programs, whole, world, tmp_path):
    folder, program = copied(name, whole, tmp_path), programs[name]
    place = {"train": world / "models", "evaluate": world, "mini": folder / "bundle"}[name] / lost
    place.rename(place.with_name("away"))
    before = files(folder, "**/*")
    try:
        assert_told(program.run(folder), lost)
        assert files(folder, "**/*") == before
    finally:
        place.with_name("away").rename(place)
    assert program.run(folder).code == 0
    assert program.result(folder) == whole(name)[1]


def test_sketches_outlive_the_network_that_drew_them(programs, tmp_path, world):
    """The weights lie on a disk that is not there for once."""
    netg, program = tmp_path / "netG.safetensors", programs["dataset"]
    shutil.copy(world / "netG.safetensors", netg)
    words = ("--sketch.method", "anime2sketch", "--sketch.weights", str(netg))
    assert program.run(tmp_path, *words).code == 0
    made = program.result(tmp_path)
    netg.rename(tmp_path / "away")
    ended = program.run(tmp_path, *words)
    assert ended.code == 2, ended.said
    assert f"sketch.weights, and there is no file {netg}" in ended.said
    assert program.result(tmp_path) == made
    (tmp_path / "away").rename(netg)
    ended = program.run(tmp_path, *words)
    assert ended.code == 0
    assert "sketch: nothing" in ended.said
    write_netg(netg, seed=7)  # another one
    assert "sketch: nothing" not in program.run(tmp_path, *words).said


def test_weights_that_were_exchanged_are_told(programs, world, tmp_path):
    models = Path(shutil.copytree(world / "models", tmp_path / "models"))
    words = ("--model.base", str(models), "--run.max_steps")
    assert programs["train"].run(tmp_path, *words, "1").code == 0
    assert "weights of" not in programs["train"].run(tmp_path, *words, "2").said
    with exchanged(models / "image_encoder" / "model.safetensors"):
        said = programs["train"].run(tmp_path, *words, "3").said
    assert "changed since the last checkpoint: weights of model.image_encoder was" in said
    assert "weights of model.base" not in said


@contextmanager
def exchanged(path: Path) -> Iterator[None]:
    """Other weights under the same name."""
    before = path.read_bytes()
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    yield
    path.write_bytes(before)


def test_another_adapter_meets_no_old_picture(programs, whole, world, tmp_path):
    folder, program = copied("evaluate", whole, tmp_path), programs["evaluate"]
    old = files(folder, "out/pictures/**/*.png")
    with exchanged(world / "adapter.safetensors"):
        assert program.run(folder).code == 0
    found = files(folder, "out/pictures/**/*.png")
    assert found.items() > old.items()
    drawn = [path for path in found if "ours" in path]
    assert len(drawn) == 2 * len([path for path in old if "ours" in path])


def test_a_mini_stage_that_is_trained_stays_as_it_is(programs, whole, tmp_path):
    folder, program = copied("mini", whole, tmp_path), programs["mini"]
    path = folder / "bundle" / "vae" / "model.safetensors"
    before = load_file(path)
    with exchanged(path):
        assert program.run(folder).code == 0
        after = load_file(path)
    trained = [name for name in before if name.startswith("decoder.")]
    assert trained
    assert all(torch.equal(before[name], after[name]) for name in trained)


def test_a_run_that_has_begun_needs_its_start_no_more(programs, world, tmp_path):
    start = tmp_path / "start.safetensors"
    shutil.copy(whole_adapter(programs, tmp_path), start)
    words = ("--model.start", str(start), "--run.max_steps")
    assert programs["train"].run(tmp_path / "a", *words, "1").code == 0
    assert programs["train"].run(tmp_path / "b", *words, "2").code == 0
    start.unlink()
    assert programs["train"].run(tmp_path / "a", *words, "2").code == 0
    states = [programs["train"].result(tmp_path / one) for one in "ab"]
    assert states[0] == states[1]
    assert_told(programs["train"].run(tmp_path / "c", *words, "1"), str(start), "Put the file back")


def whole_adapter(programs: dict[str, Program], tmp_path: Path) -> Path:
    assert programs["train"].run(tmp_path, "--run.max_steps", "1").code == 0
    return tmp_path / "out" / "adapter.safetensors"


def test_an_adapter_that_was_asked_to_end_is_not_taken_for_a_finished_one(programs, tmp_path):
    words = programs["mini"].words(tmp_path)  # of the stage that would come next
    before = files(tmp_path, "bundle/**/*")
    stop = tmp_path / "workspace" / "adapter" / "STOP"
    stop.parent.mkdir(parents=True)
    stop.touch()
    ended = run(programs["mini"].module, ["adapter", *words])
    assert ended.code == 130, ended.said
    assert "stop file after step 0" in ended.said
    assert files(tmp_path, "bundle/**/*") == before


def test_a_run_that_was_to_end_then_has_gone_well(programs, tmp_path):
    ended = programs["train"].run(tmp_path, "--run.max_minutes", "1e-9")
    assert ended.code == 0
    assert "max_minutes after step 0" in ended.said


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    log = tmp_path / "log"
    append_line(log, "one")
    log.write_bytes(log.read_bytes() + b"tw")  # as a kill or a full disk leaves it
    append_line(log, "three")
    append_line(log, "four")
    assert log.read_text() == "one\ntw\nthree\nfour\n"
    with pytest.raises(StorageError, match=r"away.log cannot be written .*Make room"):
        append_line(tmp_path / "away" / "log", "one")
