"""Draws the lines of a colour picture: flow-based difference of Gaussians (FDoG).

Kang, Lee, Chui, "Coherent Line Drawing" (NPAR 2007), with the structure tensor as the flow's source
as in Kyprianidis and Doellner, "Image Abstraction by Structure Adaptive Filtering" (TPCG 2008):

1. the smoothed structure tensor of the lightness gives each pixel the direction of its line;
2. a difference of Gaussians across the line finds what is darker than its surroundings;
3. smoothing along the flow joins dashes into strokes and wipes out grain;
4. a soft threshold inks the result.

Names follow the papers: sigma_c smooths the tensor, sigma_s and 1.6 sigma_s are the Gaussians,
sigma_m smooths along the flow, tau weighs the wider Gaussian, phi is the sharpness of the ink.

Shapes: b batch, h and w the picture, y and x one strip of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip_input import check_image, flatten_onto_white, unit_range
from .progress import OnProgress


def extract_lines(
    image: Tensor,
    line_width: float = 1.0,
    detail: float = 0.5,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Draws a picture's lines, dark on white.

    Strokes grow with the picture, so that one drawn at twice the size looks the same. The work is
    done in strips, so that memory stays near that of the picture itself.

    Args:
        image: pictures [b, h, w, c], float in [0, 1], c = 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        line_width: width of the strokes, 0.25 (fine) to 4 (bold), 1 is usual.
        detail: how faint a contrast is still drawn, 0 (outlines) to 1 (all, grain too).
        on_progress: told of each picture's strips.

    Returns:
        Drawings [b, h, w, 3], float32 in [0, 1], the three channels equal.

    Raises:
        TypeError: the picture's values are not floats.
        ValueError: no such layout, values that are not finite, or a setting out of its range.
    """
    check_image(image)
    drawings = [draw_lines(picture, line_width, detail, on_progress) for picture in image]
    return torch.stack(drawings).unsqueeze(-1).repeat(1, 1, 1, 3)  # [b, h, w, 3]


