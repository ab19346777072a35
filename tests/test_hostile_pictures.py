"""Broken and hostile pictures: our own error that names the file, or the right pixels.

Each failure names the seed that made its file; ``damaged(content, seed)`` makes it again.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from animesketchnet_core.clip_input import cut_into_tiles, fit_sketch
from animesketchnet_core.ink import extract_ink
from animesketchnet_core.sketch_cleaning import clean_sketch
from animesketchnet_core.sketch_extraction import extract_lines
from animesketchnet_core.sketch_likeness import ink_map, sketch_likeness
from tests.dataset_work import open_work
from tests.hostile import damaged, memory_within, no_new_file, only
from training.dataset import ingest
from training.dataset.images import PictureError, read_pixels
from training.sources import DataError, Pictures


def drawing(mode: str = "RGB") -> Image.Image:
    """A picture of 23 x 17 with lines and noise, so that all of a format's ways are used."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    pixels[:, 5:14] = 255
    pixels[8] = 0
    return Image.fromarray(pixels).convert(mode)


def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


@cache
def forms() -> dict[str, bytes]:
    """A file of each kind, by the name that its extension comes from."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [drawing().rotate(turn) for turn in (0, 90, 180)]
    palette = drawing("P")
    return {
        "grey.png": saved(drawing("L"), "PNG"),
        "alpha.png": saved(drawing("RGBA"), "PNG"),
        "palette.png": saved(palette, "PNG", transparency=bytes(range(256))),
        "deep.png": saved(Image.fromarray(np.arange(391, dtype=np.uint16).reshape(17, 23)), "PNG"),
        "animated.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "a.jpg": saved(drawing(), "JPEG", exif=exif),
        "progressive.jpg": saved(drawing(), "JPEG", progressive=True),
        "cmyk.jpg": saved(drawing("CMYK"), "JPEG"),
        "a.webp": saved(drawing("RGBA"), "WEBP"),
        "lossless.webp": saved(drawing(), "WEBP", lossless=True, exif=exif),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "a.bmp": saved(drawing(), "BMP"),
        "lzw.tif": saved(drawing(), "TIFF", compression="tiff_lzw", exif=exif),
        "deflate.tif": saved(drawing(), "TIFF", compression="tiff_adobe_deflate"),
        "a.gif": saved(palette, "GIF", transparency=3),
    }


def decode_for_training(path: Path) -> None:
    pictures = Pictures()
    height, width = pictures.size(str(path))
    pixels = pictures.open(str(path))
    assert pixels.shape == (1, height, width, 4)
    assert pixels.dtype == torch.float32
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


def decode_for_the_data_set(path: Path) -> None:
    pixels = read_pixels(path)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2 or pixels.shape[2] == 3


READERS: dict[str, tuple[Callable[[Path], None], type[Exception]]] = {
    "training": (decode_for_training, DataError),
    "data set": (decode_for_the_data_set, PictureError),
}


@pytest.mark.parametrize("name", forms())
def test_the_files_that_are_damaged_are_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(forms()[name])
    for read, _ in READERS.values():
        read(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it passes over
@pytest.mark.parametrize("name", forms())
def test_a_damaged_picture_is_told_or_decoded(tmp_path: Path, name: str) -> None:
    """50 files of each kind, 750 in all."""
    path = tmp_path / name
    for seed in range(50):
        path.write_bytes(damaged(forms()[name], seed))
        for kind, (read, error) in READERS.items():
            with no_new_file(tmp_path), only(error, f"{name}, seed {seed}, {kind}", name):
                read(path)


# Right values of unusual pictures


def opened_by_all(path: Path) -> dict[str, Any]:
    """The pixels on white, [h, w, 3] of 0 to 255, of both readers."""
    trained = Pictures().open(str(path))[0].double()
    on_white = trained[..., :3] * trained[..., 3:] + 1 - trained[..., 3:]
    pixels = read_pixels(path)
    grey = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return {"training": (on_white * 255).numpy(), "data set": grey.astype(float)}


RAMP = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("deep.png", Image.fromarray(RAMP), [0, 1, 127.5, 255]),
        ("deep.tif", Image.fromarray(RAMP), [0, 1, 127.5, 255]),
        ("long.tif", Image.fromarray(RAMP.astype(np.int32)), [0, 1, 127.5, 255]),
        ("bits.png", Image.fromarray(RAMP > 256), [0, 255, 255, 255]),
        ("veil.png", Image.fromarray(np.uint8([[[0, 255], [0, 0], [0, 51], [255, 0]]]), "LA"),
         [0, 255, 204, 255]),
    ],
)  # fmt: skip
def test_unusual_depths_keep_their_tones(tmp_path, name, picture, expected) -> None:
    picture.save(tmp_path / name)
    for kind, pixels in opened_by_all(tmp_path / name).items():
        assert np.abs(pixels[0] - np.array(expected)[:, None]).max() <= 0.51, kind


def test_a_float_picture_keeps_its_tones(tmp_path: Path) -> None:
    """Of 0 to 1, as programs write them; NaN and infinite values are an error."""
    Image.fromarray(np.float32([[0, 0.25, 1]])).save(tmp_path / "a.tif")
    for kind, pixels in opened_by_all(tmp_path / "a.tif").items():
        assert np.abs(pixels[0, :, 0] - [0, 63.75, 255]).max() <= 0.51, kind
    for value in (np.nan, np.inf, -np.inf):
        Image.fromarray(np.float32([[0, value, 1]])).save(tmp_path / "b.tif")
        for read, error in READERS.values():
            with pytest.raises(error, match=r"b\.tif"):
                read(tmp_path / "b.tif")


def test_transparency_of_palettes_and_keys(tmp_path: Path) -> None:
    palette = Image.fromarray(np.uint8([[0, 1, 2]]), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    files = {
        "table.png": saved(palette, "PNG", transparency=bytes([255, 0, 51])),
        "one.gif": saved(palette, "GIF", transparency=1),
        "key.png": saved(palette.convert("RGB"), "PNG", transparency=(255, 0, 0)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        last = [204, 204, 255] if name == "table.png" else [0, 0, 255]
        if name == "one.gif":
            found = {"training": opened_by_all(tmp_path / name)["training"]}
        else:
            found = opened_by_all(tmp_path / name)
        for kind, pixels in found.items():
            expected = np.array([[0, 0, 0], [255, 255, 255], last])
            assert np.abs(pixels[0] - expected).max() <= 1.01, (name, kind)


def test_cmyk_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(forms()["cmyk.jpg"])
    with Image.open(tmp_path / "a.jpg") as picture:
        expected = np.array(picture.convert("RGB")).astype(float)
    for kind, pixels in opened_by_all(tmp_path / "a.jpg").items():
        assert np.abs(pixels - expected).max() <= 0.01, kind


@pytest.mark.parametrize("name", ["animated.png", "animated.webp"])
def test_of_an_animation_the_first_picture_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(forms()[name])
    for kind, pixels in opened_by_all(tmp_path / name).items():
        assert pixels.shape == (17, 23, 3), kind
        assert np.abs(pixels - np.array(drawing())).mean() < 40, kind


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535])
def test_a_picture_stands_upright_and_its_size_is_told_right(tmp_path, orientation, form) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((12, 16), np.uint8)
    pixels[:3, :5] = 255
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(saved(Image.fromarray(pixels), form, exif=exif, **QUALITY.get(form, {})))
    expected = UPRIGHT.get(orientation, lambda p: p)(pixels)
    for kind, found in opened_by_all(path).items():
        assert found.shape == (*expected.shape, 3), kind
        assert np.abs(found[..., 0] - expected).mean() < 9, kind
    assert Pictures().size(str(path)) == expected.shape


# EXIF 2.3, tag 274: where the first row and the first column of the stored picture belong.
UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: np.fliplr,
    3: lambda p: p[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].T,
    8: np.rot90,
}
QUALITY = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}


# Sizes


def claimed(width: int, height: int, form: str = "PNG") -> bytes:
    """A small file that says it has width x height pixels."""
    if form == "GIF":
        content = bytearray(saved(Image.new("P", (1, 1)), "GIF"))
        content[6:10] = struct.pack("<HH", width, height)
        return bytes(content)
    if form == "BMP":
        content = bytearray(saved(Image.new("L", (1, 1)), "BMP"))
        content[18:26] = struct.pack("<ii", width, height)
        return bytes(content)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in pieces
    )


@pytest.mark.parametrize(("width", "height", "form"), [
    (2**31 - 1, 2**31 - 1, "PNG"), (2**31 - 1, 1, "PNG"), (1, 2**31 - 1, "PNG"),
    (20000, 20000, "PNG"), (65535, 65535, "GIF"), (30000, 30000, "BMP"), (2**31 - 1, 3, "BMP"),
    (0, 0, "PNG"), (0, 7, "PNG"), (7, 0, "PNG"), (0, 5, "BMP"),
])  # fmt: skip
def test_a_small_file_with_no_pixels_or_too_many_is_refused(tmp_path, width, height, form) -> None:
    path = tmp_path / f"claims.{form.lower()}"
    path.write_bytes(claimed(width, height, form))
    with memory_within(60):
        for kind, (read, error) in READERS.items():
            with pytest.raises(error, match=r"claims\.") as caught:
                read(path)
            assert str(tmp_path) in str(caught.value), kind


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_pictures_of_one_pixel_are_read(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    Image.new(mode, size).save(tmp_path / "one.png")
    for pixels in opened_by_all(tmp_path / "one.png").values():
        assert pixels.shape == (size[1], size[0], 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_105_megapixels_is_read_in_bounded_memory(tmp_path: Path) -> None:
    Image.new("L", (10240, 10240), 200).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 1_000_000
    with memory_within(10240**2 * 4 * (4 + 1 + 1.2) / 1e6):
        assert Pictures().open(str(tmp_path / "large.png")).shape == (1, 10240, 10240, 4)
    with memory_within(10240**2 * 5.5 / 1e6):
        assert read_pixels(tmp_path / "large.png").shape == (10240, 10240)


# The stage that takes pictures into a data set


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it passes over
def test_ingest_takes_the_good_pictures_and_tells_of_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "good.png").write_bytes(forms()["alpha.png"])
    (folder / "huge.png").write_bytes(claimed(30000, 30000))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.webp").write_bytes(b"<html>")
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for seed in range(40):
        name = list(forms())[seed % len(forms())]
        stem, _, suffix = name.partition(".")
        (folder / f"{seed:02d}-{stem}.{suffix}").write_bytes(damaged(forms()[name], seed))
    with open_work(tmp_path / "set", ingest={"sources": [str(folder)]}) as work:
        with only((), "ingest"):
            told = ingest.run(work)
        failed = {item for item, _, decision in work.ledger.decisions()
                  if decision.verdict == "failed"}  # fmt: skip
        assert {name.partition("/")[2] for name in failed} >= {"huge.png", "empty.jpg", "text.webp"}
        kept = [picture.provenance["file"] for picture in work.ledger.pictures()]
        assert "good.png" in kept
        assert told["keep"] == len(kept)
        assert told["failed"] == len(failed)
        for form in work.ledger.forms("colour").values():
            read_pixels(tmp_path / "set" / form.path)
    assert not list((tmp_path / "set").rglob("*.part"))


# Pictures as tensors


FUNCTIONS: dict[str, Callable[[Tensor], object]] = {
    "fit_sketch": fit_sketch,
    "cut_into_tiles": lambda image: cut_into_tiles(image, 1),
    "extract_lines": extract_lines,
    "extract_ink": extract_ink,
    "clean_sketch": lambda image: clean_sketch(image, line_weight=2.0),
    "thin": lambda image: clean_sketch(image, line_weight=-2.0),
    "sketch_likeness": lambda image: sketch_likeness(image).likeness,
    "ink_map": ink_map,
}


def results(made: object) -> list[Tensor]:
    found = list(made) if isinstance(made, list) else [made]
    assert all(isinstance(one, Tensor) for one in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensors_of_the_smallest_and_oddest_sizes(name: str, channels: int) -> None:
    for height, width in ((1, 1), (1, 2), (2, 1), (1, 97), (97, 1), (2, 2), (3, 5), (5, 1009)):
        for fill in (0.0, 0.5, 1.0, None):
            torch.manual_seed(0)
            image = torch.rand(2, height, width, channels)
            image = image if fill is None else torch.full_like(image, fill)
            case = f"{name}, {height} x {width} x {channels}, {fill}"
            with only((), case):
                for made in results(FUNCTIONS[name](image)):
                    assert made.isfinite().all(), case
                    assert 0 <= float(made.min()) <= float(made.max()) <= 1, case


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_with_values_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    for place in ((0, 0, 0, 0), (1, 6, 4, 2)):
        image = torch.rand(2, 7, 5, 3)
        image[place] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            FUNCTIONS[name](image)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_with_values_out_of_range_are_clipped(name: str) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 11, 13, 3) * 3 - 1
    image[0, 0, 0] = torch.finfo(torch.float32).max
    image[0, 1, 1] = torch.finfo(torch.float32).min
    clipped = results(FUNCTIONS[name](image.clamp(0, 1)))
    for made, expected in zip(results(FUNCTIONS[name](image)), clipped, strict=True):
        assert torch.equal(made.clamp(0, 1), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [
    (0, 4, 4, 3), (1, 0, 4, 3), (1, 4, 0, 3), (1, 4, 4, 0), (1, 4, 4, 2), (1, 4, 4, 5), (4, 4, 3),
    (1, 1, 4, 4, 3), (),
])  # fmt: skip
def test_tensors_that_are_no_pictures_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        FUNCTIONS[name](torch.zeros(shape))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.complex64,
                                   torch.float8_e4m3fn, torch.float8_e5m2])  # fmt: skip
def test_tensors_of_other_types_are_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="floats"):
        FUNCTIONS[name](torch.zeros(1, 4, 4, 3, dtype=dtype))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_floats_are_read_right(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    image = (torch.rand(1, 11, 13, 3) * 8).round() / 8
    found, expected = FUNCTIONS[name](image.to(dtype)), FUNCTIONS[name](image)
    for one, other in zip(results(found), results(expected), strict=True):
        assert (one.float() - other).abs().max() < 1e-5


def test_pillows_limit_is_back_when_all_threads_have_read(tmp_path: Path) -> None:
    """Of two that overlapped, the second once took the first one's "no limit" for Pillow's."""
    path = tmp_path / "x.png"
    Image.new("RGB", (700, 700)).save(path)
    limit = Image.MAX_IMAGE_PIXELS
    assert limit
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: READERS["data set"][0](path), range(200)))
    assert limit == Image.MAX_IMAGE_PIXELS
