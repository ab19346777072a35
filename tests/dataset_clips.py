"""Clips of real anime art with known cuts, holds, moves and fades, for the tests on films."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

ART = Path(__file__).parents[1] / "training" / "dataset" / "demo_film" / "art"
SIZE = (640, 360)
KR_KB = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}
SPC = {"bt709": 1, "bt601": 6, "bt2020": 9}


@cache
def background(name: str, size: tuple[int, int] = SIZE) -> Image.Image:
    picture = Image.open(next(ART.glob(f"{name}.*"))).convert("RGB")
    return picture.resize(size, Image.Resampling.LANCZOS)


@cache
def sprite(name: str, height: int = 330) -> Image.Image:
    picture = Image.open(ART / f"{name}.png").convert("RGBA")
    size = (picture.width * height // picture.height, height)
    return picture.resize(size, Image.Resampling.LANCZOS)


def drawing(place: str, figure: str = "", x: int = 200, size: tuple[int, int] = SIZE) -> np.ndarray:
    """[h, w, 3]: a background with a figure before it."""
    picture = background(place, size).copy()
    if figure:
        shown = sprite(figure, size[1] * 11 // 12)
        picture.paste(shown, (x * size[0] // 640, size[1] - shown.height), shown)
    return np.array(picture)


@dataclass
class Script:
    """Frames with the truth on them, by frame number."""

    frames: list[np.ndarray] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    allowed: list[tuple[int, int]] = field(default_factory=list)  # [first, end) of drawings
    shots: int = 0

    def cut(self) -> Script:
        if self.frames:
            self.cuts.append(len(self.frames))
        self.shots += 1
        return self

    def hold(self, picture: np.ndarray, count: int) -> Script:
        self.allowed.append((len(self.frames), len(self.frames) + count))
        self.frames += [picture] * count
        return self

    def move(self, pictures: Iterable[np.ndarray]) -> Script:
        self.frames += list(pictures)
        return self

    def mix(self, a: np.ndarray, b: np.ndarray, count: int) -> Script:
        for step in range(1, count + 1):
            part = step / (count + 1)
            self.frames.append(np.rint(a * (1 - part) + b * part).astype(np.uint8))
        return self


def pan(place: str, count: int, step: int) -> list[np.ndarray]:
    """A camera that moves right over a wide picture, `step` pixels a frame."""
    wide = np.array(background(place, (SIZE[0] + step * count, SIZE[1] + 60)))
    lefts = [n * step for n in range(count)]
    return [np.ascontiguousarray(wide[30:-30, left : left + SIZE[0]]) for left in lefts]


def whole_script() -> Script:
    """13 cuts, a dissolve, a fade through black; a flash, a pan, a walk, an expression."""
    s = Script()
    s.cut().hold(drawing("meadow", "sylvie_green_normal"), 20)
    s.hold(drawing("meadow", "sylvie_green_smile"), 20)  # an expression
    s.cut().hold(drawing("uni", "sylvie_green_normal"), 12)
    s.cut().hold(drawing("uni", "sylvie_blue_normal", 60), 12)  # before the same background
    s.cut().hold(drawing("club"), 14)
    moved = pan("concert1", 30, 8)
    s.cut().hold(moved[0], 8).move(moved[1:-1]).hold(moved[-1], 8)
    s.cut().hold(drawing("lecturehall", "sylvie_blue_smile"), 14)
    s.mix(drawing("lecturehall", "sylvie_blue_smile"), drawing("meadow"), 20)
    s.shots += 1
    s.hold(drawing("meadow"), 14)
    s.cut().hold(drawing("club", "sylvie_green_normal", 100), 6)
    for step in range(1, 9):  # walks, on twos and threes
        s.move([drawing("club", "sylvie_green_normal", 100 + 14 * step)] * (2 + step % 2))
    s.hold(drawing("club", "sylvie_green_normal", 220), 8)
    black = np.zeros_like(moved[0])
    s.cut().hold(drawing("concert2"), 12).mix(drawing("concert2"), black, 10).move([black] * 6)
    s.mix(black, drawing("uni"), 10)
    s.shots += 1
    s.hold(drawing("uni"), 10)
    s.cut().hold(drawing("club"), 10).move([black + 255] * 2).hold(drawing("club"), 10)  # a flash
    s.cut().hold(drawing("concert1"), 9)
    s.cut().hold(drawing("concert2"), 9)  # the same picture, relit
    s.cut().hold(drawing("lecturehall"), 7)
    s.cut().move([drawing("meadow", "sylvie_blue_giggle")] * 4)  # too short
    return s.cut().hold(drawing("uni", "sylvie_blue_giggle"), 10)


def yuv(picture: np.ndarray, matrix: str = "bt709", bits: int = 8, full: bool = False) -> Any:
    """Coded Y, Cb, Cr of R'G'B' in [0, 1] or of 8 bits, by the book (H.273), before subsampling."""
    signal = picture / 255 if picture.dtype == np.uint8 else picture
    kr, kb = KR_KB[matrix]
    red, green, blue = np.moveaxis(signal.astype(float), -1, 0)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    one, most = 2 ** (bits - 8), 2**bits - 1
    if full:
        coded = [y * most, cb * most + 128 * one, cr * most + 128 * one]
    else:
        coded = [(219 * y + 16) * one, (224 * cb + 128) * one, (224 * cr + 128) * one]
    kind = np.uint8 if bits == 8 else np.uint16
    return [np.rint(plane).clip(0, most).astype(kind) for plane in coded]


