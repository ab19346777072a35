"""Diversity of pictures from other noises (training/evaluation/measures/diversity.py)."""

from __future__ import annotations

import math

import pytest
import torch

from training.evaluation.cases import Pair
from training.evaluation.measures.diversity import (
    DiversityMeasure,
    ink_layout,
    mean_pairwise_distance,
    vendi_score,
)
from training.mini.portraits import load_portraits
from training.mini.styles import Style, render

PAIR = Pair("a", "b")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_vendi_counts_what_is_different(count: int) -> None:
    assert vendi_score(3.0 * torch.eye(count, 11)) == pytest.approx(count)
    assert vendi_score(torch.ones(count, 5)) == pytest.approx(1)
    twice = torch.eye(count).repeat(2, 1)
    assert vendi_score(twice) == pytest.approx(count)


def test_vendi_of_two_by_hand() -> None:
    """At a cosine of 0.6 the eigenvalues of K / 2 are 0.8 and 0.2."""
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    expected = math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert vendi_score(features) == pytest.approx(expected)


def test_pairwise_distance_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-5.0, 0.0]])  # cosines 0, -1, 0
    assert mean_pairwise_distance(features) == pytest.approx(4 / 3)
    assert mean_pairwise_distance(torch.ones(5, 3)) == pytest.approx(0, abs=1e-9)


def test_all_pictures_of_a_pair_get_the_same_figures() -> None:
    measure = DiversityMeasure(lambda pictures: pictures.flatten(1), recipe="pixels")
    pictures = torch.eye(3).view(3, 1, 1, 3)
    figures = measure.score(pictures, PAIR)
    assert figures["pairwise_distance"].tolist() == pytest.approx([1, 1, 1])
    assert figures["vendi"].tolist() == pytest.approx([3, 3, 3])
    assert list(figures) == [column.key for column in measure.columns]
    assert "pixels" in measure.recipe
    assert measure.recipe != DiversityMeasure().recipe


def test_a_picture_alone_is_not_diverse() -> None:
    figures = DiversityMeasure().score(torch.rand(1, 17, 19, 3), PAIR)
    assert all(values.shape == (1,) and values.isnan().all() for values in figures.values())


def test_other_faces_are_more_diverse_than_another_pen() -> None:
    _, drawings = load_portraits("test", 4)
    faces = render(drawings, [Style()] * 4)
    pens = render(drawings[:1].repeat(4, 1, 1), [Style(0), Style(1), Style(2), Style(paper=1)])
    measure = DiversityMeasure()
    many, few = (measure.score(drawn.permute(0, 2, 3, 1), PAIR) for drawn in (faces, pens))
    assert few["vendi"][0] < 1.1
    assert many["vendi"][0] > 1.5
    assert many["pairwise_distance"][0] > 5 * few["pairwise_distance"][0]


def test_layouts_correlate_whatever_the_amount_of_ink() -> None:
    """Half as dark is the same layout, its negative the opposite, and bare sheets are alike."""
    ink = torch.zeros(1, 48, 80, 1)
    ink[:, :24] = 1
    sheets = torch.cat([1 - ink, 1 - 0.5 * ink, ink, torch.ones(2, 48, 80, 1)])
    features = torch.nn.functional.normalize(ink_layout(sheets.repeat(1, 1, 1, 3)), dim=1)
    cosines = features @ features.T
    assert cosines[0, 1] == pytest.approx(1, abs=1e-4)
    assert cosines[0, 2] == pytest.approx(-1, abs=1e-4)
    assert cosines[3, 4] == pytest.approx(1, abs=1e-6)
    assert cosines[0, 3] == pytest.approx(0, abs=0.01)
