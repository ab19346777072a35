"""Paints the demo film's frames: figures over backgrounds, camera, light, and what spoils a frame.

Everything is 1280 x 720, RGB, and a function of its arguments alone. The art is described in
art/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from animesketchnet_core.sketch_extraction import extract_lines

WIDTH, HEIGHT = 1280, 720
ART = Path(__file__).parent / "art"

Box = tuple[float, float, float]
"""What the camera sees of a background: left, top and width in its pixels; always 16:9."""


@dataclass(frozen=True)
class Figure:
    """Sylvie, somewhere on the screen.

    Attributes:
        sprite: dress and expression, such as "blue_smile".
        left: of the sprite, in pixels of the frame.
        top: of the sprite.
        height: of the whole sprite; it is 700 in the file.
        flipped: looks the other way.
    """

    sprite: str
    left: int
    top: int
    height: int = 760
    flipped: bool = False


@lru_cache(maxsize=32)
def art(name: str) -> Image.Image:
    """Loads one of the files of art/ by its name without suffix; "black" and "white" are plain.

    Do not draw on it: it is shared.
    """
    if name in ("black", "white"):
        return Image.new("RGB", (WIDTH, HEIGHT), name)
    path = next(ART.glob(f"{name}.*"))
    with Image.open(path) as picture:
        return picture.convert("RGBA" if path.suffix == ".png" else "RGB")


def scene(background: str, box: Box, *figures: Figure, flipped: bool = False) -> Image.Image:
    """Composes a frame.

    Args:
        background: see `art`.
        box: what is seen of it.
        figures: from back to front.
        flipped: turns the background round.
    """
    frame = seen(art(background), box)
    if flipped:
        frame = frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for figure in figures:
        sprite = art(f"sylvie_{figure.sprite}")
        if figure.flipped:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        width = round(sprite.width * figure.height / sprite.height)
        sprite = sprite.resize((width, figure.height), Image.Resampling.LANCZOS)
        frame.paste(sprite, (figure.left, figure.top), sprite)
    return frame


def seen(picture: Image.Image, box: Box) -> Image.Image:
    """What the camera shows of a picture; places between pixels are interpolated."""
    left, top, width = box
    height = width * HEIGHT / WIDTH
    return picture.resize(
        (WIDTH, HEIGHT), Image.Resampling.LANCZOS, (left, top, left + width, top + height)
    )


def subtitled(picture: Image.Image, text: str) -> Image.Image:
    """Burns a subtitle in: white with a black edge, low in the middle."""
    frame = picture.copy()
    ImageDraw.Draw(frame).text(
        (WIDTH // 2, HEIGHT - 44), text, fill="white", font=_font(42), anchor="ms",
        stroke_width=4, stroke_fill="black",
    )  # fmt: skip
    return frame


def titled(picture: Image.Image, text: str) -> Image.Image:
    """Lays a big title over a picture."""
    frame = picture.copy()
    ImageDraw.Draw(frame).multiline_text(
        (WIDTH // 2, HEIGHT // 2), text, fill="#fff3b0", font=_font(128), anchor="mm",
        align="center", stroke_width=8, stroke_fill="#7a1f3d",
    )  # fmt: skip
    return frame


def credits(lines: tuple[str, ...], top: float) -> Image.Image:
    """A roll of names, white on black; `top` is where its first line begins."""
    frame = art("black").copy()
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(lines):
        draw.text((WIDTH // 2, top + 64 * number), line, fill="white", font=_font(40), anchor="ma")
    return frame


def marked(picture: Image.Image) -> Image.Image:
    """Puts a television station's mark into the upper right corner, half transparent."""
    mark = Image.new("RGBA", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(mark)
    draw.rounded_rectangle((1140, 40, 1236, 88), 12, fill=(255, 255, 255, 150))
    draw.text((1188, 64), "ASN", fill=(20, 60, 140, 200), font=_font(36), anchor="mm")
    return Image.alpha_composite(picture.convert("RGBA"), mark).convert("RGB")


def letterboxed(picture: Image.Image, bar: int) -> Image.Image:
    """Blackens `bar` rows above and below."""
    frame = art("black").copy()
    frame.paste(picture.crop((0, bar, WIDTH, HEIGHT - bar)), (0, bar))
    return frame


def drawn(picture: Image.Image) -> Image.Image:
    """A picture's lines alone, dark on white."""
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    lines = extract_lines(pixels[None])[0]
    return Image.fromarray((lines * 255).round().byte().numpy())


def defocused(picture: Image.Image, radius: float) -> Image.Image:
    """Blurs evenly; `radius` is the Gaussian's sigma in pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


def smeared(picture: Image.Image, length: float) -> Image.Image:
    """Blurs as a camera does that flies sideways by `length` pixels while a frame is taken."""
    return picture.filter(ImageFilter.BoxBlur((length / 2, 0)))


def coarse(picture: Image.Image) -> Image.Image:
    """As if it had been made at 320 x 180."""
    small = picture.resize((320, 180), Image.Resampling.BICUBIC)
    return small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def darkened(picture: Image.Image, light: float) -> Image.Image:
    """A picture at a part of its brightness."""
    return ImageEnhance.Brightness(picture).enhance(light)


def grained(picture: Image.Image, seed: int, strength: float = 3.0) -> Image.Image:
    """Film grain: another pattern with each seed, of this standard deviation (of 255)."""
    noise = np.random.default_rng(seed).normal(0, strength, (HEIGHT, WIDTH, 1))
    grainy = np.asarray(picture, np.float32) + noise
    return Image.fromarray(grainy.round().clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
