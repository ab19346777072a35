import itertools
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from animesketchnet_core import anime2sketch_strips
from animesketchnet_core.anime2sketch import Anime2Sketch, draw_with, seen_size
from animesketchnet_core.anime2sketch_file import (
    WrongSketcherError,
    check_anime2sketch,
    original_keys,
    read_anime2sketch,
)
from animesketchnet_core.anime2sketch_strips import memory_needed, sketch_strips, streamed_levels

CPU = torch.device("cpu")
EVERYTHING = 1 << 60  # bytes: nothing is streamed


def weights(base_width: int = 4) -> dict[str, Tensor]:
    """Random weights in netG.pth's layout; large ones, so that the drawing has contrast."""
    torch.manual_seed(0)
    shapes = {name: p.shape for name, p in Anime2Sketch(base_width=base_width).named_parameters()}
    return {key: torch.randn(shapes[name]) * 0.15 for name, key in original_keys().items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "netG.pth"
    torch.save(weights(), path)
    return path


@pytest.fixture(scope="module")
def net(file: Path) -> Anime2Sketch:
    return read_anime2sketch(file)


def scene(height: int, width: int, channels: int = 3) -> Tensor:
    """A picture [h, w, c] with areas, edges and grain."""
    torch.manual_seed(1)
    coarse = torch.rand(1, channels, 7, 5)
    areas = F.interpolate(coarse, (height, width), mode="nearest")
    return (areas + 0.05 * torch.randn(1, channels, height, width)).clamp(0, 1)[0].movedim(0, -1)


def as_published(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The pix2pix U-Net as Anime2Sketch's model.py nests it, straight from the keys."""

    def conv(x: Tensor, key: str) -> Tensor:
        return F.conv2d(x, tensors[f"{key}.weight"], tensors[f"{key}.bias"], 2, 1)

    def deconv(x: Tensor, key: str) -> Tensor:
        return F.conv_transpose2d(x, tensors[f"{key}.weight"], tensors[f"{key}.bias"], 2, 1)

    def block(x: Tensor, prefix: str, depth: int) -> Tensor:
        """Level `depth` of 1 to 7, its skip connection joined."""
        y = conv(F.leaky_relu(x, 0.2), f"{prefix}.model.1")
        if depth == 7:
            y = deconv(F.relu(y), f"{prefix}.model.3")
        else:
            y = block(F.instance_norm(y), f"{prefix}.model.3", depth + 1)
            y = deconv(F.relu(y), f"{prefix}.model.5")
        return torch.cat([x, F.instance_norm(y)], dim=1)

    y = block(conv(pixels, "model.model.0"), "model.model.1", 1)
    return torch.tanh(deconv(F.relu(y), "model.model.3"))


def strips(net: Anime2Sketch, picture: Tensor, memory: int = EVERYTHING) -> Tensor:
    return torch.cat(list(sketch_strips(net, picture, memory=memory, device=CPU)))


def test_the_keys_are_those_of_netg() -> None:
    """Printed by the published model.py (32 tensors; the ends of the nesting are special)."""
    keys = original_keys()
    assert len(keys) == 32
    assert keys["down.0.weight"] == "model.model.0.weight"
    assert keys["up.0.bias"] == "model.model.3.bias"
    assert keys["down.1.weight"] == "model.model.1.model.1.weight"
    assert keys["up.1.weight"] == "model.model.1.model.5.weight"
    assert keys["up.2.weight"] == "model.model.1.model.3.model.5.weight"
    assert keys["down.7.weight"] == "model.model.1" + 6 * ".model.3" + ".model.1.weight"
    assert keys["up.7.weight"] == "model.model.1" + 6 * ".model.3" + ".model.3.weight"


def test_the_published_sizes() -> None:
    net = Anime2Sketch(device="meta")
    assert sum(p.numel() for p in net.parameters()) == 54_405_505
    assert net.down[0].weight.shape == (64, 3, 4, 4)
    assert net.up[1].weight.shape == (256, 64, 4, 4)
    assert net.up[7].weight.shape == (512, 512, 4, 4)
    assert net.up[0].weight.shape == (128, 1, 4, 4)


def test_it_draws_what_the_published_net_draws(net: Anime2Sketch) -> None:
    picture = scene(512, 256)
    expected = as_published(weights(), picture.movedim(-1, 0)[None] * 2 - 1)
    drawing = strips(net, picture) * 2 - 1
    assert expected.std() > 0.1  # the test tests something
    torch.testing.assert_close(drawing, expected[0, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1023, 517), (512, 512)])
@pytest.mark.parametrize("streamed", [1, 2, 3])
def test_strips_give_the_whole_pictures_drawing(
    net: Anime2Sketch, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], streamed: int
) -> None:
    picture = scene(*size)
    whole = strips(net, picture)
    monkeypatch.setattr(anime2sketch_strips, "_strip_rows", lambda width: 96)
    monkeypatch.setattr(anime2sketch_strips, "streamed_levels", lambda *sizes: streamed)
    difference = (strips(net, picture) - whole).abs().max()
    print(f"{size}, {streamed} levels streamed: largest difference {difference:.1e}")  # noqa: T201
    assert difference < 1e-5
    assert whole.std() > 0.05


