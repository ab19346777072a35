"""Anime2Sketch's generator: a U-Net of eight levels that turns a colour picture into line art.

Xiang et al., "Adversarial Open Domain Adaptation for Sketch-to-Photo Synthesis" (WACV 2022);
https://github.com/Mukosame/Anime2Sketch, its `default` model. Its weights are not part of this
project. A level is a convolution that halves the picture and a transposed one that doubles it;
instance norms, without parameters, stand behind all but the first, the deepest and the last.

Shapes: h and w the picture; level i has the features [1, c_i, h / 2^(i + 1), w / 2^(i + 1)].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anime2sketch_strips import sketch_strips
from .clip_input import check_image, flatten_onto_white, unit_range
from .progress import OnProgress

LEVELS = 8


class Anime2Sketch(nn.Module):
    """The generator's layers; `draw_with` runs them.

    Attributes:
        down: the eight convolutions, the picture's first.
        up: the eight transposed convolutions, the one that gives the drawing first.
    """

    def __init__(
        self,
        *,
        base_width: int = 64,
        operations: Any = nn,
        device: torch.device | str | None = None,
    ) -> None:
        """Makes the layers.

        Args:
            base_width: channels of the first level; the others have up to 8 times as many.
            operations: where Conv2d and ConvTranspose2d come from, torch.nn or ComfyUI's.
            device: where the weights lie.
        """
        super().__init__()
        shape = {"kernel_size": 4, "stride": 2, "padding": 1, "device": device}
        c = [base_width * factor for factor in (1, 2, 4, 8, 8, 8, 8, 8)]
        self.down = nn.ModuleList(
            operations.Conv2d(before, after, **shape)
            for before, after in zip([3, *c], c, strict=False)
        )
        self.up = nn.ModuleList(
            operations.ConvTranspose2d(width, after, **shape)
            for width, after in zip([2 * c[i] for i in range(7)] + [c[7]], [1, *c], strict=False)
        )


def draw_with(
    net: Anime2Sketch,
    image: Tensor,
    *,
    resolution: int | None = 1024,
    memory: int = 4 << 30,
    device: torch.device | str | None = None,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Draws pictures with the generator, dark on white.

    Args:
        net: the generator, its weights float32.
        image: pictures [b, h, w, c], float in [0, 1], c = 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        resolution: side in pixels of a square as large as what the generator gets to see; None for
            the picture as it is. It was trained at 512: there the strokes are boldest and fewest.
            Pictures are not made larger than 512 for it.
        memory: bytes that the work may take (see `sketch_strips`).
        device: where the work is done; None for the pictures' own.
        on_progress: called with (done, total) of a picture's strips; it may raise to stop the work.

    Returns:
        Drawings [b, h, w, 3], float32 in [0, 1], the three channels equal, where the pictures lie.

    Raises:
        TypeError: the picture's values are not floats.
        ValueError: no such layout, values that are not finite, or a resolution below 1.
    """
    check_image(image)
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution must be 1 pixel or more, got {resolution}.")
    device = torch.device(device or image.device)
    drawings = []
    for picture in image:
        seen = resize(picture, seen_size(picture.shape[0], picture.shape[1], resolution))
        strips: Iterator[Tensor] = sketch_strips(
            net, seen, memory=memory, device=device, on_progress=on_progress
        )
        drawing = torch.cat([strip.to(image.device) for strip in strips])[..., None]
        drawings.append(resize(drawing, (picture.shape[0], picture.shape[1])))
    return torch.stack(drawings).expand(-1, -1, -1, 3).contiguous()


def seen_size(height: int, width: int, resolution: int | None) -> tuple[int, int]:
    """Size in pixels at which the generator sees a picture of this height and width."""
    if resolution is None:
        return height, width
    side = math.sqrt(height * width)
    scale = min(resolution, max(side, _TRAINED_AT)) / side
    return max(1, round(height * scale)), max(1, round(width * scale))


_TRAINED_AT = 512


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes a picture [h, w, c] to (height, width): RGB on white, or grey; [h', w', 1 or 3]."""
    if picture.shape[-1] == 4:
        picture = flatten_onto_white(picture.clamp(0, 1))
    if tuple(picture.shape[:2]) == size:
        return unit_range(picture)
    planes = picture.float().movedim(-1, 0)[None]  # [1, c, h, w]
    planes = F.interpolate(planes, size, mode="bicubic", antialias=True)
    return planes[0].movedim(0, -1).clamp(0, 1)
