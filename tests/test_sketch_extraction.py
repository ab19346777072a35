import pytest
import torch

from animesketchnet_core import sketch_extraction
from animesketchnet_core.ink import extract_ink
from animesketchnet_core.sketch_extraction import extract_lines, lightness, line_normal


def with_line(grey: float = 0.0, size: int = 64, width: int = 3) -> torch.Tensor:
    """White paper with a vertical line in the middle, [1, size, size, 3]."""
    image = torch.ones(1, size, size, 3)
    middle = size // 2
    image[:, :, middle - width // 2 : middle + width // 2 + 1] = grey
    return image


def test_a_line_is_drawn_dark_on_white():
    drawing = extract_lines(with_line())
    assert drawing.shape == (1, 64, 64, 3)
    assert drawing.dtype == torch.float32
    assert drawing.min() >= 0
    assert drawing.max() <= 1
    assert drawing[0, :, 31:34].max() < 0.2
    assert drawing[0, :, :24].min() > 0.95
    assert drawing[0, :, 40:].min() > 0.95
    assert torch.equal(drawing[..., 0], drawing[..., 2])


def test_the_border_between_two_tones_becomes_a_line_on_its_dark_side():
    image = torch.full((1, 64, 64, 3), 0.9)
    image[:, :, 32:] = 0.3
    drawing = extract_lines(image)[0, :, :, 0]
    assert drawing[:, 32].max() < 0.1
    assert drawing[:, :31].min() > 0.95
    assert drawing[:, 38:].min() > 0.95


@pytest.mark.parametrize("tone", [0.0, 0.37, 1.0])
def test_flat_areas_of_any_tone_become_white(tone):
    drawing = extract_lines(torch.full((1, 31, 47, 3), tone))
    assert drawing.min() > 0.99


def test_more_detail_draws_fainter_lines():
    faint = with_line(grey=0.8)
    ink = [1 - extract_lines(faint, detail=detail).min() for detail in (0, 0.5, 1)]
    assert ink[0] < 0.02
    assert ink[0] < ink[1] < ink[2]
    assert ink[2] > 0.5


def test_line_width_widens_the_stroke():
    image = torch.full((1, 400, 400, 3), 0.9)
    image[:, :, 200:] = 0.3
    thin, bold = (
        (extract_lines(image, line_width=width)[0, 200, :, 0] < 0.5).sum() for width in (1, 4)
    )
    assert bold >= thin + 1


def test_grain_is_smoothed_away_but_the_line_stays():
    torch.manual_seed(0)
    noisy = (with_line(size=96) + 0.01 * torch.randn(1, 96, 96, 3)).clamp(0, 1)
    drawing = extract_lines(noisy, detail=0.25)[0, :, :, 0]
    assert drawing[:, 47:50].max() < 0.3
    assert drawing[:, :36].min() > 0.9


def test_a_dashed_line_is_joined_along_the_flow(monkeypatch):
    monkeypatch.setattr(sketch_extraction, "_SHORT_SIDE", 64)  # so that sigma_m is 3 pixels
    image = with_line(size=64)
    image[:, 30:33] = 1.0  # a gap as long as the line is wide
    assert extract_lines(image)[0, 30:33, 32].max() < 0.1
    monkeypatch.setattr(sketch_extraction, "_smooth_along", lambda difference, *_: difference)
    assert extract_lines(image)[0, 30:33, 32].max() > 0.9


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 120, 150])
def test_the_normal_points_across_the_line(degrees):
    direction = torch.tensor(degrees).deg2rad()
    across = torch.stack([direction.cos(), direction.sin()])  # (x, y)
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    distance = (x - 16) * across[0] + (y - 16) * across[1]
    ramp = torch.sigmoid(distance)[None, None]
    normal = line_normal(ramp, sigma_c=2.0)[0, 16, 16]
    assert abs(normal @ across) > 0.999


def test_transparency_is_white_paper():
    image = torch.zeros(1, 32, 32, 4)
    assert extract_lines(image).min() > 0.99


def test_grey_and_rgb_give_the_same_drawing():
    grey = with_line()[..., :1]
    torch.testing.assert_close(extract_lines(grey), extract_lines(with_line()))


def test_a_batch_is_drawn_picture_by_picture():
    batch = torch.cat([with_line(0.0), with_line(0.5)])
    drawings = extract_lines(batch)
    assert torch.equal(drawings[1:], extract_lines(with_line(0.5)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 97), (97, 1), (2, 3)])
def test_tiny_pictures_are_served(shape):
    drawing = extract_lines(torch.rand(1, *shape, 3))
    assert drawing.shape == (1, *shape, 3)
    assert drawing.isfinite().all()


def test_strips_leave_no_seam(monkeypatch):
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 12, 9)
    image = torch.nn.functional.interpolate(coarse, (120, 90), mode="bicubic").movedim(1, -1)
    whole = extract_lines(image)
    monkeypatch.setattr(sketch_extraction, "_STRIP_PIXELS", 90 * 7)
    torch.testing.assert_close(extract_lines(image), whole, atol=2e-3, rtol=0)


def test_large_pictures_are_worked_on_smaller_and_drawn_at_full_size(monkeypatch):
    monkeypatch.setattr(sketch_extraction, "_SHORT_SIDE", 64)
    drawing = extract_lines(with_line(size=131, width=7))[0, :, :, 0]  # worked on at half size
    assert drawing.shape == (131, 131)
    assert drawing[:, 64:67].max() < 0.2
    assert drawing[:, :45].min() > 0.95


def test_lightness_by_hand():
    """CIE L* of white, black, and sRGB mid grey (119/255, where L* is very nearly 50)."""
    picture = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [119 / 255] * 3])
    expected = torch.tensor([1.0, 0.0, 0.5003])
    torch.testing.assert_close(lightness(picture), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "settings", [{"line_width": 0.0}, {"detail": 1.5}, {"detail": float("nan")}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be from"):
        extract_lines(with_line(), **settings)


def test_pictures_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        extract_lines(torch.full((1, 3, 3, 3), float("nan")))


@pytest.mark.parametrize("extract", [extract_lines, extract_ink])
def test_progress_is_told_strip_by_strip_and_may_stop_the_work(extract):
    image = torch.rand(1, 700, 600, 3)
    told = []
    extract(image, on_progress=lambda *progress: told.append(progress))
    assert told == [(done, len(told)) for done in range(1, len(told) + 1)]
    assert len(told) > 1

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        extract(image, on_progress=stop)
