"""Draws a colour picture in ink: lines and solid blacks (XDoG).

Winnemoeller, Kyprianidis, Olsen, "XDoG: An eXtended difference-of-Gaussians compendium including
advanced image stylization" (Computers & Graphics 2012), along the flow as its section 2.4:

    S = (1 + p) G(sigma) - p G(k sigma)
    T = 1 where S >= epsilon, else 1 + tanh(phi (S - epsilon))

A fixed epsilon drowns a dark picture in black and leaves a bright one empty. Here it is taken from
the picture, so that a given share of it becomes ink.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .clip_input import check_image
from .progress import OnProgress
from .sketch_extraction import Settings, check_range, line_response


def extract_ink(
    image: Tensor,
    line_width: float = 1.0,
    detail: float = 0.5,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Draws pictures in ink, dark on white.

    Args:
        image: pictures [b, h, w, c], float in [0, 1], c = 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        line_width: width of the lines, 0.25 (fine) to 4 (bold), 1 is usual.
        detail: how much of the picture becomes ink, 0 (5%) to 1 (45%), less if it has no darks.
        on_progress: told of each picture's strips.

    Returns:
        Drawings [b, h, w, 3], float32 in [0, 1], the three channels equal.

    Raises:
        TypeError: the picture's values are not floats.
        ValueError: no such layout, values that are not finite, or a setting out of its range.
    """
    check_image(image)
    drawings = [draw_ink(picture, line_width, detail, on_progress) for picture in image]
    return torch.stack(drawings).unsqueeze(-1).repeat(1, 1, 1, 3)  # [b, h, w, 3]


def draw_ink(
    picture: Tensor,
    line_width: float = 1.0,
    detail: float = 0.5,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Draws one picture in ink (see `extract_ink`); it takes up to 20 bytes a pixel for it.

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
    settings = Settings.scaled(min(picture.shape[:2]), line_width, narrow=1 + _P, wide=_P)
    share = 0.05 * 9**detail  # 0.15 at detail 0.5
    return _threshold(line_response(picture, settings, on_progress), share)


_P = 20.0
_PHI = 40.0
_LIGHTEST_INK = 0.9  # grain of white paper stays paper, whatever the share
_SAMPLES = 1 << 20
_SHARES = torch.linspace(0.75, 1.25, 51)  # around the share that is asked for
_STEP = 0.02  # between shades of a flat colour or a soft gradient there is less


def _threshold(s: Tensor, share: float) -> Tensor:
    """Soft threshold of the response [h, w] at the value that `share` of it lies below.

    A picture of few flat colours has a step near that share, and nothing in between: there the
    threshold lies in the middle of the step, so that a colour is ink as a whole or not at all.
    """
    values = s.flatten()
    values = values[:: max(1, len(values) // _SAMPLES)].sort().values
    near = values[(share * _SHARES * (len(values) - 1)).long()]
    steps = near.diff()
    widest = int(steps.argmax())
    epsilon = near[widest : widest + 2].mean() if steps[widest] > _STEP else near[len(near) // 2]
    return (s - epsilon.clamp(max=_LIGHTEST_INK)).clamp_(max=0).mul_(_PHI).tanh_().add_(1)
