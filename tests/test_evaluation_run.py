"""The whole evaluation on the mini world: what is drawn, kept, shared out, measured and told."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from animesketchnet_core.weight_file import read_adapter
from training import evaluate
from training.evaluation import drawing
from training.evaluation.cases import Case, Pair, crossed_pairs, jobs, read_pairs
from training.evaluation.config import CaseSettings, EvaluateConfig
from training.evaluation.run import evaluate as run
from training.settings import ConfigError, from_mapping, load_settings, to_toml
from training.sources import DataError

ROOT = Path(__file__).parents[1]
METHODS = [
    {"name": "AnimeSketchNet", "weights": "mini"},
    {"name": "Text only", "kind": "text"},
]
SETTINGS = {
    "cases": {"limit": 3, "more_prompts": 2, "more": 2},
    "draw": {"height": 128, "width": 128, "steps": 2, "guidance": 3.0},
    "methods": METHODS,
    "tables": {"table1": ["sketch_likeness", "ink_difference"], "table2": ["AnimeSketchNet"]},
    "alpha": {"methods": ["AnimeSketchNet"], "values": [0.0, 1.0], "pairs": 2,
              "text": "sketch_likeness", "fidelity": "edge_f1"},
}  # fmt: skip


def settings(output: Path, **changes) -> EvaluateConfig:
    return from_mapping(EvaluateConfig, {**SETTINGS, "run": {"output": str(output)}, **changes})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluation")
    run(settings(output))
    return output


def rows(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "pictures.csv").read_text("utf-8").splitlines()))


def test_every_picture_is_in_the_list_with_its_figures(evaluated: Path) -> None:
    found = rows(evaluated)
    of = {part: [row for row in found if row["part"] == part]
          for part in ("table1", "table2", "figure4", "alpha")}  # fmt: skip
    assert len(of["table1"]) == 3 * 2
    assert len(of["table2"]) == 2 * 2
    assert len(of["figure4"]) == 3 * 2
    assert len(of["alpha"]) == 2 * 2
    assert {row["alpha"] for row in of["alpha"]} == {"0.0", "1.0"}
    for row in found:
        with Image.open(evaluated / row["picture"]) as picture:
            assert picture.size == (128, 128)
        assert 0 <= float(row["edge_f1"]) <= 1
        assert bool(row["pairwise_distance"]) == (row["part"] == "table2")


def test_same_noise_without_a_reference_draws_the_same(evaluated: Path) -> None:
    """At alpha 0 the adapter's pictures are the base's own, to the last bit."""
    found = rows(evaluated)
    silent = [row for row in found if row["part"] == "alpha" and row["alpha"] == "0.0"]
    text = {row["pair"]: row for row in found if row["method"] == "Text only"}
    for row in silent:
        other = text[row["pair"]]
        assert row["picture"] != other["picture"]
        assert (evaluated / row["picture"]).read_bytes() == (
            evaluated / other["picture"]
        ).read_bytes()


def test_what_is_there_is_neither_drawn_nor_measured_again(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in evaluated.glob("[ps]*/**/*.*")}
    report = (evaluated / "report.html").read_bytes()
    monkeypatch.setattr(drawing, "_save", lambda *_: pytest.fail("drawn again"))
    run(settings(evaluated))
    assert {path: path.stat().st_mtime_ns for path in evaluated.glob("[ps]*/**/*.*")} == before
    assert (evaluated / "report.html").read_bytes() == report


def test_a_lost_picture_and_a_cut_line_are_made_again(evaluated: Path) -> None:
    figures = (evaluated / "pictures.csv").read_bytes()
    lost = evaluated / rows(evaluated)[0]["picture"]
    content = lost.read_bytes()
    lost.unlink()
    scores = next(iter((evaluated / "scores").glob("lines-*.jsonl")))
    scores.write_bytes(scores.read_bytes()[:-20])  # as a kill leaves it
    run(settings(evaluated))
    assert lost.read_bytes() == content
    assert (evaluated / "pictures.csv").read_bytes() == figures
    for line in scores.read_text().splitlines()[-1:]:
        assert json.loads(line)["figures"]


def test_another_setting_meets_no_old_picture(evaluated: Path) -> None:
    pictures = {row["picture"] for row in rows(evaluated)}
    changed = settings(evaluated, draw={**SETTINGS["draw"], "steps": 3}, alpha={})
    run(changed)
    assert pictures.isdisjoint({row["picture"] for row in rows(evaluated)})
    run(settings(evaluated))
    assert {row["picture"] for row in rows(evaluated)} == pictures


def test_two_processes_share_the_work_and_find_the_same(evaluated: Path, tmp_path: Path) -> None:
    config = tmp_path / "two.toml"
    config.write_text(to_toml(settings(tmp_path / "out")), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", "29517", "-m", "training.evaluate",
               "--config", str(config), "--run.device", "cpu"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "out").glob("log.*.jsonl"))) == 2
    mine, theirs = rows(tmp_path / "out"), rows(evaluated)
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one["pair"] == other["pair"]
        assert abs(float(one["edge_f1"]) - float(other["edge_f1"])) < 0.1  # bf16, other batches


def test_alpha_is_written_into_the_weight_file(evaluated: Path, tmp_path: Path) -> None:
    """The file keeps its weights to the bit, and says from which alpha to start."""
    from animesketchnet_core.mini import adapter_path

    weights = tmp_path / "a.safetensors"
    weights.write_bytes(adapter_path().read_bytes())
    methods = [{"name": "AnimeSketchNet", "weights": str(weights)}, METHODS[1]]
    run(settings(evaluated, methods=methods, alpha={**SETTINGS["alpha"], "write": True}))
    before, _ = read_adapter(adapter_path())
    after, metadata = read_adapter(weights)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert metadata is not None
    assert metadata.recommended_alpha in (0.0, 1.0)
    assert f"alpha {metadata.recommended_alpha:g}." in (evaluated / "report.html").read_text()


def test_jobs_keep_the_pictures_of_a_pair_together() -> None:
    pairs = [Pair(name, f"prompt {k % 2}", Path("x.png")) for k, name in enumerate("abc")]
    config = settings(Path("x"), cases={"seeds": 2, "more_prompts": 1, "more": 3})
    found = {(job.method, job.part, job.alpha == job.alpha): job for job in jobs(config, pairs)}
    ours = found["AnimeSketchNet", "table1", True]
    assert [case.id for case in ours.cases] == [
        "a-000", "a-001", "b-000", "b-001", "c-000", "c-001",
    ]  # fmt: skip
    assert [c.seed for c in found["AnimeSketchNet", "table2", True].cases] == [1000, 1001, 1002]
    assert ("Text only", "table1", False) in found
    assert len(crossed_pairs(pairs, 5)) == 2  # of equal prompts one
    assert {pair.reference for pair in crossed_pairs(pairs, 5)} == {Path("x.png")}


def test_pairs_are_told_apart_by_what_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (7, 5), 255).save(path)
    one = Pair("a", "a girl", path)
    assert one.digest == Pair("a", "a girl", path).digest
    assert one.digest != replace(one, prompt="a boy").digest
    before = one.digest
    Image.new("L", (7, 5), 0).save(path)
    assert Pair("a", "a girl", path).digest != before
    assert Case(one, 7).id == "a-007"


def test_pairs_of_a_list(tmp_path: Path) -> None:
    for name in ("one two.png", "ref.png"):
        Image.new("L", (7, 5), 255).save(tmp_path / name)
    entry = {"file_name": "one two.png", "text": ["a girl", "other"], "sketch": "ref.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    [pair] = read_pairs(CaseSettings(pairs=str(tmp_path)), tmp_path)
    assert (pair.id, pair.prompt, pair.reference) == (
        "0001-one-two", "a girl", tmp_path / "one two.png",
    )  # fmt: skip
    [pair] = read_pairs(CaseSettings(pairs=str(tmp_path), reference_column="sketch"), tmp_path)
    assert pair.reference == tmp_path / "ref.png"
    assert pair.reference_picture().shape == (1, 5, 7, 3)
    with pytest.raises(DataError, match=r"prompt is None; expected the prompt"):
        read_pairs(CaseSettings(pairs=str(tmp_path), prompt_column="prompt"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": [{"name": "a", "kind": "x"}]}, r"entry 1 \(a\): kind is 'x'; expected text"),
        ({"methods": [{"name": "a"}]}, r"weights is empty; kind 'adapter' needs it"),
        ({"methods": [METHODS[1], METHODS[1]]}, r"entry 1 \(Text only\): two methods have this"),
        ({"methods": [{"name": "../a", "kind": "text"}]}, r"name is '\.\./a'; expected letters"),
        ({"methods": [{"nam": "a"}]}, r"Did you mean 'methods.name'"),
        ({"tables": {"ours": "Ours"}}, r"tables.ours names 'Ours'; the methods are Anime"),
        ({"alpha": {"methods": ["Text only"]}}, r"of kind 'text': it has no alpha"),
        ({"draw": {"steps": 0}}, r"draw.steps is 0; expected 1 to 999"),
        ({"methods": {"name": "a"}}, r"methods is .*; expected a list, each a section"),
    ],
)
def test_wrong_settings_are_told(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(Path("x"), **changes)


def test_settings_come_back_from_their_toml(tmp_path: Path) -> None:
    config = settings(tmp_path)
    path = tmp_path / "x.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_settings(EvaluateConfig, path) == config
    changed = load_settings(EvaluateConfig, path, [("draw.steps", "7")])
    assert changed.draw.steps == 7
    with pytest.raises(ConfigError, match="methods is a list; change its entries in the file"):
        load_settings(EvaluateConfig, path, [("methods.name", "x")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.toml"], "There is no configuration file nowhere.toml"),
        ([], "There is no method to evaluate; list them as [[methods]]"),
    ],
)
def test_command_line_tells_wrong_input(words, message, capsys: pytest.CaptureFixture) -> None:
    assert evaluate.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"weights": "gone.safetensors"}, "gone.safetensors"),
        ({"kind": "controlnet", "weights": "gone"}, "The ControlNet gone cannot be loaded"),
        ({"kind": "folder", "pictures": "gone"}, "gone is no folder with pictures"),
        ({"kind": "sd3", "weights": "gone"}, "gone"),
        ({"kind": "comfyui", "workflow": "gone.json"}, "gone.json"),
    ],
)
def test_missing_weights_are_told_in_a_line(
    method, message, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = tmp_path / "x.toml"
    wrong = settings(tmp_path / "out", methods=[METHODS[1], {"name": "Wrong", **method}],
                     tables={"ours": "Text only", "table2": []}, alpha={})  # fmt: skip
    config.write_text(to_toml(wrong), encoding="utf-8")
    assert evaluate.main(["--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error.splitlines()[-1]
