"""Grids of pictures and the charts of alpha (training/evaluation/figures.py)."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from animesketchnet_core.contact_sheet import label_height
from training.evaluation.figures import (
    MARGIN,
    AlphaPoint,
    alpha_chart,
    figure3,
    figure4,
    fitted,
    pareto_front,
    thumbnail,
)
from training.evaluation.scored import Scored
from training.evaluation.statistics import Estimate
from training.sources import DataError

SIDE = 47
LABEL = label_height(SIDE)
GREYS = {"ours": 40, "theirs": 90, "reference": 140}


def written(folder: Path, name: str, grey: int, size: tuple[int, int] = (31, 31)) -> Path:
    path = folder / f"{name}.png"
    Image.new("L", size, grey).save(path)
    return path


@pytest.fixture
def scored(tmp_path: Path) -> list[Scored]:
    reference = written(tmp_path, "reference", GREYS["reference"])
    entries = []
    for pair in ("a", "b"):
        for method in ("ours", "theirs"):
            for seed in (5, 2):  # the lower one is shown
                grey = GREYS[method] + (200 - GREYS[method]) * (seed == 5)
                path = written(tmp_path, f"{method}-{pair}-{seed}", grey)
                entries.append(Scored(method, "table1", pair, f"prompt {pair}", reference, seed,
                                      0.5, path, {}))  # fmt: skip
    return entries


def middles(sheet: Image.Image, rows: int, columns: int) -> list[list[int]]:
    pixels = np.asarray(sheet.convert("L"))
    return [
        [
            int(pixels[LABEL + row * (LABEL + SIDE) + LABEL + SIDE // 2, column * SIDE + SIDE // 2])
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def test_figure_3_has_a_row_for_each_pair_behind_its_reference(scored: list[Scored]) -> None:
    sheet = figure3(scored, ["theirs", "ours"], ["b", "a"], SIDE)
    assert sheet.size == (3 * SIDE, LABEL + 2 * (LABEL + SIDE))
    assert middles(sheet, 2, 3) == [[140, 90, 40]] * 2
    assert sheet.getpixel((SIDE + MARGIN - 1, LABEL * 2 + SIDE // 2)) == (255, 255, 255)
    assert sheet.getpixel((SIDE + MARGIN, LABEL * 2 + SIDE // 2)) == (90, 90, 90)


def test_what_a_method_or_a_pair_lacks_stays_white(scored: list[Scored]) -> None:
    left = [replace(entry, reference=None) for entry in scored
            if entry.pair == "a" or entry.method == "ours"]  # fmt: skip
    sheet = figure3(left, ["ours", "theirs"], ["a", "b"], SIDE)
    assert middles(sheet, 2, 3) == [[255, 40, 90], [255, 40, 255]]
    with pytest.raises(ValueError, match="No method of ours has a picture of the pair 'c'"):
        figure3(scored, ["ours"], ["c"], SIDE)


def test_figure_4_shows_its_one_reference_once(scored: list[Scored], tmp_path: Path) -> None:
    sheet = figure4(scored, ["ours", "theirs"], ["a", "b"], SIDE)
    assert middles(sheet, 2, 3) == [[140, 40, 90], [255, 40, 90]]
    other = [replace(entry, reference=tmp_path / "other.png") if entry.pair == "b" else entry
             for entry in scored]  # fmt: skip
    with pytest.raises(ValueError, match=r"one reference .*other\.png, .*reference\.png"):
        figure4(other, ["ours"], ["a", "b"], SIDE)


def test_pictures_of_any_shape_are_fitted_whole_on_white(tmp_path: Path) -> None:
    tall = written(tmp_path, "tall", 0, (11, 22))
    pixels = fitted(tall, 44)
    assert pixels.shape == (44, 44, 3)
    assert pixels[:, 11:33].max() == 0
    assert pixels[:, :11].min() == pixels[:, 33:].min() == 1
    assert thumbnail(tall, 22).size == (22, 22)
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(DataError, match=r"no\.png cannot be read as a picture"):
        thumbnail(tmp_path / "no.png", 8)


def point(text: float, fidelity: float, alpha: float = 0.5) -> AlphaPoint:
    return AlphaPoint(alpha, Estimate(text, text - 1, text + 1, 7),
                      Estimate(fidelity, fidelity - 0.1, fidelity + 0.1, 7))  # fmt: skip


def test_the_pareto_front_is_what_no_other_beats() -> None:
    best_text, middle, best_fidelity = point(9, 0.1), point(7, 0.5), point(2, 0.8)
    beaten, as_good_in_one, twin = point(6, 0.4), point(7, 0.3), point(7, 0.5, alpha=0.6)
    unknown = point(math.nan, 0.9)
    points = [beaten, best_fidelity, middle, as_good_in_one, unknown, best_text, twin]
    assert pareto_front(points) == [best_fidelity, middle, best_text, twin]
    assert pareto_front([]) == []
    rng = np.random.default_rng(2)
    cloud = [point(text, fidelity) for text, fidelity in rng.normal(size=(53, 2))]
    front = pareto_front(cloud)
    fidelities = [p.fidelity.mean for p in sorted(front, key=lambda p: p.text.mean)]
    assert fidelities == sorted(fidelities, reverse=True)
    assert max(p.text.mean for p in cloud) == max(p.text.mean for p in front)


def test_charts_of_alpha_are_svg_and_png() -> None:
    curves = {
        "ours <$b$>": [point(9, 0.1, 0.0), point(7, 0.5, 0.5), point(6, 0.4, 1.0)],
        "text only": [point(9.5, 0.05, math.nan)],
        "theirs": [point(8, math.nan, 0.5)],
    }
    chart = alpha_chart(curves, text="CLIP", recommended=0.5)
    ElementTree.fromstring(chart.svg)
    with Image.open(io.BytesIO(chart.png)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 700
    for words in ("ours &lt;$b$&gt;", "text only", "CLIP", "fidelity to the reference"):
        assert f"<!-- {words} -->" in chart.svg
    assert chart.svg.count("<!-- 0.5 -->") == 2  # the label of a point, and a tick
    assert chart == alpha_chart(curves, text="CLIP", recommended=0.5)  # byte by byte
    assert chart.svg != alpha_chart(curves, text="CLIP").svg


def test_no_curves_are_an_empty_chart() -> None:
    ElementTree.fromstring(alpha_chart({}).svg)