def draw_lines(
    picture: Tensor,
    line_width: float = 1.0,
    detail: float = 0.5,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Draws one picture's lines (see `extract_lines`); it takes up to 20 bytes a pixel for it.

    Args:
        picture: [h, w, c], float in [0, 1] or uint8, c = 1, 3 or 4.
        line_width: 0.25 to 4.
        detail: 0 to 1.
        on_progress: told of the strips.

    Returns:
        The drawing [h, w], float32 in [0, 1].

    Raises:
        ValueError: a setting out of its range.
    """
    check_range("line_width", line_width, 0.25, 4)
    check_range("detail", detail, 0, 1)
    tau = 1 - 0.06 * 2 ** (-4 * detail)  # 0.985 at detail 0.5
    settings = Settings.scaled(min(picture.shape[:2]), line_width, narrow=1.0, wide=tau)
    return _ink(line_response(picture, settings, on_progress))


@dataclass(frozen=True)
class Settings:
    """Of a difference of Gaussians along the flow.

    Sigmas are in pixels of the picture after it was made `reduce` times smaller; `narrow` and
    `wide` are the weights of the Gaussians of sigma_s and 1.6 sigma_s.
    """

    reduce: int
    sigma_c: float
    sigma_s: float
    sigma_m: float
    narrow: float
    wide: float

    @classmethod
    def scaled(cls, short_side: int, line_width: float, *, narrow: float, wide: float) -> Settings:
        """Lets the sigmas grow with the picture and the width of its strokes."""
        reduce = max(1, short_side // _SHORT_SIDE)
        # Below half a pixel the two Gaussians are one and the same, and nothing would be drawn.
        scale = max(0.5, line_width * short_side / reduce / _SHORT_SIDE)
        return cls(
            reduce=reduce,
            sigma_c=3.0 * scale,
            sigma_s=1.0 * scale,
            sigma_m=3.0 * scale,
            narrow=narrow,
            wide=wide,
        )

    @property
    def reach(self) -> int:
        """How far in pixels a pixel's line depends on its surroundings."""
        return 1 + sum(_radius(s) for s in (self.sigma_c, 1.6 * self.sigma_s, self.sigma_m))


_SHORT_SIDE = 1500  # the sigmas above are for pictures of this short side, in pixels
_STRIP_PIXELS = 1 << 18  # small enough for a processor's cache
_PHI = 60.0


def line_response(
    picture: Tensor, settings: Settings, on_progress: OnProgress | None = None
) -> Tensor:
    """Weighs a picture's two Gaussians against each other, smoothed along the flow.

    Args:
        picture: [h, w, c], float in [0, 1] or uint8, c = 1, 3 or 4.
        settings: the Gaussians.
        on_progress: told of the strips.

    Returns:
        The response of the lightness, float32 [h, w].
    """
    height, width = picture.shape[:2]
    light = torch.cat([lightness(rows) for rows in picture.split(256)])[None, None]  # [1, 1, h, w]
    light = _pad_to_multiple(light, settings.reduce)
    if settings.reduce > 1:
        light = F.avg_pool2d(light, settings.reduce)
    response = torch.cat(list(_responses(light, settings, on_progress)), dim=2)
    if settings.reduce > 1:
        # The response is smooth, so that it loses nothing here, and the ink's edges come out sharp.
        response = F.interpolate(response, scale_factor=settings.reduce, mode="bilinear")
    return response[0, 0, :height, :width]


def lightness(picture: Tensor) -> Tensor:
    """CIE lightness L* / 100 of pictures [..., c] (sRGB, opacity onto white); returns [...]."""
    rgb = flatten_onto_white(unit_range(picture))
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ linear.new_tensor([0.2126, 0.7152, 0.0722])
    return torch.where(
        y <= 216 / 24389, y * 24389 / 2700, 1.16 * y.clamp(min=1e-6).pow(1 / 3) - 0.16
    )


def _responses(
    light: Tensor, settings: Settings, on_progress: OnProgress | None
) -> Iterator[Tensor]:
    """Gives the line response of lightness [1, 1, h, w] strip by strip, [1, 1, y, w] each."""
    reach = settings.reach
    padded = F.pad(light, (reach,) * 4, mode="replicate")
    height, width = padded.shape[2:]
    rows = max(1, _STRIP_PIXELS // width)
    tops = range(0, height - 2 * reach, rows)
    for done, top in enumerate(tops, 1):
        strip = padded[:, :, top : top + rows + 2 * reach]
        yield _response(strip, settings)[:, :, reach:-reach, reach:-reach]
        if on_progress is not None:
            on_progress(done, len(tops))


def _response(light: Tensor, settings: Settings) -> Tensor:
    """Low where there is a line (below 0 for FDoG); lightness and response are [1, 1, y, x]."""
    across = line_normal(light, settings.sigma_c)  # [1, y, x, 2]
    difference = _difference_of_gaussians(light, across, settings)
    return _smooth_along(difference, across, settings.sigma_m)


def line_normal(light: Tensor, sigma_c: float) -> Tensor:
    """Finds the direction across the line at each pixel, from the smoothed structure tensor.

    Args:
        light: lightness [1, 1, y, x].
        sigma_c: smoothing of the tensor, in pixels.

    Returns:
        Unit vectors (x, y) [1, y, x, 2]; their sign has no meaning.
    """
    gx, gy = _sobel(light)  # [1, 1, y, x] each
    tensor = torch.cat([gx * gx, gx * gy, gy * gy], dim=1)  # [1, 3, y, x]
    xx, xy, yy = _blur(tensor, sigma_c).unbind(1)  # [1, y, x] each
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)  # of the eigenvector with the larger eigenvalue
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _difference_of_gaussians(light: Tensor, across: Tensor, settings: Settings) -> Tensor:
    """The two Gaussians weighed against each other, across the line only; [1, 1, y, x]."""
    radius = _radius(1.6 * settings.sigma_s)
    narrow = _gaussian(settings.sigma_s, radius)
    wide = _gaussian(1.6 * settings.sigma_s, radius)
    weights = (settings.narrow * narrow - settings.wide * wide).tolist()  # 2 radius + 1 of them
    grid, step = _pixel_grid(light), _in_grid_units(across)
    total = light * weights[radius]
    for i in range(1, radius + 1):
        both = _sample(light, grid + i * step) + _sample(light, grid - i * step)
        total += both * weights[radius + i]
    return total


def _smooth_along(difference: Tensor, across: Tensor, sigma_m: float) -> Tensor:
    """Averages along the flow with a Gaussian, walking pixel by pixel both ways; [1, 1, y, x]."""
    radius = _radius(sigma_m)
    weights = _gaussian(sigma_m, radius).tolist()  # 2 radius + 1 of them
    flow = torch.stack([-across[..., 1], across[..., 0]], dim=-1)  # [1, y, x, 2]
    total = difference * weights[radius]
    for direction in (flow, -flow):
        place = _pixel_grid(difference)
        for i in range(1, radius + 1):
            place = place + _in_grid_units(direction)
            total += _sample(difference, place) * weights[radius + i]
            direction = _turn_with(direction, _nearest(flow, place))
    return total


def _turn_with(before: Tensor, here: Tensor) -> Tensor:
    """Flips the flow where it points back, since its sign has no meaning; [1, y, x, 2]."""
    ahead = (before * here).sum(-1, keepdim=True) >= 0
    return torch.where(ahead, here, -here)


def _ink(response: Tensor) -> Tensor:
    """Soft threshold: paper (1) where the response is 0 or more, below it ever darker."""
    return response.clamp(max=0).mul_(_PHI).tanh_().add_(1)


def _sobel(light: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivative per pixel of [1, 1, y, x]."""
    p = F.pad(light, (1, 1, 1, 1), mode="replicate")
    rows = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]  # [1, 1, y, x + 2]
    columns = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]  # [1, 1, y + 2, x]
    return (rows[..., 2:] - rows[..., :-2]) / 8, (columns[:, :, 2:] - columns[:, :, :-2]) / 8


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of every channel, [1, c, y, x]."""
    radius = _radius(sigma)
    channels = x.shape[1]
    kernel = _gaussian(sigma, radius).to(x).expand(channels, 1, -1)  # [c, 1, 2 radius + 1]
    x = F.pad(x, (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel[:, :, None, :], groups=channels)
    return F.conv2d(x, kernel[:, :, :, None], groups=channels)


def _radius(sigma: float) -> int:
    return math.ceil(2.5 * sigma)


def _gaussian(sigma: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()  # [2 radius + 1]


def _pixel_grid(x: Tensor) -> Tensor:
    """Every pixel's own place in grid_sample's units, [1, y, x, 2]."""
    height, width = x.shape[2:]
    ys = (torch.arange(height, device=x.device) + 0.5) * 2 / height - 1
    xs = (torch.arange(width, device=x.device) + 0.5) * 2 / width - 1
    return torch.stack([xs.expand(height, -1), ys[:, None].expand(-1, width)], dim=-1)[None]


def _in_grid_units(vectors: Tensor) -> Tensor:
    """Scales vectors [1, y, x, 2] from pixels to grid_sample's units (the picture is 2 wide)."""
    height, width = vectors.shape[1:3]
    return vectors * vectors.new_tensor([2 / width, 2 / height])


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _nearest(vectors: Tensor, grid: Tensor) -> Tensor:
    """Vectors [1, y, x, 2] at the nearest pixel: between opposite signs a mean would vanish."""
    x = vectors.movedim(-1, 1)  # [1, 2, y, x]
    x = F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=False)
    return x.movedim(1, -1)


def _pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuses a setting out of its range, NaN too."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}.")
