"""Lines compared with the reference's (training/evaluation/measures/lines.py)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.evaluation.cases import Pair
from training.evaluation.measures.lines import (
    LineMeasure,
    Lines,
    edge_scores,
    fitted_ink,
    stroke_distance,
)
from training.mini.portraits import load_portraits
from training.mini.styles import Style, render


def sheet(height: int, width: int, *bars: tuple[int, int], tone: float = 1.0) -> Tensor:
    """Paper [h, w, 3] with upright black bars of (left, width)."""
    paper = torch.full((height, width, 3), tone)
    for left, thickness in bars:
        paper[:, left : left + thickness] = 0
    return paper


def saved(picture: Tensor, path: Path) -> Pair:
    Image.fromarray((picture * 255).round().byte().numpy()).save(path)
    return Pair("a", "b", path)


def score(pictures: Tensor, reference: Tensor, folder: Path) -> dict[str, list[float]]:
    figures = LineMeasure().score(pictures, saved(reference, folder / "reference.png"))
    return {key: values.tolist() for key, values in figures.items()}


def test_the_same_drawing_is_the_same(tmp_path: Path) -> None:
    _, drawings = load_portraits("test", 1)
    drawn = render(drawings, [Style()])[0].permute(1, 2, 0)
    figures = score(drawn[None], drawn, tmp_path)
    assert figures["edge_precision"] == figures["edge_recall"] == figures["edge_f1"] == [1.0]
    assert figures["ink_difference"] == pytest.approx([0], abs=0.003)  # the file has 8 bits
    assert figures["stroke_distance"] == pytest.approx([0], abs=0.1)


def test_paper_and_ink_of_another_tone_change_no_line(tmp_path: Path) -> None:
    _, drawings = load_portraits("test", 3)
    plain, grey = (
        render(drawings, [style] * 3).permute(0, 2, 3, 1) for style in (Style(), Style(paper=1))
    )
    for k in range(3):
        figures = score(grey[k, None], plain[k], tmp_path)
        assert figures["edge_f1"][0] > 0.99
        assert figures["stroke_distance"][0] < 0.5


def test_another_face_is_another_drawing(tmp_path: Path) -> None:
    _, drawings = load_portraits("test", 2)
    one, two = render(drawings, [Style()] * 2).permute(0, 2, 3, 1)
    assert score(two[None], one, tmp_path)["edge_f1"][0] < 0.6


@pytest.mark.parametrize(("shift", "expected"), [(1, 1.0), (2, 1.0), (3, 0.0), (7, 0.0)])
def test_a_line_may_be_two_pixels_of_512_aside(shift: int, expected: float) -> None:
    line, other = np.zeros((2, 512, 521), bool)
    line[:, 200] = other[:, 200 + shift] = True
    assert edge_scores(line, other) == (expected, expected, expected)


@pytest.mark.parametrize(("side", "reach"), [(67, 1), (128, 1), (1031, 4)])
def test_the_tolerance_grows_with_the_picture_and_is_a_pixel_at_least(
    side: int, reach: int
) -> None:
    line, near, far = np.zeros((3, side, side), bool)
    line[:, 31] = near[:, 31 + reach] = far[:, 32 + reach] = True
    assert edge_scores(line, near)[2] == 1
    assert edge_scores(line, far)[2] == 0


def test_precision_and_recall_by_hand() -> None:
    """The picture has one of the reference's two lines, and three that are not there."""
    picture, reference = np.zeros((2, 101, 211), bool)
    reference[:, [20, 190]] = True
    picture[:, [20, 60, 100, 140]] = True
    precision, recall, f1 = edge_scores(picture, reference)
    assert (precision, recall) == (0.25, 0.5)
    assert f1 == pytest.approx(1 / 3)


def test_a_bare_picture_has_none_of_the_lines_and_a_bare_reference_asks_for_none(
    tmp_path: Path,
) -> None:
    bare, drawn = sheet(61, 61), sheet(61, 61, (30, 3))
    figures = score(bare[None], drawn, tmp_path)
    assert figures["edge_f1"] == figures["edge_precision"] == figures["edge_recall"] == [0]
    assert figures["ink_difference"] == pytest.approx([3 / 61], abs=1e-4)
    assert math.isnan(figures["stroke_distance"][0])
    figures = score(drawn[None], bare, tmp_path)
    assert math.isnan(figures["edge_f1"][0])
    assert math.isnan(figures["edge_recall"][0])


def test_grain_of_paper_is_no_line() -> None:
    grain = 0.05 * torch.rand(1, 97, 89, generator=torch.Generator().manual_seed(2))
    lines = Lines.of(grain[0].numpy())
    assert not lines.thinned.any()
    assert len(lines.widths) == 0


@pytest.mark.parametrize(("thickness", "width"), [(2, 2), (4, 4), (6, 6), (3, 4), (5, 6)])
def test_strokes_have_their_width(thickness: int, width: int) -> None:
    """Twice the distance to the paper: a pixel more where there is a middle pixel."""
    lines = Lines.of(1 - sheet(97, 83, (40, thickness))[..., 0].numpy())
    assert np.median(lines.widths) == width


def test_stroke_distance_by_hand(tmp_path: Path) -> None:
    """All strokes 4 pixels wider, on a sheet of 83: 4 / 83 in per mille."""
    thin, bold = sheet(97, 83, (20, 2), (60, 2)), sheet(97, 83, (19, 6), (59, 6))
    figures = score(torch.stack([bold, thin]), thin, tmp_path)
    assert figures["stroke_distance"] == pytest.approx([1000 * 4 / 83, 0], rel=0.05)
    assert figures["ink_difference"] == pytest.approx([8 / 83, 0], abs=1e-4)
    one, two = (
        Lines(0.0, np.zeros((83, 97), bool), np.array(widths)) for widths in ([2.0, 4.0], [4.0])
    )
    assert stroke_distance(one, two) == pytest.approx(1000 * 1 / 83)


def test_a_reference_is_fitted_whole_and_its_grey_paper_has_no_border() -> None:
    """A bar of 10 of 50 pixels on grey paper, 100 high, becomes 6 of 30 in a square of 60."""
    reference = sheet(100, 50, (20, 10), tone=0.8)[None]
    ink = fitted_ink(reference, 60, 60)
    assert ink.shape == (60, 60)
    assert ink.sum().item() == pytest.approx(6 * 60, rel=0.02)
    assert ink[:, 27:33].mean().item() == pytest.approx(1, abs=0.1)
    assert ink[:, :15].max().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (31, 127), (53, 53)])
@pytest.mark.parametrize("shape", [(100, 50), (50, 100), (71, 73), (200, 3)])
def test_all_of_a_reference_is_on_any_sheet(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Rows of black and white: its proportions stay, and it touches two borders."""
    reference = torch.zeros(1, *shape, 3)
    reference[:, ::5] = 1
    drawn = fitted_ink(reference, *size) > 0.02
    rows, columns = (int(drawn.any(axis).sum()) for axis in (1, 0))
    scale = min(size[0] / shape[0], size[1] / shape[1])
    assert columns == pytest.approx(shape[1] * scale, abs=1)
    assert rows == pytest.approx(shape[0] * scale, abs=max(1.5, 1.5 * scale))


def test_without_a_reference_there_is_nothing_to_compare() -> None:
    figures = LineMeasure().score(torch.rand(3, 17, 19, 3), Pair("a", "b"))
    assert list(figures) == [column.key for column in LineMeasure.columns]
    assert all(values.shape == (3,) and values.isnan().all() for values in figures.values())
