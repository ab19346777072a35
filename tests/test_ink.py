import pytest
import torch

from animesketchnet_core import sketch_extraction
from animesketchnet_core.ink import extract_ink


def with_bar(tone: float, background: float, size: int = 128, width: int = 3) -> torch.Tensor:
    """A vertical bar of one tone on another, [1, size, size, 3]."""
    image = torch.full((1, size, size, 3), background)
    image[:, :, size // 2 - width // 2 : size // 2 + width // 2 + 1] = tone
    return image


def test_a_line_is_inked_dark_on_white():
    drawing = extract_ink(with_bar(0.2, 0.9))
    assert drawing.shape == (1, 128, 128, 3)
    assert drawing.dtype == torch.float32
    assert drawing.min() >= 0
    assert drawing.max() <= 1
    assert drawing[0, :, 63:66].max() < 0.1
    assert drawing[0, :, :58].min() > 0.95
    assert drawing[0, :, 70:].min() > 0.95
    assert torch.equal(drawing[..., 0], drawing[..., 2])


def test_a_dark_area_is_filled_where_lines_would_leave_it_white():
    image = with_bar(0.1, 0.9, width=41)
    image += torch.linspace(0, 0.05, 128)[None, :, None, None]  # no two rows quite alike
    ink, lines = extract_ink(image, detail=1.0), sketch_extraction.extract_lines(image)
    assert ink[0, 20:108, 54:75].mean() < 0.2
    assert lines[0, 20:108, 54:75].min() > 0.9


@pytest.mark.parametrize("dark", [0.33, 0.39])  # 36% is asked for
def test_a_flat_colour_is_ink_as_a_whole_or_not_at_all(dark):
    image = torch.full((1, 100, 100, 3), 0.9)
    image[:, :, : round(100 * dark)] = 0.4
    drawing = extract_ink(image, detail=0.9)
    assert drawing[0, :, : round(100 * dark) - 8].max() < 0.01
    assert drawing[0, :, round(100 * dark) + 8 :].min() > 0.99


@pytest.mark.parametrize("exposure", [0.15, 0.5, 1.0])
def test_a_dark_picture_gets_as_much_ink_as_a_bright_one(exposure):
    """A fixed threshold makes the dark one all black."""
    torch.manual_seed(0)
    tones = torch.rand(1, 3, 12, 12)
    tones = torch.nn.functional.interpolate(tones, (240, 240), mode="bicubic").clamp(0, 1)
    drawing = extract_ink(exposure * tones.movedim(1, -1), detail=0.5)
    inked = (drawing[0, :, :, 0] < 0.999).float().mean()
    assert 0.13 < inked < 0.16  # 15% of it lies below the threshold


def test_more_detail_is_more_ink():
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 9), (90, 90), mode="bicubic")
    image = image.movedim(1, -1)
    ink = [float(1 - extract_ink(image, detail=detail).mean()) for detail in (0, 0.5, 1)]
    assert ink[0] < 0.06
    assert ink[0] + 0.05 < ink[1] < ink[2] - 0.05


def test_line_width_widens_the_lines():
    image = with_bar(0.3, 0.9, size=600, width=3)
    fine, bold = (extract_ink(image, line_width=width) for width in (1.0, 4.0))
    assert (bold[0, 300, :, 0] < 0.5).sum() >= (fine[0, 300, :, 0] < 0.5).sum() + 2


@pytest.mark.parametrize("tone", [0.0, 0.37, 1.0])
def test_flat_areas_of_any_tone_become_white(tone):
    assert extract_ink(torch.full((1, 31, 47, 3), tone)).min() > 0.99


def test_the_grain_of_white_paper_stays_white():
    torch.manual_seed(0)
    paper = (1 - 0.01 * torch.rand(1, 64, 64, 3)).clamp(0, 1)
    assert extract_ink(paper, detail=1.0).min() > 0.99


def test_grey_transparent_and_batches():
    grey = with_bar(0.2, 0.9)[..., :1]
    drawing = extract_ink(grey)
    torch.testing.assert_close(drawing, extract_ink(with_bar(0.2, 0.9)))
    assert extract_ink(torch.zeros(1, 32, 32, 4)).min() > 0.99  # transparent is paper
    batch = extract_ink(torch.cat([1 - grey, grey]))
    assert torch.equal(batch[1:], drawing)


@pytest.mark.parametrize("shape", [(1, 1), (1, 97), (97, 1), (3, 1000), (1023, 517)])
def test_any_size_is_served(shape):
    drawing = extract_ink(torch.rand(1, *shape, 3))
    assert drawing.shape == (1, *shape, 3)
    assert drawing.isfinite().all()


def test_strips_leave_no_seam(monkeypatch):
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 12, 9)
    image = torch.nn.functional.interpolate(coarse, (120, 90), mode="bicubic").movedim(1, -1)
    whole = extract_ink(image)
    monkeypatch.setattr(sketch_extraction, "_STRIP_PIXELS", 90 * 7)
    torch.testing.assert_close(extract_ink(image), whole, atol=2e-3, rtol=0)


@pytest.mark.parametrize("settings", [{"line_width": 0.0}, {"detail": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be from"):
        extract_ink(with_bar(0.2, 0.9), **settings)


def test_pictures_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        extract_ink(torch.full((1, 3, 3, 3), float("nan")))
