"""The report of a run (training/report.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from training.report import LINES, main, read_log, smoothed, warnings, write_report


def held_out(step: int, **losses: float) -> dict:
    figures = dict.fromkeys(LINES, 0.1) | {"other_sketch": 0.2, "no_text": 0.2} | losses
    return {"step": step, "held_out": {name: [loss, 2 * loss] for name, loss in figures.items()}}


def write_run(folder: Path, entries: list[dict]) -> Path:
    (folder / "previews").mkdir()
    for step in (1, 2):
        Image.new("RGB", (4, 4)).save(folder / "previews" / f"step-{step:09d}.png")
    (folder / "config.toml").write_text('run = "<script>"')
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "log.jsonl").write_text(lines + '{"step": 9, "lo')  # killed while it wrote
    return folder


def test_a_report_holds_curves_figures_and_previews(tmp_path: Path) -> None:
    logged = [
        {"step": k, "loss": 1.0 / k, "pictures_per_second": 7.0, "skipped": 0} for k in range(1, 60)
    ]
    near = {"step": 2, "nearest": 0.5, "nearest_in_training": 0.6}
    assert main([str(write_run(tmp_path, [*logged, held_out(2, loss=0.125), near]))]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("</svg>") == 5
    for part in page.split("<svg")[1:]:  # each is well-formed
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")
    assert page.count("data:image/png;base64,") == 2
    assert page.index("step 2<") < page.index("step 1<")
    assert "Step 59" in page
    assert "0.18750" in page  # the mean of 0.125 and 0.25
    assert "+60.00%" in page  # 0.3 in place of it
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)  # it needs nothing from elsewhere


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    assert "No step is logged yet" in write_report(tmp_path).read_text()


def test_no_run_is_an_error_that_names_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "log.jsonl. Expected the folder of a training run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([held_out(1, other_sketch=0.1)], "does not listen to the sketch"),
        ([held_out(1, no_text=0.09)], "does not listen to the text"),
        ([held_out(k, loss=0.1 + 0.01 * k) for k in range(4)], "by heart"),
        ([{"step": 1, "nearest": 0.97, "nearest_in_training": 0.9}], "may copy"),
        ([{"step": 1, "loss": 1.0, "skipped": 3}], "3 steps were skipped"),
    ],
)
def test_warnings(entries: list[dict], message: str) -> None:
    [told] = warnings(entries)
    assert message in told
    assert warnings([held_out(1), {"step": 1, "loss": 1.0, "skipped": 0}]) == []


def test_a_cut_line_is_left_out(tmp_path: Path) -> None:
    assert read_log(write_run(tmp_path, [{"step": 1}]) / "log.jsonl") == [{"step": 1}]


def test_smoothing_keeps_the_length_and_the_mean_of_what_went_before() -> None:
    assert smoothed([2.0, 4.0], 0.1) == [2.0, 4.0]
    assert smoothed([2.0, 4.0, 6.0, 8.0], 0.5) == [2.0, 3.0, 5.0, 7.0]
