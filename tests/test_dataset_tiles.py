from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import training.dataset
from animesketchnet_core.anime2sketch import Anime2Sketch
from animesketchnet_core.anime2sketch_strips import sketch_strips
from training.dataset.sketching.tiles import SeamError, Tiling, blend_tiles, seam_error, seam_metric

ART = Path(training.dataset.__file__).parent / "demo_film" / "art"
SMALL = Tiling(tile=64, overlap=32, margin=4, multiple=16)


def scene(height: int, width: int) -> Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_bytes(drawing: Tensor) -> np.ndarray:
    return drawing.mul(255).round().byte().numpy()


def drawn(network, picture: Tensor, tiling: Tiling) -> Tensor:
    return torch.cat(list(blend_tiles(network, picture, tiling)))


def red(tile: Tensor) -> Tensor:
    return tile[..., 0].float() / 255


def test_where_tiles_begin() -> None:
    tiling = Tiling()
    assert tiling.origins(1024) == [0]
    assert tiling.origins(1025) == [0, 256]  # 1280: the last tile is moved back
    assert tiling.origins(2160) == [0, 768, 1280]
    assert tiling.origins(10240) == [*range(0, 9216, 768), 9216]
    assert tiling.origins(3) == [0]
    assert tiling.seams(1100) == [288, 992]
    assert tiling.seams(980) == []


@pytest.mark.parametrize("length", [1, 64, 65, 200, 333])
def test_the_weights_of_all_tiles_add_up_to_one(length: int) -> None:
    total = torch.zeros(SMALL.origins(length)[-1] + 64)
    for origin, weight in zip(SMALL.origins(length), SMALL.weights(length), strict=True):
        total[origin : origin + 64] += weight
    torch.testing.assert_close(total, torch.ones_like(total))


def test_weights_are_gaussian_and_margins_have_none() -> None:
    first, second = SMALL.weights(96)  # at 0 and 32
    assert not second[:4].any()
    assert not first[60:].any()
    assert (first[:32] == 1).all()  # alone there
    a, b = np.exp(-(((40.5 - 32) / 8) ** 2) / 2), np.exp(-(((8.5 - 32) / 8) ** 2) / 2)
    assert first[40].item() == pytest.approx(a / (a + b))
    wide = Tiling(tile=64, overlap=32, margin=4, multiple=16, sigma=1e6).weights(96)
    assert wide[0][40].item() == pytest.approx(0.5)


@pytest.mark.parametrize("size", [(64, 64), (65, 200), (131, 97), (3, 5), (1, 300)])
@pytest.mark.parametrize("overlap", [0, 16, 32])
def test_a_network_that_looks_at_single_pixels_is_given_back_exactly(
    size: tuple[int, int], overlap: int
) -> None:
    picture = scene(*size)
    tiling = Tiling(tile=64, overlap=overlap, margin=min(4, overlap // 2), multiple=16)
    drawing = drawn(red, picture, tiling)
    assert drawing.dtype == torch.float32
    torch.testing.assert_close(drawing, picture[..., 0].float() / 255, atol=3e-7, rtol=0)
    assert np.array_equal(as_bytes(drawing), picture[..., 0].numpy())


def test_a_network_that_looks_no_further_than_the_margin_shows_no_seam() -> None:
    """Its padding spoils 3 pixels of each tile, and 4 are dropped."""
    picture = scene(150, 170)

    def blur(tile: Tensor) -> Tensor:
        x = red(tile)[None, None]
        return F.conv2d(x, torch.full((1, 1, 7, 7), 1 / 49), padding=3)[0, 0]

    whole = F.pad(red(picture)[None, None], (0, 6, 0, 10), mode="reflect")[0, 0]
    whole = F.conv2d(whole[None, None], torch.full((1, 1, 7, 7), 1 / 49), padding=3)
    torch.testing.assert_close(drawn(blur, picture, SMALL), whole[0, 0, :150, :170])
    careless = Tiling(tile=64, overlap=32, margin=0, multiple=16)
    assert (drawn(blur, picture, careless) - whole[0, 0, :150, :170]).abs().max() > 1e-5


def test_tiles_get_mirrored_pictures_and_multiples() -> None:
    picture = scene(100, 70)
    seen = []
    drawn(lambda tile: seen.append(tile) or red(tile), picture, SMALL)
    assert len(seen) == 6  # rows at 0, 32 and 48, columns at 0 and 16
    rows = [*range(48, 100), *range(98, 86, -1)]
    columns = [*range(16, 70), *range(68, 58, -1)]
    assert torch.equal(seen[-1], picture[rows][:, columns])


def test_a_band_of_tiles_is_all_that_is_kept() -> None:
    """Rows come out as soon as no later tile reaches them."""
    calls = 0

    def network(tile: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return red(tile)

    heights = []
    for rows in blend_tiles(network, scene(64 + 3 * 32, 64), SMALL):
        heights.append((calls, len(rows)))
    assert heights == [(1, 32), (2, 32), (3, 32), (4, 64)]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"tile": 1000}, "tile is 1000; expected a multiple of 256"),
        ({"overlap": 100}, "overlap is 100; expected a multiple of 256 below the tile, 1024"),
        ({"overlap": 1024}, "overlap is 1024"),
        ({"margin": 200}, "margin is 200; expected 0 to half the overlap, 128"),
        ({"overlap": 0}, "margin is 32; expected 0 to half the overlap, 0"),
    ],
)
def test_tiles_that_leave_gaps_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiling(**numbers)


