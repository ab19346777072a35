"""What CLIP sees of a sketch: all of it, on white paper, as in training.

CLIP's usual preparation cuts the middle square out of a picture and turns transparency black, which
costs a standing figure its head and feet and drowns line art on alpha. Here the whole sketch is
fitted into the square and the rest is white. Trainer and nodes call these same functions.

Pictures are in ComfyUI's IMAGE layout: [b, h, w, c], float, values in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# OpenAI's CLIP, used by OpenCLIP's ViT-H/14 too (openai/CLIP, clip.py, `_transform`).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def fit_sketch(image: Tensor, size: int = 224) -> Tensor:
    """Fits whole sketches into white squares, as 8-bit pictures would hold them.

    Fitting a fitted picture again changes nothing, and neither does ComfyUI's own preparation.

    Args:
        image: sketches [b, h, w, c], float in [0, 1] (values outside are clipped), with c = 1
            (grey), 3 (RGB) or 4 (RGB and straight, not premultiplied, opacity).
        size: side of the square in pixels.

    Returns:
        Pictures [b, size, size, 3], float32, every value a multiple of 1/255.

    Raises:
        TypeError: the picture's values are not floats.
        ValueError: no such layout, an empty picture, or values that are NaN or infinite.
    """
    check_image(image)
    rgb = flatten_onto_white(unit_range(image)).movedim(-1, 1)  # [b, 3, h, w]
    height, width = _fitted_size(rgb.shape[2], rgb.shape[3], size)
    if (height, width) != tuple(rgb.shape[2:]):
        rgb = F.interpolate(rgb, (height, width), mode="bicubic", antialias=True)
    top, left = (size - height) // 2, (size - width) // 2
    margins = (left, size - width - left, top, size - height - top)
    square = F.pad(rgb, margins, value=1.0)  # [b, 3, size, size]
    rounded = (square.clamp(0, 1) * 255).round() / 255  # bicubic overshoots beside a black line
    return rounded.movedim(1, -1)


def cut_into_tiles(image: Tensor, count: int) -> list[Tensor]:
    """Cuts sketches into tiles that are close to square, so that CLIP sees their detail.

    Args:
        image: sketches [b, h, w, c].
        count: how many tiles along the shorter side; along the longer side more, as fit.

    Returns:
        The tiles, row by row, each [b, about h / rows, about w / columns, c].

    Raises:
        ValueError: the sketch has fewer pixels along its shorter side than tiles are asked for.
    """
    check_image(image)
    height, width = image.shape[1:3]
    side = min(height, width)
    if side < count:
        raise ValueError(
            f"The sketch, {width} x {height} pixels, cannot be cut into {count} tiles along its "
            "shorter side. Use fewer tiles, or a larger sketch."
        )
    rows, columns = (round(length * count / side) for length in (height, width))
    return [
        tile for strip in image.tensor_split(rows, 1) for tile in strip.tensor_split(columns, 2)
    ]


def pixel_values(fitted: Tensor) -> Tensor:
    """Normalises fitted sketches [b, size, size, 3] to CLIP's input [b, 3, size, size]."""
    mean = fitted.new_tensor(CLIP_MEAN)
    std = fitted.new_tensor(CLIP_STD)
    return ((fitted - mean) / std).movedim(-1, 1)


def unconditional_pixel_values(size: int = 224) -> Tensor:
    """Makes the CLIP input that stands for "no sketch", [1, 3, size, size].

    Zeros after normalisation, a mean-grey picture: what IP-Adapter's trainer and pipelines and
    diffusers use. A black picture (zeros before normalisation) gives other tokens.
    """
    return torch.zeros(1, 3, size, size)


def flatten_onto_white(image: Tensor) -> Tensor:
    """Turns grey or transparent pictures [..., 1, 3 or 4] into RGB on white [..., 3]."""
    if image.shape[-1] == 1:
        return image.expand(*image.shape[:-1], 3)
    if image.shape[-1] == 3:
        return image
    rgb, opacity = image[..., :3], image[..., 3:]
    return rgb * opacity + (1 - opacity)


def unit_range(picture: Tensor) -> Tensor:
    """Float32 in [0, 1] of 8-bit values, or of floats, which are clipped; of any shape.

    A picture that is in range already is given back itself: callers do not change it in place.
    """
    if picture.dtype == torch.uint8:
        return picture.float().div_(255)
    picture = picture.float()
    lowest, highest = picture.aminmax()  # a large picture that is right need not be copied
    return picture if lowest >= 0 and highest <= 1 else picture.clamp(0, 1)


def check_image(image: Tensor) -> None:
    """Refuses what is not a picture [b, h, w, c] of finite floats (see `fit_sketch`)."""
    if not image.is_floating_point() or image.itemsize < 2:  # float8 is for weights
        raise TypeError(
            f"A picture must hold floats in [0, 1], got {image.dtype}; divide 8-bit values by 255."
        )
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(
            "A picture must have the shape [batch, height, width, channels] with 1, 3 or 4 "
            f"channels and at least one pixel, got {list(image.shape)}."
        )
    if not all(extreme.isfinite() for extreme in image.aminmax()):  # both are NaN if any value is
        raise ValueError("The picture holds NaN or infinite values; whatever made it is broken.")


def _fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Scales (height, width) so that the longer side is `size`, the shorter one at least 1."""
    longer = max(height, width)
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))