def test_a_strips_own_statistics_would_be_seen(
    net: Anime2Sketch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: without the whole picture's norm, strips differ."""
    picture = scene(512, 256)
    whole = strips(net, picture)

    class OwnNorm:
        apply = staticmethod(anime2sketch_strips._instance_norm)

    monkeypatch.setattr(anime2sketch_strips, "_strip_rows", lambda width: 96)
    monkeypatch.setattr(anime2sketch_strips, "streamed_levels", lambda *sizes: 1)
    monkeypatch.setattr(anime2sketch_strips._Statistics, "norm", lambda *args: OwnNorm())
    assert (strips(net, picture) - whole).abs().max() > 0.01


def test_levels_are_streamed_until_the_memory_is_kept() -> None:
    needed = [memory_needed(10240, 10240, n) for n in range(4)]
    assert needed[0] == 384 * 10240**2 + 1000 * 10240 * 64
    assert [streamed_levels(10240, 10240, memory) for memory in needed] == [0, 1, 2, 3]
    assert [streamed_levels(10240, 10240, memory - 1) for memory in needed] == [1, 2, 3, 3]


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors that were made while it was on and were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for tensor in results if isinstance(results, tuple) else (results,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.storages:
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.storages.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.storages.values()))
        return results


@pytest.mark.parametrize("streamed", [0, 1, 3])
def test_the_memory_is_what_was_said(monkeypatch: pytest.MonkeyPatch, streamed: int) -> None:
    """Of tensors; what convolutions take beside them is on top, so the bound leaves room."""
    net = Anime2Sketch(device="meta").to_empty(device="cpu").requires_grad_(False)  # full width
    for parameter in net.parameters():
        parameter.zero_()
    picture = scene(512, 256)
    monkeypatch.setattr(anime2sketch_strips, "_strip_rows", lambda width: 32)
    monkeypatch.setattr(anime2sketch_strips, "streamed_levels", lambda *sizes: streamed)
    with LiveBytes() as live:
        strips(net, picture)
    needed = memory_needed(512, 256, streamed)
    print(f"{streamed} levels streamed: {live.most / 1e6:.1f} of {needed / 1e6:.1f} MB")  # noqa: T201
    assert needed / 3 < live.most < 0.7 * needed


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (129, 2)])
def test_any_size_is_served(net: Anime2Sketch, size: tuple[int, int]) -> None:
    drawing = draw_with(net, scene(*size)[None], resolution=256)
    assert drawing.shape == (1, *size, 3)
    assert drawing.dtype == torch.float32
    assert drawing.isfinite().all()
    assert drawing.min() >= 0
    assert drawing.max() <= 1


def test_beyond_its_border_a_picture_is_mirrored(net: Anime2Sketch) -> None:
    picture = scene(200, 131)
    rows = [*range(200), *range(198, 142, -1)]
    columns = [*range(131), *range(129, 4, -1)]
    mirrored = picture[rows][:, columns]
    assert mirrored.shape == (256, 256, 3)
    torch.testing.assert_close(
        strips(net, picture), strips(net, mirrored)[:200, :131], atol=1e-5, rtol=0
    )


