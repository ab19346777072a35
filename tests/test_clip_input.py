import numpy as np
import pytest
import torch

from animesketchnet_core.clip_input import (
    cut_into_tiles,
    fit_sketch,
    pixel_values,
    unconditional_pixel_values,
)

SIZE = 28


def framed(height: int, width: int) -> torch.Tensor:
    """White paper with a black frame along the very edge, wide enough to survive the shrinking."""
    image = torch.ones(1, height, width, 3)
    border = max(height, width) // 7
    image[:, :border] = image[:, -border:] = 0
    image[:, :, :border] = image[:, :, -border:] = 0
    return image


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (98, 49, slice(0, 28), slice(7, 21)),
        (49, 98, slice(7, 21), slice(0, 28)),
        (70, 70, slice(0, 28), slice(0, 28)),
        (14, 7, slice(0, 28), slice(7, 21)),  # smaller than the square: enlarged
    ],
)
def test_no_part_of_the_sketch_is_cut_and_the_rest_is_white(height, width, rows, columns):
    fitted = fit_sketch(framed(height, width), SIZE)[0, :, :, 0]
    inside = fitted[rows, columns]
    for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        assert edge.max() < 0.2
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[rows, columns] = False
    assert (fitted[outside] == 1).all()


def test_transparency_becomes_white_paper():
    image = torch.zeros(1, 5, 5, 4)
    image[..., 3] = torch.tensor([0.0, 0.0, 0.4, 1.0, 1.0])
    fitted = fit_sketch(image, 5)
    expected = torch.tensor([1.0, 1.0, 0.6, 0.0, 0.0]).view(1, 1, 5, 1).expand(1, 5, 5, 3)
    torch.testing.assert_close(fitted, expected, atol=0.5 / 255, rtol=0)


def test_grey_becomes_rgb():
    grey = torch.rand(3, 17, 11, 1)
    assert torch.equal(fit_sketch(grey, SIZE), fit_sketch(grey.expand(-1, -1, -1, 3), SIZE))


def test_a_batch_is_fitted_picture_by_picture():
    images = torch.rand(3, 19, 31, 3)
    assert torch.equal(fit_sketch(images, SIZE)[1:2], fit_sketch(images[1:2], SIZE))


def test_values_are_8_bit_and_fitting_again_changes_nothing():
    fitted = fit_sketch(torch.rand(2, 61, 43, 3), SIZE)
    levels = fitted * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert fitted.min() >= 0
    assert fitted.max() <= 1
    assert torch.equal(fit_sketch(fitted, SIZE), fitted)


def test_comfyui_preparation_finds_nothing_left_to_do():
    """ComfyUI rounds a picture of CLIP's own size to 8 bits before it normalises it."""
    every_level = torch.arange(256) / 255
    image = every_level.view(1, 16, 16, 1).expand(1, 16, 16, 3)
    fitted = fit_sketch(image, 16)
    again = torch.clip(255.0 * fitted, 0, 255).round() / 255.0
    assert torch.equal(again, fitted)
    assert torch.equal(fitted, image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 5000)])
def test_thin_pictures_stay_in_sight(shape):
    fitted = fit_sketch(torch.zeros(1, *shape, 3), SIZE)
    assert fitted.shape == (1, SIZE, SIZE, 3)
    assert (fitted == 0).any()


def test_values_outside_the_range_are_clipped():
    image = torch.tensor([-3.0, 2.0]).view(1, 1, 2, 1).expand(1, 2, 2, 1)
    assert fit_sketch(image, 2)[0, 0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    image = torch.rand(1, 5, 5, 3)
    image[0, 2, 3, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_sketch(image)


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 3, 5, 7), (1, 5, 7, 2), (1, 0, 7, 3)])
def test_other_layouts_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"\[batch, height, width, channels\]") as error:
        fit_sketch(torch.zeros(shape))
    assert str(list(shape)) in str(error.value)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="divide 8-bit values by 255"):
        fit_sketch(torch.zeros(1, 5, 5, 3, dtype=torch.uint8))


def test_normalisation_by_hand():
    fitted = torch.tensor([1.0, 0.0, 0.5]).expand(1, 3, 5, 3)
    values = pixel_values(fitted)
    assert values.shape == (1, 3, 3, 5)
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258]
    expected.append((0.5 - 0.40821073) / 0.27577711)
    np.testing.assert_allclose(values[0, :, 1, 2], expected, rtol=1e-5)


def test_the_unconditional_is_zero_after_normalisation_not_black():
    unconditional = unconditional_pixel_values(SIZE)
    assert unconditional.shape == (1, 3, SIZE, SIZE)
    assert (unconditional == 0).all()
    assert (pixel_values(torch.zeros(1, SIZE, SIZE, 3)) < -1).all()


def test_tiles_cover_the_sketch_once():
    image = torch.rand(2, 37, 90, 3)
    tiles = cut_into_tiles(image, 2)
    assert len(tiles) == 2 * 5
    rows = [torch.cat(tiles[start : start + 5], dim=2) for start in (0, 5)]
    assert torch.equal(torch.cat(rows, dim=1), image)
    assert all(0.5 < tile.shape[1] / tile.shape[2] < 2 for tile in tiles)


def test_more_tiles_than_pixels_are_an_error():
    with pytest.raises(ValueError, match=r"300 x 3 pixels, cannot be cut into 4 tiles"):
        cut_into_tiles(torch.rand(1, 3, 300, 1), 4)
