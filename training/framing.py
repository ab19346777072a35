"""Brings training pictures to the size at which they are trained: a square, or a bucket's size.

Buckets (NovelAI 2022, https://github.com/NovelAI/novelai-aspect-ratio-bucketing) keep tall and
wide drawings whole: each picture takes the size of about resolution x resolution pixels whose
proportions are nearest to its own, and a batch holds pictures of one size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from animesketchnet_core import clip_input

from .config import DataSettings
from .settings import ConfigError

# Long side / short side: of a picture beyond it much is cut away, or most is margin.
MOST_STRETCHED = {"crop": 3.0, "pad": 3.0, "bucket": 5.0}


def bucket_of(height: int, width: int, settings: DataSettings) -> tuple[int, int]:
    """Chooses the bucket, (height, width), whose proportions are nearest to a picture's."""

    def strain(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(height / width))

    return min(buckets(settings.resolution, settings.bucket_step), key=strain)


def buckets(resolution: int, step: int) -> list[tuple[int, int]]:
    """Lists the sizes, (height, width), of at most resolution x resolution pixels.

    Sides are multiples of `step`, from half of the resolution to its double.
    """
    sides = range(math.ceil(resolution / 2 / step) * step, 2 * resolution + 1, step)
    sizes = [(side, int(resolution**2 / side / step) * step) for side in sides]
    both = {size for h, w in sizes if w >= resolution / 2 for size in ((h, w), (w, h))}
    return sorted(both)


def check_sizes(sizes: Iterable[tuple[int, int]], step: int) -> None:
    """Refuses sizes, (height, width), whose sides are no multiples of what the UNet needs.

    Raises:
        ConfigError: such a size, with the setting that it comes from.
    """
    for height, width in sizes:
        if height % step or width % step:
            raise ConfigError(
                f"Pictures would be trained at {width} x {height} pixels, and the UNet needs "
                f'multiples of {step}. Set data.resolution, with data.fit = "bucket" '
                "data.bucket_step, to one."
            )


def frame(picture: Tensor, size: tuple[int, int], fit: str) -> Tensor:
    """Brings a picture to a size, on white paper.

    Args:
        picture: [b, height, width, 4] in [0, 1].
        size: (height, width) in pixels; square where fit is "pad".
        fit: "pad" adds white to the shorter side; the others keep the middle of the longer one.

    Returns:
        [b, 3, *size] in [0, 1].
    """
    if fit == "pad":
        return clip_input.fit_sketch(picture, size[0]).permute(0, 3, 1, 2)
    pixels = clip_input.flatten_onto_white(picture).permute(0, 3, 1, 2)  # [b, 3, height, width]
    height, width = pixels.shape[-2:]
    scale = min(height / size[0], width / size[1])
    kept = [
        min(side, max(1, round(scale * s))) for side, s in zip((height, width), size, strict=True)
    ]
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    pixels = pixels[..., top : top + kept[0], left : left + kept[1]]
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
