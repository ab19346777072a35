"""The mini world's own measures, on real test portraits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from animesketchnet_core.contact_sheet import to_tensor
from training.evaluation.cases import Pair
from training.mini.alignment import open_mini_clip
from training.mini.pairs import draw_pairs, draw_training_pictures
from training.mini.portraits import load_portraits
from training.mini.styles import Style, render

COUNT = 60


@pytest.fixture(scope="module")
def portraits():
    faces, drawings = load_portraits("test", COUNT)
    return faces, render(drawings, [Style()] * COUNT).movedim(1, -1)


def test_mini_clip_finds_the_picture_of_a_caption(portraits) -> None:
    """Of 60 test portraits, whose captions name everything; chance is 1.7%."""
    faces, pictures = portraits
    clip = open_mini_clip(torch.device("cpu"))
    images = torch.nn.functional.normalize(clip.embed(pictures), dim=1)
    captions = [face.caption(style_words=Style().words()) for face in faces]
    texts = torch.nn.functional.normalize(torch.cat([clip.embed_text(c) for c in captions]), dim=1)
    found = (images @ texts.T).argmax(0)
    right = sum(captions[int(k)] == caption for k, caption in zip(found, captions, strict=True))
    assert right >= 0.8 * COUNT


def test_mini_clip_tells_left_from_right(portraits) -> None:
    """Of a face and its mirror image, the one that looks as the prompt says."""
    faces, pictures = portraits
    clip = open_mini_clip(torch.device("cpu"))
    words = torch.cat([clip.embed_text(face.caption(hair=False)) for face in faces])
    images, mirrored = clip.embed(pictures), clip.embed(pictures.flip(2))
    right = torch.cosine_similarity(images, words) > torch.cosine_similarity(mirrored, words)
    assert right.float().mean() >= 0.9


def test_mini_clip_scores_pairs(portraits, tmp_path: Path) -> None:
    faces, pictures = portraits
    clip = open_mini_clip(torch.device("cpu"))
    [pair] = draw_pairs(tmp_path, 1)
    figures = clip.score(pictures[:3], replace(pair, prompt=faces[1].caption(hair=False)))
    assert 0 < figures["clip_i"].max() <= 1
    assert figures["clip_score"].argmax() == 1
    assert figures["clip_score"][1] > 15
    assert clip.truncated("a face, " * 50) > 0


def test_pairs_are_drawn_once_and_ask_for_another_face(tmp_path: Path) -> None:
    pairs = draw_pairs(tmp_path, 3)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) == 3
    assert [pair.digest for pair in draw_pairs(tmp_path, 3)] == [pair.digest for pair in pairs]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    faces, _ = load_portraits("test", 3)
    for pair, face in zip(pairs, faces, strict=True):
        assert face.hair not in pair.prompt
        assert pair.wanted["hair"] == face.hair_variant
        assert pair.wanted["glasses"] == int("glasses" not in face.accessories)
        assert ("glasses" in pair.prompt) == bool(pair.wanted["glasses"])
        assert isinstance(pair, Pair)


def test_training_pictures_are_those_of_the_training_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.mini.pairs.TRAINING", 3)
    paths = draw_training_pictures(tmp_path)

    assert len(paths) == 3
    with Image.open(paths[0]) as picture:
        assert to_tensor(picture).shape == (128, 128, 3)
