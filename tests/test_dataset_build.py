"""The whole pipeline on the demo film, without a network: films in, a data set that trains out."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.dataset_demo import demo_folder  # noqa: F401
from training import train as trainer
from training.dataset.__main__ import main
from training.dataset.demo import shown, truth, unmet
from training.dataset.ledger import Ledger

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "training" / "configs" / "dataset-demo.toml"
SETTLING = 4  # frames after a fade that still change
MINI = ROOT / "training" / "configs" / "mini.toml"
STAGES = (
    "ingest", "frames", "filter", "dedup", "sketch", "adjust", "caption", "review", "split",
    "export",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(demo_folder, tmp_path_factory):  # noqa: F811
    """The demo's data set, built by the documented command; the films were drawn before."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(demo_folder, folder / "demo")
    assert main(["build", "--config", str(CONFIG), "--run.output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def movie(built):
    """The demo's shortest film."""
    return built / "demo" / "movie.mkv"


def frames_of(folder, stages):
    """(film, frame, picture) of each picture that these stages kept; frames as the truth counts."""
    told = truth(folder / "demo")
    with Ledger(folder / "ledger.sqlite") as ledger:
        film = {source.id: Path(source.path).stem for source in ledger.sources()}
        for picture in ledger.kept(stages):
            name = film[picture.source]
            yield name, told["films"][name]["pts"].index(picture.provenance["pts"]), picture


def test_each_planted_fault_and_likeness_is_dealt_with_and_nothing_else_is_lost(built):
    survivors = [(film, frame) for film, frame, _ in frames_of(built, STAGES)]
    assert unmet(truth(built / "demo"), survivors) == []


def test_cuts_are_found_exactly(built):
    told = truth(built / "demo")
    with Ledger(built / "ledger.sqlite") as ledger:
        for source in ledger.sources():
            film = told["films"][Path(source.path).stem]
            begins = [
                decision.details["first"][0]
                for item, stage, decision in ledger.decisions()
                if stage == "frames" and item.startswith(f"{source.id}/shot-")
            ]
            # A shot that comes out of a fade or a dissolve begins with no cut.
            faded = {begin for begin in begins for fade in film["transitions"]
                     if fade["first"] <= begin <= fade["last"] + SETTLING}  # fmt: skip
            found = sorted(set(begins) - (faded | {0}) | set(begins) & set(film["cuts"]))
            exact = len(set(found) & set(film["cuts"]))
            false = len(found) - exact
            print(f"{film['file']}: {exact} of {len(film['cuts'])} cuts, {false} false")  # noqa: T201
            assert found == film["cuts"]


def test_duplicates_are_told_by_their_kind(built):
    told = truth(built / "demo")
    where = {picture.id: shown(told, film, frame)
             for film, frame, picture in frames_of(built, ())}  # fmt: skip
    with Ledger(built / "ledger.sqlite") as ledger:
        pairs = [
            (decision.details["kind"], where[item], where[decision.details["of"]])
            for item, stage, decision in ledger.decisions()
            if stage == "dedup" and decision.details.get("of") not in (None, item)
        ]
    kinds = defaultdict(int)
    for kind, one, other in pairs:
        kinds[kind] += 1
        if kind in ("exact", "held", "across"):
            assert one["drawing"] == other["drawing"]
        if kind == "expression":
            assert one["drawing"] != other["drawing"]
    print(f"duplicates found: {dict(kinds)}")  # noqa: T201
    assert kinds["across"] >= 5
    assert kinds["expression"] >= 2


def test_the_second_build_does_nothing_and_changes_nothing(built, capsys):
    before = tree(built / "exports")
    started = time.monotonic()
    assert main(["build", "--config", str(CONFIG), "--run.output", str(built)]) == 0
    assert tree(built / "exports") == before
    assert "sketch: nothing" in capsys.readouterr().out
    assert time.monotonic() - started < 60


def test_the_export_trains_the_mini_adapter(built, tmp_path):
    arguments = ["--config", str(MINI), "--data.folders", str(built / "exports/trainer/train")]
    arguments += ["--run.output", str(tmp_path), "--run.max_steps", "3", "--run.batch_size", "4"]
    arguments += ["--preview.every", "0", "--data.fit", "pad", "--run.device", "cpu"]
    assert trainer.main(arguments) == 0
    assert (tmp_path / "adapter.safetensors").is_file()


def test_explain_tells_why(built, capsys):
    _, _, kept = next(frames_of(built, STAGES))
    gone = {p.id for _, _, p in frames_of(built, ())} - {
        p.id for _, _, p in frames_of(built, STAGES)
    }
    for picture in (kept.id, min(gone)):
        arguments = ["explain", picture, "--config", str(CONFIG), "--run.output", str(built)]
        assert main(arguments) == 0
        told = capsys.readouterr().out
        assert picture in told
        assert "filter" in told


def test_a_changed_threshold_runs_again_what_follows_from_it(built, tmp_path, capsys):
    arguments = ["--config", str(CONFIG), "--run.output", str(built)]
    assert main(["filter", *arguments]) == 0
    out = capsys.readouterr().out
    assert "measure: nothing" in out


def build_movie(movie, folder, launcher=()):
    """The command that builds a data set of one film, in processes of its own."""
    return [
        sys.executable, *(launcher or ("-m",)), "training.dataset", "build", "--config",
        str(CONFIG), "--run.output", str(folder), "--ingest.sources", str(movie),
        "--export.layouts", "trainer,manifest", "--run.threads", "1", "--caption.texts", "[]",
    ]  # fmt: skip


def run_quietly(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def alone(movie, tmp_path_factory):
    """The data set of one film, built by one process without a stop."""
    folder = tmp_path_factory.mktemp("alone")
    run_quietly(build_movie(movie, folder))
    return folder


def test_two_processes_make_the_same_data_set(alone, movie, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    run_quietly(build_movie(movie, tmp_path, launcher))
    assert tree(tmp_path / "exports") == tree(alone / "exports")
    assert told_by(tmp_path) == told_by(alone)


def test_kill_9_at_any_moment_loses_nothing(alone, movie, tmp_path):
    chance = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            build_movie(movie, tmp_path), cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(4, 16))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_quietly(build_movie(movie, tmp_path))
    assert tree(tmp_path / "exports") == tree(alone / "exports")
    assert told_by(tmp_path) == told_by(alone)
    assert not list(tmp_path.rglob(".*.part"))


def told_by(folder):
    """All that a ledger says of its pictures."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        return ledger.pictures(), ledger.decisions(), ledger.texts("caption_sketch")


def tree(folder):
    """{path: hash} of a folder's files."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
