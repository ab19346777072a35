"""The scores that node and evaluation share (animesketchnet_core/scores.py)."""

from __future__ import annotations

import pytest
import torch

from animesketchnet_core.scores import clip_image_similarity, clip_score, clip_score_hessel

IMAGES = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-1.0, 0.0]])
TEXTS = torch.tensor([[1.0, 0.0]])


def test_cosines_by_hand() -> None:
    assert clip_score(IMAGES, TEXTS).tolist() == pytest.approx([60, 100, 0])
    assert clip_score_hessel(IMAGES, TEXTS).tolist() == pytest.approx([1.5, 2.5, 0])
    assert clip_image_similarity(IMAGES, TEXTS).tolist() == pytest.approx([0.6, 1, -1])


def test_rows_are_paired() -> None:
    texts = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-5.0, 0.0]])
    assert clip_score(IMAGES, texts).tolist() == pytest.approx([96, 0, 100])


def test_half_precision_is_compared_in_float32() -> None:
    generator = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(7, 11, generator=generator).half() for _ in range(2))
    expected = clip_image_similarity(images.float(), texts.float())
    assert torch.equal(clip_image_similarity(images, texts), expected)


@pytest.mark.parametrize("shape", [(3, 5), (2, 2), (2,)])
def test_what_cannot_be_compared_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\] and texts .* from the same CLIP model"):
        clip_score(IMAGES, torch.ones(shape))
    with pytest.raises(ValueError, match="references"):
        clip_image_similarity(IMAGES, torch.ones(shape))