def test_grey_and_transparent_pictures_and_batches(net: Anime2Sketch) -> None:
    grey = scene(90, 70, 1)[None]
    rgb = grey.expand(-1, -1, -1, 3)
    opaque = torch.cat([rgb, torch.ones_like(grey)], dim=-1)
    clear = torch.cat([rgb, torch.zeros_like(grey)], dim=-1)
    expected = draw_with(net, rgb, resolution=256)
    torch.testing.assert_close(draw_with(net, grey, resolution=256), expected)
    torch.testing.assert_close(draw_with(net, opaque, resolution=256), expected)
    white = draw_with(net, torch.ones(1, 90, 70, 3), resolution=256)
    torch.testing.assert_close(draw_with(net, clear, resolution=256), white)
    batch = draw_with(net, torch.cat([1 - rgb, rgb]), resolution=256)
    torch.testing.assert_close(batch[1:], expected)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((1080, 1920), None, (1080, 1920)),
        ((1000, 1000), 512, (512, 512)),
        ((1080, 1920), 720, (540, 960)),
        ((100, 100), 2048, (512, 512)),  # enlarged to what it was trained at, not further
        ((600, 600), 2048, (600, 600)),
        ((1, 10_000), 512, (5, 51_200)),  # as many pixels as a square, whatever the shape
    ],
)
def test_the_size_that_it_sees(
    size: tuple[int, int], resolution: int | None, expected: tuple[int, int]
) -> None:
    assert seen_size(*size, resolution) == expected


def test_progress_is_told_and_can_stop_it(
    net: Anime2Sketch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anime2sketch_strips, "_strip_rows", lambda width: 96)
    told = []
    draw_with(net, scene(300, 200)[None], resolution=None, on_progress=lambda *n: told.append(n))
    total = told[0][1]
    assert told == [(done, total) for done in range(1, total + 1)]
    assert total > 4

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        draw_with(net, scene(300, 200)[None], resolution=None, on_progress=stop)


def test_pictures_that_are_not_finite_are_refused(net: Anime2Sketch) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        draw_with(net, torch.full((1, 3, 3, 3), float("nan")))


def test_a_resolution_of_nothing_is_refused(net: Anime2Sketch) -> None:
    with pytest.raises(ValueError, match="resolution must be 1 pixel or more, got 0"):
        draw_with(net, torch.ones(1, 3, 3, 3), resolution=0)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_of_each_kind_are_read(
    tmp_path: Path, prefix: str, kind: str, dtype: torch.dtype
) -> None:
    tensors = {prefix + key: tensor.to(dtype) for key, tensor in weights().items()}
    path = tmp_path / "any name"
    torch.save(tensors, path) if kind == "pickle" else save_file(tensors, path)
    net = read_anime2sketch(path)
    for name, key in original_keys().items():
        parameter = net.get_parameter(name)
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, tensors[prefix + key].float())
    assert not any(p.requires_grad for p in net.parameters())


def wrong_files() -> dict[str, tuple[dict[str, Tensor], str]]:
    good = weights()
    short = dict(itertools.islice(good.items(), 30))
    improved = {**good, "model.model.1.model.5.smooth.kernel": torch.ones(1, 1, 3, 3)}
    other = {"conv.weight": torch.ones(3, 3), "conv.bias": torch.ones(3)}
    key = original_keys()["up.3.weight"]
    return {
        "short": (short, r"2 of its tensors missing \(model.model.1"),
        "extra": ({**good, "head.weight": torch.ones(1)}, r"1 others \(head.weight\)"),
        "improved": (improved, "Anime2Sketch's `improved` generator"),
        "other": (other, r"a file of 2 tensors \(conv.weight, conv.bias\)"),
        "shape": (
            {**good, key: torch.ones(2, 2)},
            rf"{key} is \[2, 2\] instead of \[64, 16, 4, 4\]",
        ),
        "empty": ({}, "a file of 0 tensors"),
        "huge": ({**good, "model.model.0.weight": torch.ones(1).expand(9**12, 3, 4, 4)}, "another"),
        "flat": ({**good, "model.model.0.weight": torch.ones(())}, "of another shape"),
    }


@pytest.mark.parametrize("name", list(wrong_files()))
def test_other_files_are_refused_and_named(tmp_path: Path, name: str) -> None:
    tensors, message = wrong_files()[name]
    path = tmp_path / "netG.pth"
    torch.save(tensors, path)
    with pytest.raises(WrongSketcherError, match=message) as caught:
        check_anime2sketch(path)
    assert "needed is the `default` generator of Anime2Sketch" in str(caught.value)
    assert "https://huggingface.co/lllyasviel/Annotators" in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>", b"", b"version https://git-lfs"])
def test_what_is_no_weight_file_is_refused_with_the_right_address(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "netG.pth"
    path.write_bytes(content)
    with pytest.raises(WrongSketcherError, match="not a weight file") as caught:
        read_anime2sketch(path)
    assert "ip-adapter" not in str(caught.value)
    assert "lllyasviel/Annotators" in str(caught.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "netG.pth"
    torch.save({"model.model.0.weight": Path("x")}, path)
    with pytest.raises(WrongSketcherError, match="could run code"):
        read_anime2sketch(path)
