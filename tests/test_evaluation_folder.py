"""Pictures from elsewhere: which file is whose, what of it is read, what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.evaluation.cases import Case, Pair
from training.evaluation.methods.folder import FolderMethod
from training.sources import DataError

WINK, SMILE = Pair("wink", "a wink"), Pair("smile", "a smile")


def save(path: Path, tone: int, size: tuple[int, int] = (13, 7), mode: str = "L") -> None:
    Image.new(mode, size, (0, 0, 0, tone) if mode == "RGBA" else tone).save(path, lossless=True)


def test_each_case_gets_its_own_picture(tmp_path: Path) -> None:
    save(tmp_path / "wink-000.png", 51)
    save(tmp_path / "wink-011.webp", 102, (17, 19), "RGB")
    save(tmp_path / "smile.PNG", 153)
    cases = [Case(WINK, 11), Case(SMILE, 0), Case(WINK, 0), Case(WINK, 11)]
    *drawn, again = FolderMethod(tmp_path).draw(cases)
    assert torch.equal(again, drawn[0])
    assert [tuple(picture.shape) for picture in drawn] == [(19, 17, 3), (7, 13, 3), (7, 13, 3)]
    tones = [picture[0, 0, 0].item() for picture in drawn]
    assert tones == pytest.approx([102 / 255, 153 / 255, 51 / 255])  # "RGB" 102: red alone
    assert all(picture.dtype == torch.float32 for picture in drawn)


def test_the_whole_name_goes_before_the_pairs_and_png_before_webp(tmp_path: Path) -> None:
    save(tmp_path / "wink.png", 255)
    save(tmp_path / "wink-000.webp", 255)
    save(tmp_path / "wink-000.png", 0)
    [picture] = FolderMethod(tmp_path).draw([Case(WINK, 0)])
    assert picture.max() == 0


def test_transparency_is_white(tmp_path: Path) -> None:
    save(tmp_path / "wink.png", 51, mode="RGBA")  # black, a fifth opaque
    [picture] = FolderMethod(tmp_path).draw([Case(WINK, 0)])
    assert np.allclose(picture.numpy(), 0.8, atol=1e-6)


def test_the_first_missing_names_are_told(tmp_path: Path) -> None:
    save(tmp_path / "wink.png", 0)
    cases = [Case(WINK, 0), *(Case(SMILE, seed) for seed in range(7))]
    with pytest.raises(DataError, match=r"lacks smile-000\.png, .*smile-004\.png and 2 more\. D"):
        FolderMethod(tmp_path).draw(cases)
    with pytest.raises(DataError, match=r"lacks wink-001\.png\. Draw"):
        FolderMethod(tmp_path).draw([Case(WINK, 1)])


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "notes.txt"):
        with pytest.raises(DataError, match=f"{folder} is no folder with pictures"):
            FolderMethod(folder)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "wink.png").write_text("no picture")
    with pytest.raises(DataError, match=r"wink\.png cannot be read as a picture"):
        FolderMethod(tmp_path).draw([Case(WINK, 0)])


def test_the_recipe_follows_names_and_contents(tmp_path: Path) -> None:
    save(tmp_path / "wink.png", 1)
    recipe = FolderMethod(tmp_path).recipe
    assert FolderMethod(tmp_path).recipe == recipe
    (tmp_path / "notes.txt").touch()
    assert FolderMethod(tmp_path).recipe == recipe
    save(tmp_path / "wink.png", 2)
    changed = FolderMethod(tmp_path).recipe
    (tmp_path / "wink.png").rename(tmp_path / "smile.png")
    assert len({recipe, changed, FolderMethod(tmp_path).recipe}) == 3