def test_the_error_is_that_of_the_levels() -> None:
    exact = np.zeros((10, 10), np.uint8)
    exact[:, 5:] = 200
    tiled = exact.copy()
    tiled[0, 0], tiled[9, 9] = 10, 196
    error = seam_error(exact, tiled)
    assert error.mean == pytest.approx((10 + 4) / 100)
    assert error.largest == 10
    assert error.p99 == 4
    assert error.in_deviations == pytest.approx(np.sqrt((100 + 16) / 100) / 100)
    assert seam_error(exact, exact) == SeamError(0, 0, 0, 0)


def test_seams_stand_out_where_they_were_planted() -> None:
    tiling = Tiling(tile=64, overlap=0, margin=0, multiple=16)
    art = Image.open(ART / "uni.jpg").convert("L").crop((0, 0, 640, 400))
    drawing = np.array(art)
    assert seam_metric(drawing, tiling) == pytest.approx(1, abs=0.1)
    seamed = drawing.astype(int)
    seamed[:, 64:128] += 6
    seamed[64:128] += 6
    assert seam_metric(seamed.clip(0, 255).astype(np.uint8), tiling) > 1.1
    elsewhere = drawing.astype(int)
    elsewhere[:, 90:160] += 6
    assert seam_metric(elsewhere.clip(0, 255).astype(np.uint8), tiling) < 1.1
    assert seam_metric(drawing[:50, :50], tiling) == 1  # one tile has no seams


def test_tiles_of_a_network_with_instance_norms_are_only_an_approximation() -> None:
    """What the exact mode is there for; a larger overlap does not mend it."""
    torch.manual_seed(0)
    net = Anime2Sketch(base_width=4).requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(0, 0.15)
    picture = torch.from_numpy(np.array(Image.open(ART / "club.jpg").convert("RGB"))[:512, :768])

    def network(tile: Tensor) -> Tensor:
        return torch.cat(list(sketch_strips(net, tile, memory=1 << 40, device=tile.device)))

    exact = as_bytes(network(picture))
    whole = Tiling(tile=768, overlap=0, margin=0)
    one = seam_error(exact, as_bytes(drawn(network, picture[:512], whole)))
    tiled = seam_error(exact, as_bytes(drawn(network, picture, Tiling(512, 256))))
    print(f"one tile, mirrored to 768 rows: {one}; tiles: {tiled}")  # noqa: T201
    assert 0.05 < tiled.in_deviations < 1
    single = drawn(network, picture[:, :512], Tiling(512, 256))
    assert np.array_equal(as_bytes(single), as_bytes(network(picture[:, :512])))
