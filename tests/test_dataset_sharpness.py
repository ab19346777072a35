from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from training.dataset.demo_film.scenes import Figure, art, grained, scene, smeared
from training.dataset.images import to_grey
from training.dataset.quality.sharpness import edge_widths, effective_share, shrink

BACKGROUNDS = ("club", "lecturehall", "meadow", "uni")
KERNELS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
NATIVE = {
    **{name: art(name) for name in (*BACKGROUNDS, "concert1", "concert2")},
    "figure": scene("club", (0, 0, 1280), Figure("blue_smile", 500, 20, 700)),
    "alone": scene("white", (0, 0, 1280), Figure("green_giggle", 400, 20, 700)),
}


def grey(picture):
    return to_grey(np.array(picture.convert("RGB")))


def enlarged(picture, factor, kernel):
    size = round(picture.width / factor), round(picture.height / factor)
    return picture.resize(size, Image.Resampling.LANCZOS).resize(picture.size, kernel)


@pytest.mark.parametrize("name", NATIVE)
def test_art_at_its_own_size_is_no_enlargement(name):
    assert effective_share(grey(NATIVE[name])) > 0.68
    widths = edge_widths(grey(NATIVE[name]))
    assert widths.width is not None
    assert widths.width < 1.7
    assert widths.ratio is not None
    assert widths.ratio < 1.8


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("name", [*BACKGROUNDS, "figure", "alone"])
def test_effective_share_is_near_one_by_the_factor(name, kernel):
    # Half and a quarter, less what the art itself lacks, and more for what a kernel leaves over.
    assert 0.33 < effective_share(grey(enlarged(NATIVE[name], 2, kernel))) < 0.62
    assert 0.17 < effective_share(grey(enlarged(NATIVE[name], 4, kernel))) < 0.36


def test_2160_lines_made_of_1080_are_told_from_real_ones():
    one, other = art("concert1"), art("concert2")
    wide = Image.new("RGB", (4800, 3060))
    for number, picture in enumerate((one, other, other, one)):
        wide.paste(picture, (number % 2 * 2400, number // 2 * 1530))
    real = wide.crop((480, 450, 480 + 3840, 450 + 2160))
    assert 2160 * effective_share(grey(real)) > 1700
    for kernel in KERNELS:
        assert 900 < 2160 * effective_share(grey(enlarged(real, 2, kernel))) < 1300


def test_thin_lines_on_large_flat_areas_are_sharp():
    big = Image.new("L", (4 * 1280, 4 * 720), 255)
    draw = ImageDraw.Draw(big)
    for number in range(6):
        draw.line((300, 300 + 400 * number, 4800, 200 + 450 * number), fill=20, width=8)
    page = big.reduce(4)  # lines of two pixels, anti-aliased, on 99 % white
    assert effective_share(np.array(page)) > 0.6
    assert effective_share(np.array(enlarged(page, 3, Image.Resampling.BICUBIC))) < 0.42


def test_grain_over_an_enlarged_picture_is_no_detail():
    picture = enlarged(NATIVE["figure"], 4, Image.Resampling.LANCZOS)
    clean = effective_share(grey(picture))
    for strength in (2.0, 5.0):
        assert abs(effective_share(grey(grained(picture, 1, strength))) - clean) < 0.05


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_picture_without_edges_has_no_figures(shade):
    flat = np.full((200, 300), shade, np.uint8)
    assert effective_share(flat) is None
    assert edge_widths(flat).width is None
    assert edge_widths(flat).count == 0


def test_a_picture_smaller_than_a_tile_has_no_share():
    assert effective_share(grey(art("club"))[:63]) is None


@pytest.mark.parametrize("pixels", [1, 4, 10])
def test_width_of_a_ramp_is_its_length(pixels):
    row = np.clip((np.arange(60) - 30) / pixels, 0, 1) * 120 + 60
    widths = edge_widths(np.tile(row.round().astype(np.uint8), (60, 1)))
    assert widths.width == pytest.approx(pixels)
    assert widths.ratio is None  # there are edges in one direction only
    assert widths.count == 60


def test_width_of_a_blurred_step_follows_from_the_gaussian():
    sigma, x = 3.0, np.arange(-40, 41)
    row = np.cumsum(np.exp(-(x**2) / (2 * sigma**2)))
    row = (row / row[-1] * 200 + 20).round().astype(np.uint8)
    # Height by steepest slope: sigma sqrt(2 pi), less the tails, which are too flat.
    width = edge_widths(np.tile(row, (60, 1))).width
    assert width == pytest.approx(sigma * np.sqrt(2 * np.pi), rel=0.06)


def test_widths_grow_with_blur():
    picture = NATIVE["figure"]
    blurred = [picture.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 2, 4, 6)]
    widths = [edge_widths(grey(one)).width for one in blurred]
    assert widths == sorted(widths)
    assert widths[2] > 3.6
    assert widths[4] > 3 * widths[2]


def test_widths_are_comparable_between_sizes():
    large = art("concert1").filter(ImageFilter.GaussianBlur(6))
    small = large.resize((large.width // 2, large.height // 2), Image.Resampling.BOX)
    assert edge_widths(grey(small)).width == pytest.approx(edge_widths(grey(large)).width, rel=0.1)


@pytest.mark.parametrize("length", [7, 15, 40])
def test_motion_widens_edges_in_one_direction(length):
    for name in ("figure", "meadow", "concert2"):
        picture = NATIVE[name].resize((1280, 720), Image.Resampling.BOX)
        upright = smeared(picture.transpose(Image.Transpose.ROTATE_90), length)
        for moved in (smeared(picture, length), upright):
            assert edge_widths(grey(moved)).ratio > 2
    assert edge_widths(grey(picture.filter(ImageFilter.GaussianBlur(3)))).ratio < 1.8


def test_shrink_only_makes_smaller():
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert shrink(picture, 5) is picture
    assert shrink(picture, 2).shape == (2, 3, 3)
    assert shrink(np.array([[0, 100], [200, 60]], np.uint8), 1).item() == 90
