"""Copies of training pictures (training/copying.py, training/evaluation/measures/copying.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from training.copying import NearestPicture, pooled
from training.evaluation.cases import Pair
from training.evaluation.measures.copying import CopyingMeasure
from training.evaluation.measures.diversity import ink_layout
from training.mini.portraits import load_portraits
from training.mini.styles import Style, render
from training.sources import DataError

PAIR = Pair("a", "b")


def test_nearest_by_hand() -> None:
    """Four places round a centre: each is at right angles to two others."""
    centre = torch.tensor([10.0, -7.0])
    around = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    nearest = NearestPicture(centre + around)
    assert nearest.nearest_other.tolist() == pytest.approx([0, 0, 0, 0], abs=1e-6)
    drawn = centre + torch.tensor([[5.0, 0.0], [3.0, 4.0], [-1.0, -1.0]])
    assert nearest.similarity(drawn).tolist() == pytest.approx([1, 0.8, 0.5**0.5])


def test_the_yardstick_is_the_usual_distance() -> None:
    """Two twins and an outsider, many more of them than are compared at once."""
    generator = torch.Generator().manual_seed(3)
    places = torch.randn(101, 7, generator=generator)
    nearest = NearestPicture(places.repeat(2, 1))
    assert nearest.nearest_other.tolist() == pytest.approx([1] * 202, abs=1e-5)
    nearest = NearestPicture(places)
    unit = torch.nn.functional.normalize(places - places.mean(0), dim=1)
    among = (unit @ unit.T).fill_diagonal_(-1).max(1).values
    torch.testing.assert_close(nearest.nearest_other, among)
    assert nearest.yardstick == pytest.approx(among.median().item())


def test_features_of_patches_are_averaged_and_embeddings_stay() -> None:
    features = torch.rand(2, 5, 3).half()
    torch.testing.assert_close(pooled(features), features.float().mean(1))
    assert torch.equal(pooled(features[:, 0]), features[:, 0].float())


@pytest.fixture(scope="module")
def drawn() -> Tensor:
    _, drawings = load_portraits("test", 32)
    return render(drawings, [Style()] * 32).permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def training(drawn: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("training")
    paths = [folder / f"{k}.png" for k in range(24)]
    for picture, path in zip(drawn, paths, strict=False):
        Image.fromarray((picture * 255).round().byte().numpy()).save(path)
    return paths


def test_copies_are_found_and_new_faces_are_none(drawn: Tensor, training: list[Path]) -> None:
    measure = CopyingMeasure(ink_layout, training, "ink layout")
    copies = measure.score(drawn[:3], PAIR)
    assert copies["nearest_training"].tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    assert copies["copied"].tolist() == [1, 1, 1]
    others = measure.score(drawn[24:], PAIR)
    assert others["nearest_training"].max() < 0.99
    assert others["copied"].mean() < 0.5
    assert -1 < measure.yardstick < measure.limit < 1
    assert list(copies) == [column.key for column in measure.columns]


def test_the_limit_is_what_one_training_picture_in_twenty_passes(training: list[Path]) -> None:
    measure = CopyingMeasure(ink_layout, training, "ink layout")
    passing = (measure._nearest.nearest_other > measure.limit).sum()
    assert passing in (1, 2)  # of 24; the nearest two are mutual


def test_other_training_pictures_are_another_recipe(training: list[Path]) -> None:
    recipes = {
        CopyingMeasure(ink_layout, paths, name).recipe
        for paths, name in ((training, "a"), (training[1:], "a"), (training, "b"))
    }
    assert len(recipes) == 3
    assert CopyingMeasure(ink_layout, training[::-1], "a").recipe in recipes


def test_too_few_or_broken_training_pictures_are_told(training: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least two training pictures.*got 1"):
        CopyingMeasure(ink_layout, training[:1], "a")
    with pytest.raises(DataError, match=r"missing\.png cannot be read"):
        CopyingMeasure(ink_layout, [training[0], tmp_path / "missing.png"], "a")
