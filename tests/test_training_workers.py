"""Several processes share one run (training/workers.py).

torchrun starts them, which is what `accelerate launch` calls where there are GPUs; on a CPU
accelerate itself starts one process only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny_world
from training.config import from_mapping
from training.settings import to_toml
from training.workers import Workers

ROOT = Path(__file__).parents[1]
RUN = {"max_steps": 4, "log_every": 1, "batch_size": 6, "save_every": 2}
SECTIONS = {
    "optimizer": {"ema_decay": 0.9, "clip_norm": 1.0},
    "objective": {"alpha": [0.5, 1.0], "drop_image": 0.2, "drop_text": 0.2},
    "held_out": {"every": 2, "share": 0.3, "count": 5, "timesteps": 2},
    "preview": {"every": 4, "steps": 2, "reference_count": 2},
}


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    models = tiny_world.write_models(tmp_path / "models")
    return models, tiny_world.write_sketches(tmp_path / "sketches", count=24)


def launch(path: Path, processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Trains in several processes, as a user does."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node", str(processes), "-m", "training.train", "--config", str(path)),
        *words,
    ]
    if processes == 1:
        command = [sys.executable, "-m", "training.train", "--config", str(path), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def run_of(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    path = max((folder / "checkpoints").glob("*.pt"))
    return lines, torch.load(path, weights_only=True)["average"]


def test_two_processes_train_what_one_does(world: tuple[Path, Path], tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        settings = tiny_world.settings(*world, tmp_path / name, run=RUN, **SECTIONS)
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(from_mapping(settings)))
        if processes == 2:  # stopped half way, and gone on with
            done = launch(path, 2, "--run.max_steps", "2")
            assert done.returncode == 0, done.stderr[-3000:]
        done = launch(path, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("finished after step 4") == 1
    one, two = run_of(tmp_path / "one"), run_of(tmp_path / "two")
    assert [line["step"] for line in one[0]] == [line["step"] for line in two[0]]
    for line, other in zip(one[0], two[0], strict=True):
        if "nearest" in line:
            assert line["nearest"] == pytest.approx(other["nearest"], abs=1e-3)
        elif "held_out" in line:
            for condition, bins in line["held_out"].items():
                assert bins == pytest.approx(other["held_out"][condition], abs=1e-5)
        else:
            assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert all(torch.allclose(one[1][name], value, atol=2e-6) for name, value in two[1].items())
    assert len(list((tmp_path / "two" / "previews").iterdir())) == 1
    # Each process encoded its share: no picture twice.
    caches = [tmp_path / name / "cache" for name in ("one", "two")]
    for folder in caches[0].iterdir():
        sizes = [
            sum(file.stat().st_size // 1000 for file in (cache / folder.name).iterdir())
            for cache in caches
        ]
        assert sizes[0] == pytest.approx(sizes[1], abs=4)
        assert len(list((caches[1] / folder.name).iterdir())) == 2


def test_an_error_in_all_processes_ends_them(world: tuple[Path, Path], tmp_path: Path) -> None:
    settings = tiny_world.settings(*world, tmp_path / "out", run=RUN | {"batch_size": 1})
    (tmp_path / "x.toml").write_text(to_toml(from_mapping(settings)))
    done = launch(tmp_path / "x.toml", 2)
    assert done.returncode != 0
    assert "run.batch_size is 1, but there are 2 processes" in done.stderr


def test_shares_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers("cpu")
    items = list(range(11))
    assert workers.share(items) == items
    workers.count = 4
    shares = []
    for rank in range(4):
        workers.rank = rank
        shares.append(workers.share(items))
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) == 1
