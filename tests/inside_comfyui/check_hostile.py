"""Pictures, masks and latents of odd sizes, or that hold no numbers, given to each node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

NO_NUMBERS = [float("nan"), float("inf"), float("-inf")]
TAKES_PICTURES = ("Encode", "SketchFromImage", "CleanSketch", "Compare", "Score")


@pytest.fixture
def shown(pack: SimpleNamespace, mini: SimpleNamespace) -> Any:
    """Gives pictures to a node; returns all tensors that it gives back."""
    inputs = {
        "Encode": lambda image: (mini.adapter, mini.clip_vision, image),
        "SketchFromImage": lambda image: (image, 1.0, 0.9, "ink"),
        "CleanSketch": lambda image: (image, 1.0, 4.0, 0.5, 0.5),
        "Compare": lambda image: (mini.clip_vision, image, image),
        "Score": lambda image: (image, mini.clip_vision, image),
    }

    def show(node: str, image: torch.Tensor) -> list[torch.Tensor]:
        outputs = pack.nodes[f"AnimeSketchNet{node}"].execute(*inputs[node](image)).args
        return [output for output in outputs if isinstance(output, torch.Tensor)]

    return show


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (7, 301), (301, 7), (64, 65)])
@pytest.mark.parametrize("node", TAKES_PICTURES)
def test_pictures_of_odd_sizes_are_shown(shown, node, size):
    for channels in (1, 3, 4):
        made = shown(node, torch.rand(2, *size, channels))
        assert made
        for picture in made:
            assert picture.isfinite().all()
            assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("node", TAKES_PICTURES)
def test_pictures_that_hold_no_numbers_are_refused(shown, node, value):
    image = torch.rand(2, 16, 16, 3)
    image[1, 3, 3, 1] = value
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        shown(node, image)


@pytest.mark.parametrize("size", [(1, 1), (1, 16), (16, 1), (3, 5), (2, 33), (17, 9)])
def test_latents_and_masks_of_odd_sizes_are_drawn(mini, apply, sample, size):
    without, sketched = sample(mini.model, size=size), sample(apply(), size=size)
    masked = sample(apply(mask=torch.rand(1, 5, 3)), size=size)
    for latents in (without, sketched, masked):
        assert latents.shape == (1, 4, *size)
        assert latents.isfinite().all()
    assert not torch.equal(without, sketched)
    white = sample(apply(mask=torch.ones(1, 5, 3)), size=size)
    torch.testing.assert_close(white, sketched, rtol=0, atol=1e-3)


@pytest.fixture
def by_latents(pack: SimpleNamespace, mini: SimpleNamespace, apply: Any) -> Any:
    """What takes latents, by node; each gives its first picture."""

    def attention(latents: torch.Tensor) -> torch.Tensor:
        execute = pack.nodes["AnimeSketchNetAttentionMap"].execute
        samples = {"samples": latents}
        return execute(apply(), mini.positive, samples, mini.vae, 0.5, 1).args[0]

    def sweep(latents: torch.Tensor) -> torch.Tensor:
        execute = pack.nodes["AnimeSketchNetAlphaSweep"].execute
        return execute(
            mini.model, mini.sketch, mini.positive, mini.negative, {"samples": latents},
            mini.vae, "0, 1", 1, 2, 3.0, "ddim", "ddim_uniform",
        ).args[0]  # fmt: skip

    return {"AttentionMap": attention, "AlphaSweep": sweep}


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 33)])
@pytest.mark.parametrize("node", ["AttentionMap", "AlphaSweep"])
def test_nodes_that_take_latents_take_odd_ones(by_latents, node, size):
    picture = by_latents[node](torch.zeros(1, 4, *size))
    assert picture.isfinite().all()
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_map_of_latents_that_hold_no_numbers_is_refused(by_latents, value):
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        by_latents["AttentionMap"](torch.full((1, 4, 16, 16), value))


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_masks_that_hold_no_numbers_are_refused(pack, mini, apply, value):
    mask = torch.ones(1, 8, 8)
    mask[0, 2, 2] = value
    with pytest.raises(ValueError, match="input mask needs finite values"):
        apply(mask=mask)
    execute = pack.nodes["AnimeSketchNetAttentionMap"].execute
    samples = {"samples": torch.zeros(1, 4, 16, 16)}
    with pytest.raises(ValueError, match=r"input region is .* or holds NaN"):
        execute(apply(), mini.positive, samples, mini.vae, 0.5, 1, mask)