def frame_of(planes: Sequence[np.ndarray], bits: int = 8) -> av.VideoFrame:
    """A 4:2:0 frame; chroma is sited left, as H.264 has it: 1-2-1 across, 1-1 down."""
    y, *chroma = planes
    name = "yuv420p" if bits == 8 else f"yuv420p{bits}le"
    frame = av.VideoFrame(y.shape[1], y.shape[0], name)
    for plane, values in zip(frame.planes, [y, *map(_halved, chroma)], strict=True):
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    return frame


def _halved(values: np.ndarray) -> np.ndarray:
    wide = np.pad(values.astype(float), ((0, 0), (1, 1)), "edge")
    across = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:])[:, ::2] / 4
    return np.rint((across[::2] + across[1::2]) / 2).astype(values.dtype)


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | int = 24,
    codec: str = "libx264",
    matrix: str = "bt709",
    bits: int = 8,
    full: bool = False,
    tags: tuple[int, int, int] | None = (1, 1, 1),
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    keyframes: int = 48,
) -> Path:
    """Encodes pictures; `tags` are primaries, transfer and matrix, None for no tags."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        context = stream.codec_context
        context.gop_size = keyframes
        if codec in ("libx264", "libx265"):
            stream.options = {"preset": "veryfast", "crf": "18", **(options or {})}
        for number, planes in enumerate(_coded(frames, matrix, bits, full)):
            frame = frame_of(planes, bits)
            if not number:
                stream.width, stream.height, stream.pix_fmt = (
                    frame.width, frame.height, frame.format.name,
                )  # fmt: skip
                if times is not None:
                    context.time_base = Fraction(1, 1000)
                if aspect is not None:
                    context.sample_aspect_ratio = aspect
                if tags is not None:
                    context.color_primaries, context.color_trc, context.colorspace = tags
                    context.color_range = 2 if full else 1
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 1000) if times is not None else 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _coded(
    frames: Iterable[np.ndarray], matrix: str, bits: int, full: bool
) -> Iterator[Sequence[np.ndarray]]:
    last, planes = None, []
    for picture in frames:
        if picture is not last:  # holds need no second conversion
            planes = yuv(picture, matrix, bits, full)
        last = picture
        yield planes
