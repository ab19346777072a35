from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.weight_file import read_adapter
from tests import tiny_world
from training import batch
from training import train as t
from training.config import OptimizerSettings, from_mapping
from training.data import Dataset
from training.held_out import CONDITIONS
from training.memory import largest_fit
from training.models import ModelError, fingerprint, load_base, load_image_encoder
from training.progress import DivergedError, Progress
from training.schedule import learning_rate
from training.settings import to_toml
from training.unet import AdaptedUNet

ROOT = Path(__file__).parents[1]
FULL = {  # everything that has a state of its own
    "optimizer": {"ema_decay": 0.9, "clip_norm": 1.0, "schedule": "cosine", "warmup_steps": 2},
    "objective": {"alpha": [0.5, 1.0], "min_snr_gamma": 5.0, "drop_image": 0.2, "drop_text": 0.2},
    "data": {"reference": "group"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_world.write_models(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_world.write_sketches(tmp_path_factory.mktemp("data") / "sketches")


@pytest.fixture
def configure(models, folder, tmp_path):
    def make(name: str = "out", **sections):
        return from_mapping(tiny_world.settings(models, folder, tmp_path / name, **sections))

    return make


def checkpoint(output: str | Path) -> dict:
    paths = sorted(Path(output, "checkpoints").glob("*.pt"))
    return torch.load(paths[-1], weights_only=True)


def assert_same(one, other, where: str = "") -> None:
    """Compares two checkpoints bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


def assert_same_run(one: str | Path, other: str | Path) -> None:
    first, second = checkpoint(one), checkpoint(other)
    del first["config"], second["config"]  # they name their output folders
    assert_same(first, second)
    bytes_of = [read_adapter(Path(output) / "adapter.safetensors")[0] for output in (one, other)]
    assert_same(*bytes_of)


def test_stopping_and_resuming_changes_no_bit(configure):
    whole = configure("whole", run={"max_steps": 7}, **FULL)
    t.train(whole)
    for stop in (2, 5):  # the cosine must still end at 7, so it stops by signal, not by max_steps
        with stopping_after(stop):
            result = t.train(configure("parts", run={"max_steps": 7}, **FULL))
        assert (result.step, result.reason) == (stop, "SIGTERM")
    result = t.train(configure("parts", run={"max_steps": 7}, **FULL))
    assert (result.step, result.reason) == (7, "finished")
    assert_same_run(whole.run.output, configure("parts").run.output)


class stopping_after:  # in lower case: it reads as a phrase
    """Sends this process SIGTERM when a step is done, as a scheduler does."""

    def __init__(self, step: int) -> None:
        self.patch = pytest.MonkeyPatch()
        original = Progress.update

        def update(progress, done, *rest):
            original(progress, done, *rest)
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        self.patch.setattr(Progress, "update", update)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.patch.undo()


def test_signal_handlers_are_given_back(configure):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    t.train(configure(run={"max_steps": 1}))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_bf16_resumes_bit_for_bit_too(configure):
    run = {"max_steps": 4, "precision": "bf16"}
    t.train(configure("whole", run=run))
    with stopping_after(1):
        t.train(configure("parts", run=run))
    t.train(configure("parts", run=run))
    assert_same_run(configure("whole").run.output, configure("parts").run.output)


def test_a_kill_while_a_checkpoint_is_written_loses_nothing_before_it(configure, tmp_path):
    config = configure(run={"max_steps": 6, "save_every": 2, "keep_last": 1})
    (tmp_path / "config.toml").write_text(to_toml(config))
    killer = f"""
import os, signal, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from training import train
original, calls = torch.save, []
def save(state, path):
    calls.append(1)
    original(state, path)
    if len(calls) == 2:  # half of the second checkpoint is on disk
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
train.main(["--config", {str(tmp_path / "config.toml")!r}])
"""
    process = subprocess.run([sys.executable, "-c", killer], capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    folder = Path(config.run.output) / "checkpoints"
    assert [path.name for path in folder.glob("step-*")] == ["step-000000002.pt"]
    assert checkpoint(config.run.output)["step"] == 2
    assert len(list(folder.glob(".*.part"))) == 1
    assert t.train(config).step == 6
    assert not list(folder.glob(".*.part"))
    t.train(configure("whole", run={"max_steps": 6}))
    assert_same_run(config.run.output, configure("whole").run.output)


def test_kills_at_20_random_moments_change_no_bit(configure):
    run = {"max_steps": 120, "save_every": 2, "log_every": 5, "keep_last": 2}
    config = configure("killed", run=run, held_out={"every": 15, "share": 0.2}, **FULL)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["training.train"])
    generator = random.Random(3)
    ended = []
    for _ in range(20):
        process = processes.Process(target=t.train, args=(config,))
        process.start()
        process.join(generator.uniform(0.2, 2.5))
        process.kill()
        process.join()
        ended.append(process.exitcode)
    assert ended.count(-signal.SIGKILL) > 5, ended  # the rest had finished before
    assert t.train(config).step == 120
    t.train(configure("whole", run=run, held_out={"every": 15, "share": 0.2}, **FULL))
    assert_same_run(config.run.output, configure("whole").run.output)
    steps = [line["step"] for line in log_of(config) if "loss" in line]
    assert steps == list(range(5, 121, 5))
    assert not list(Path(config.run.output).rglob("*.part"))


def test_the_last_checkpoints_are_kept(configure):
    config = configure(run={"max_steps": 5, "save_every": 1, "keep_last": 2})
    t.train(config)
    names = [path.name for path in Path(config.run.output, "checkpoints").iterdir()]
    assert sorted(names) == ["step-000000004.pt", "step-000000005.pt"]


def test_a_damaged_checkpoint_is_an_error_that_names_the_fix(configure):
    config = configure(run={"max_steps": 1})
    t.train(config)
    (path,) = Path(config.run.output, "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(t.CheckpointError, match=r"step-000000001\.pt cannot be read.*Remove it"):
        t.train(config)


def test_other_sizes_do_not_resume(configure):
    t.train(configure(run={"max_steps": 1}))
    wider = tiny_world.SETTINGS["resampler"] | {"dim": 24}
    with pytest.raises(t.CheckpointError, match="a run with another adapter"):
        t.train(configure(run={"max_steps": 2}, resampler=wider))


def test_settings_that_changed_are_named_on_resume(configure, capsys):
    t.train(configure(run={"max_steps": 1}))
    t.train(configure(run={"max_steps": 2}, optimizer={"learning_rate": 2e-4}))
    printed = capsys.readouterr().out
    assert "optimizer.learning_rate was 0.0001, is 0.0002" in printed
    assert "run.max_steps was 1, is 2" in printed
    assert "batch_size" not in printed


def test_max_minutes_ends_cleanly(configure):
    config = configure(run={"max_steps": 1000, "max_minutes": 1e-9})
    result = t.train(config)
    assert (result.step, result.reason) == (0, "max_minutes")
    assert checkpoint(config.run.output)["step"] == 0
    assert result.adapter.is_file()


def test_training_moves_the_adapter_and_nothing_else(configure, models, monkeypatch):
    loaded = []
    monkeypatch.setattr(t, "load_base", lambda *a: loaded.append(load_base(*a)) or loaded[-1])
    config = configure(run={"max_steps": 2})
    t.train(config)
    assert fingerprint(loaded[0].unet) == fingerprint(load_base(models).unet)
    base, encoder = load_base(models), load_image_encoder("", models)
    start = t.new_adapter(config, base, encoder).state_dict()
    trained = checkpoint(config.run.output)["adapter"]
    assert all(not torch.equal(start[name], trained[name]) for name in start)


def test_it_learns_a_single_pair_by_heart(configure, tmp_path, models):
    folder = tiny_world.write_sketches(tmp_path / "one", count=1)
    config = configure(
        run={"max_steps": 60, "log_every": 10, "batch_size": 8},
        data={"folders": [str(folder)]},
        optimizer={"learning_rate": 1e-2},
    )
    t.train(config)
    lines = Path(config.run.output, "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 6
    assert losses[-1] < 0.98 * losses[0]


def test_the_inference_file_gives_the_trained_prediction(configure, models):
    config = configure(run={"max_steps": 3}, optimizer={"ema_decay": 0.5, "learning_rate": 1e-2})
    result = t.train(config)
    state_dict, metadata = read_adapter(result.adapter)
    assert metadata is not None
    assert metadata.num_tokens == 3
    assert metadata.training["steps"] == 3
    assert metadata.training["pictures_seen"] == 9
    assert metadata.training["optimizer.learning_rate"] == 1e-2
    assert not any(str(models.parent) in str(value) for value in metadata.training.values())
    read = AnimeSketchAdapter.from_state_dict(state_dict, dtype=torch.float32)
    state = checkpoint(config.run.output)
    shipped = AnimeSketchAdapter.from_state_dict(state["average"])
    raw = AnimeSketchAdapter.from_state_dict(state["adapter"])
    assert (predict(models, read) - predict(models, shipped)).abs().max() < 2e-3  # fp16 weights
    assert (predict(models, raw) - predict(models, shipped)).abs().max() > 2e-3


@torch.no_grad()
def predict(models: Path, adapter: AnimeSketchAdapter) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 77, tiny_world.TEXT_WIDTH, generator=generator)
    features = torch.randn(2, 5, tiny_world.IMAGE_WIDTH, generator=generator)
    model = AdaptedUNet(load_base(models).unet, adapter)
    return model(latents, torch.tensor([10, 700]), text, features, 1.0)


def test_a_run_can_start_from_an_inference_file(configure, models):
    first = t.train(configure("first", run={"max_steps": 2}))
    config = configure("second", model={"base": str(models), "start": str(first.adapter)})
    adapter = t.new_adapter(config, load_base(models), load_image_encoder("", models))
    state_dict, _ = read_adapter(first.adapter)
    assert_same({k: v.half() for k, v in adapter.state_dict().items()}, state_dict)


def test_fp16_needs_a_gpu(configure):
    with pytest.raises(t.ConfigError, match=r'needs a GPU.*"bf16"'):
        t.train(configure(run={"precision": "fp16"}))


def test_wrong_sizes_are_errors_that_name_the_setting(configure, models):
    sizes = tiny_world.SETTINGS["resampler"]
    with pytest.raises(ModelError, match=r"resampler\.embedding_dim is 1280.*width 20\. Set it"):
        t.train(configure(resampler=sizes | {"embedding_dim": 1280}))
    with pytest.raises(ModelError, match=r"resampler\.output_dim is 768.*width 24"):
        t.train(configure(resampler=sizes | {"output_dim": 768}))


def test_previews_show_each_prompt_reference_and_alpha(configure):
    preview = {
        "every": 2, "prompts": ["a", "b"], "reference_count": 3, "alphas": [0.0, 1.0], "steps": 2
    }  # fmt: skip
    config = configure(run={"max_steps": 4}, preview=preview)
    t.train(config)
    paths = sorted(Path(config.run.output, "previews").iterdir())
    assert [path.name for path in paths] == ["step-000000002.png", "step-000000004.png"]
    with Image.open(paths[0]) as sheet:
        size = tiny_world.RESOLUTION
        assert sheet.size == (3 * size, 14 + 2 * (14 + 3 * size))


def test_previews_change_no_bit_of_the_training(configure):
    t.train(configure("without", run={"max_steps": 3}))
    t.train(configure("with", run={"max_steps": 3}, preview={"every": 1, "steps": 2}))
    assert_same_run(configure("without").run.output, configure("with").run.output)


def test_previews_show_the_average_and_the_raw_weights_beside(configure):
    preview = {"every": 1, "prompts": ["a"], "reference_count": 2, "alphas": [0, 1.0], "steps": 2}
    config = configure(run={"max_steps": 1}, preview=preview, optimizer={"ema_decay": 0.9})
    t.train(config)
    (path,) = Path(config.run.output, "previews").iterdir()
    with Image.open(path) as sheet:
        size = tiny_world.RESOLUTION
        assert sheet.size == (4 * size, 14 + 14 + 2 * size)  # reference, alpha 0, alpha 1, raw 1
        shipped, raw = (
            sheet.crop((left, 28, left + size, 28 + size)) for left in (2 * size, 3 * size)
        )
        assert shipped.tobytes() != raw.tobytes()


def test_samples_are_taught_by_what_the_base_makes_of_a_fuller_text(configure, tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "taught", count=6)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"text": "a sketch", "same": "a sketch", "full": f"a {line['text'][0]}, dark"}
    tiny_world.write_metadata(folder, lines)

    def losses(column: str, **objective) -> list[float]:
        config = configure(
            f"{column}{objective}",
            run={"max_steps": 40, "log_every": 20},
            data={"folders": [str(folder)], "teacher_column": column},
            objective={"drop_image": 0.0, "drop_text": 0.0, "drop_both": 0.0, **objective},
            optimizer={"learning_rate": 1e-2},
        )
        t.train(config)
        return [line["loss"] for line in log_of(config)]

    for column in ("same", "full"):  # with the same words the sketch should change nothing
        first, last = losses(column, taught=1.0)
        assert 0 < last < first
    assert first < losses("full", taught=0.5)[0] < losses("full", taught=0.0)[0]
    # A sample that lost a condition learns from the noise.
    lost = {"drop_text": 0.5, "drop_both": 0.5}
    assert losses("full", taught=1.0, **lost) == losses("same", taught=0.0, **lost)


def test_a_missing_teacher_column_is_named(configure):
    with pytest.raises(t.DataError, match=r"has no 'full'.*data\.teacher_column names"):
        t.train(configure(data={"teacher_column": "full"}))
    with pytest.raises(t.ConfigError, match=r"taught is 0\.5, but data\.teacher_column is not set"):
        configure(objective={"taught": 0.5})


def test_a_picture_that_breaks_in_the_middle_of_a_run_loses_nothing(configure, tmp_path):
    folder = tiny_world.write_sketches(tmp_path / "d", count=12)
    sections = {**FULL, "data": {"folders": [str(folder)]}, "cache": {"keep": "nothing"}}
    run = {"max_steps": 6, "save_every": 100}
    config = configure("broken", run=run, **sections)
    picture = folder / "05.png"
    whole = picture.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        original = Progress.update

        def update(progress, done, *rest):
            original(progress, done, *rest)
            if done == 2:
                picture.write_bytes(whole[:50])

        patch.setattr(Progress, "update", update)
        with pytest.raises(t.DataError, match=r"05\.png cannot be read.*Replace the file"):
            t.train(config)
    assert checkpoint(config.run.output)["step"] >= 2
    picture.write_bytes(whole)
    t.train(config)
    t.train(configure("whole", run=run, **sections))
    assert_same_run(config.run.output, configure("whole").run.output)


def test_one_batch_is_shown_again_and_again(configure, monkeypatch):
    shown = []
    original = Dataset.sample
    monkeypatch.setattr(
        Dataset,
        "sample",
        lambda *a: shown.append(a[2]) or original(*a),  # its position
    )
    run = {"max_steps": 40, "log_every": 20, "overfit": True}
    config = configure(run=run, optimizer={"learning_rate": 1e-2})
    t.train(config)
    assert shown == [0, 1, 2] * 40
    first, last = (line["loss"] for line in log_of(config))
    assert last < first


def test_two_trainers_do_not_share_a_folder(configure, tmp_path):
    config = configure(run={"max_steps": 10**6})
    (tmp_path / "config.toml").write_text(to_toml(config))
    command = [sys.executable, "-m", "training.train", "--config", str(tmp_path / "config.toml")]
    log = Path(config.run.output, "log.jsonl")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as first:
        try:
            while not log.is_file():
                assert first.poll() is None
                time.sleep(0.1)
            with pytest.raises(t.StorageError, match=r"Another process is at work in .*choose an"):
                t.train(config)
        finally:
            first.kill()
    assert t.train(configure(run={"max_steps": 1})).step >= 1  # its lock has died with it


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(configure, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(t.StorageError, match=r"The folder .*out cannot be written .*choose"):
        t.train(configure())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # torch's compiler warns of itself
@pytest.mark.slow
def test_a_compiled_unet_trains_the_same(configure):
    plain, compiled = (
        configure(str(on), run={"max_steps": 3, "compile": on}, **FULL) for on in (False, True)
    )
    t.train(plain)
    t.train(compiled)
    one, other = checkpoint(plain.run.output), checkpoint(compiled.run.output)
    for name, value in one["adapter"].items():
        assert torch.allclose(value, other["adapter"][name], atol=1e-5), name


def test_the_largest_part_that_fits_is_found():
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("out of memory")

    assert largest_fit(attempt, 16) == 2
    assert tried == [16, 8, 4, 2]
    assert largest_fit(attempt, 3) == 3
    with pytest.raises(t.ConfigError, match=r"does not hold one sample.*run\.checkpointing"):
        largest_fit(lambda size: attempt(size + 3), 8)


def test_the_log_holds_each_step_once_after_a_resume(configure):
    with stopping_after(3):
        t.train(configure(run={"max_steps": 6, "log_every": 1}))
    config = configure(run={"max_steps": 6, "log_every": 1})
    log = Path(config.run.output, "log.jsonl")
    log.write_text(log.read_text() + '{"step": 4, "loss": 9}\n')  # killed before the next save
    t.train(config)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert '"loss": 9}' not in log.read_text()


def log_of(config) -> list[dict]:
    lines = Path(config.run.output, "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def spoil(losses: dict[int, float], patch: pytest.MonkeyPatch) -> None:
    """Multiplies the losses of some calls, counted from 1."""
    original, calls = batch.noise_loss, []

    def noise_loss(*arguments):
        calls.append(1)
        return original(*arguments) * losses.get(len(calls), 1.0)

    patch.setattr(batch, "noise_loss", noise_loss)


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(configure):
    config = configure(run={"max_steps": 2, "log_every": 1})
    t.train(config)
    wild = configure(run={"max_steps": 9, "log_every": 1, "most_skipped": 2})
    with pytest.MonkeyPatch.context() as patch:
        spoil(dict.fromkeys(range(1, 9), float("nan")), patch)
        with pytest.raises(DivergedError, match=r"3 steps by step 5 .*not finite.*learning_rate"):
            t.train(wild)
    assert checkpoint(config.run.output)["step"] == 2


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(configure):
    config = configure(run={"max_steps": 1, "log_every": 1}, optimizer={"ema_decay": 0.5})
    t.train(config)
    before = checkpoint(config.run.output)
    config = configure(run={"max_steps": 2, "log_every": 1}, optimizer={"ema_decay": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        spoil({1: float("inf")}, patch)
        t.train(config)
    after = checkpoint(config.run.output)
    assert_same(before["adapter"], after["adapter"])
    assert_same(before["optimizer"]["state"], after["optimizer"]["state"])
    lines = log_of(config)
    assert [line["skipped"] for line in lines] == [0, 1]
    assert lines[1]["loss"] is None
    t.train(configure(run={"max_steps": 3}, optimizer={"ema_decay": 0.5}))
    moved = checkpoint(config.run.output)["adapter"]
    assert any(not torch.equal(moved[name], value) for name, value in after["adapter"].items())


def test_parts_of_a_batch_add_up_to_it(configure):
    whole = configure("whole", run={"max_steps": 2, "batch_size": 6}, **FULL)
    parts = configure("parts", run={"max_steps": 2, "batch_size": 6, "micro_batch": 4}, **FULL)
    t.train(whole)
    t.train(parts)
    one, other = checkpoint(whole.run.output)["adapter"], checkpoint(parts.run.output)["adapter"]
    assert all(torch.allclose(one[name], other[name], atol=2e-6) for name in one)


def test_a_stop_file_ends_the_run_cleanly(configure):
    config = configure(run={"max_steps": 9})
    stop = Path(config.run.output, "STOP")
    with pytest.MonkeyPatch.context() as patch:
        original = Progress.update

        def update(progress, done, *rest):
            original(progress, done, *rest)
            if done == 2:
                stop.touch()

        patch.setattr(Progress, "update", update)
        result = t.train(config)
    assert (result.step, result.reason) == (2, "stop file")
    assert t.train(configure(run={"max_steps": 3})).step == 3  # the file does not stop it again
    stop.touch()  # while the caches are being built, say
    assert t.train(configure(run={"max_steps": 9})).reason == "stop file"


def test_a_disk_without_room_is_met_before_training(configure, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(t.CheckpointError, match=r"MB free; the checkpoints need .* Make room"):
        t.train(configure(run={"max_steps": 1}))


def test_a_disk_that_fills_up_loses_nothing_that_was_kept(configure, monkeypatch):
    config = configure(run={"max_steps": 2})
    t.train(config)
    before = {path: path.read_bytes() for path in Path(config.run.output).rglob("*.pt")}

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(t.CheckpointError, match=r"No space left.*step-000000002\.pt"):
        t.train(configure(run={"max_steps": 4}))
    assert {path: path.read_bytes() for path in Path(config.run.output).rglob("*.pt")} == before
    assert not list(Path(config.run.output, "checkpoints").glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such limit")
@pytest.mark.parametrize("limit", [10_000, 100_000])  # in the caches, in a checkpoint
def test_a_file_that_the_system_refuses_is_named_and_the_run_goes_on_later(
    configure, tmp_path, limit
):
    config = configure(run={"max_steps": 3})
    (tmp_path / "config.toml").write_text(to_toml(config))
    program = f"""
import resource, sys
from training import train
encoded = train.Encoded
def limited(*arguments):  # from here on
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    return encoded(*arguments)
train.Encoded = limited
sys.exit(train.main(["--config", {str(tmp_path / "config.toml")!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"cannot be written .*Make room", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(Path(config.run.output).rglob("*.part"))
    assert t.train(config).step == 3


def test_held_out_pictures_are_never_trained_on_and_say_what_the_model_listens_to(
    configure, tmp_path, capsys
):
    folder = tiny_world.write_sketches(tmp_path / "many", count=30)
    held_out = {"every": 2, "share": 0.3, "count": 8, "timesteps": 2}
    data = {"folders": [str(folder)], "reference": "group"}
    config = configure(run={"max_steps": 4, "log_every": 1}, data=data, held_out=held_out)
    dataset = Dataset(config.data, held_out=0.3)
    hidden = {row.picture for row in dataset.held_out}
    assert 3 < len(hidden) < 18
    shown = [dataset.sample(0, position) for position in range(3 * dataset.stream.epoch_length)]
    assert not hidden & {s.picture.picture for s in shown}
    assert not hidden & {s.reference.picture for s in shown}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.progress.warnings", lambda entries: [f"seen {len(entries) > 0}"])
        t.train(config)
    assert capsys.readouterr().out.count("warning: seen True") == 1  # told once, not each time
    lines = log_of(config)
    measured = {line["step"]: line["held_out"] for line in lines if "held_out" in line}
    assert measured.keys() == {2, 4}
    for figures in measured.values():
        assert tuple(figures) == CONDITIONS
        assert all(
            len(bins) == 2 and all(0 < loss < 9 for loss in bins) for bins in figures.values()
        )
        assert len({tuple(bins) for bins in figures.values()}) == len(CONDITIONS)
    best = min(measured, key=lambda step: sum(measured[step]["loss"]))
    _, metadata = read_adapter(Path(config.run.output, "best.safetensors"))
    assert metadata is not None
    assert metadata.training["steps"] == best
    # Measuring changes no bit of the training.
    again = configure("again", run={"max_steps": 4}, data=data, held_out=held_out | {"every": 4})
    t.train(again)
    one, other = checkpoint(config.run.output)["adapter"], checkpoint(again.run.output)["adapter"]
    assert_same(one, other)


def test_main_trains_and_gives_0(configure, tmp_path, capsys):
    config = configure(run={"max_steps": 9})
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert t.main(["--config", str(tmp_path / "config.toml"), "--run.max_steps", "1"]) == 0
    assert "finished after step 1" in capsys.readouterr().out


def test_the_learning_rate_rises_and_falls():
    cosine = OptimizerSettings(learning_rate=1.0, warmup_steps=4, schedule="cosine", final_rate=0.2)
    assert learning_rate(cosine, 0, 104) == pytest.approx(0.2)
    assert learning_rate(cosine, 3, 104) == pytest.approx(0.8)
    assert learning_rate(cosine, 4, 104) == pytest.approx(1.0)
    assert learning_rate(cosine, 54, 104) == pytest.approx(0.6)
    assert learning_rate(cosine, 104, 104) == pytest.approx(0.2)
    assert learning_rate(OptimizerSettings(learning_rate=0.5), 10**6, 104) == 0.5


def test_plain_ip_adapter_is_trained_too(configure) -> None:
    """One layer from the image embedding to four tokens; nodes and diffusers know the file."""
    config = configure(
        model={"projection": "linear"},
        run={"max_steps": 3},
        preview={"every": 3, "steps": 2},
        held_out={"every": 3, "share": 0.3},
    )
    result = t.train(config)
    state_dict, metadata = read_adapter(result.adapter)
    adapter = AnimeSketchAdapter.from_state_dict(state_dict)
    assert adapter.reads is ImageFeatures.IMAGE_EMBEDDING
    assert metadata is not None
    assert metadata.num_tokens == 4
    assert (metadata.projection, metadata.unconditional) == ("linear", "zero embedding")
    assert metadata.to_strings()["modelspec.architecture"] == "stable-diffusion-v1/ip-adapter"
    start = t.new_adapter(
        config,
        load_base(config.model.base),
        load_image_encoder("", config.model.base, config.model.reads),
    )
    before = start.state_dict()["image_proj.proj.weight"].half()
    assert not torch.equal(state_dict["image_proj.proj.weight"], before)
