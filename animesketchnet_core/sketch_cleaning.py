"""Cleans a scanned, photographed or extracted sketch: white paper, dark lines, no specks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .clip_input import check_image, flatten_onto_white, unit_range
from .line_weight import change_width
from .paper import whiten
from .progress import OnProgress
from .sketch_extraction import check_range, lightness
from .specks import remove_specks as without_specks


def clean_sketch(
    image: Tensor,
    *,
    whiten_paper: float = 1.0,
    remove_specks: float = 4.0,
    line_weight: float = 0.0,
    ink: float = 0.5,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Cleans sketches: paper first, then ink, specks, and the lines' width.

    Lengths are in thousandths of the picture's shorter side, so that a sketch of twice the size is
    cleaned alike. At 0 a step changes nothing at all.

    Args:
        image: sketches [b, h, w, c], float in [0, 1], c = 1 (grey), 3 (RGB) or 4 (RGB and opacity),
            dark on light.
        whiten_paper: how much of the paper's tone is taken away, 0 (none) to 1 (all).
        remove_specks: largest height and width of a speck, 0 to 20 thousandths.
        line_weight: how much wider lines become, -5 to 5 thousandths.
        ink: how much darker the lines become, 0 (as they are) to 1 (the darkest are black).
        on_progress: told of each picture's steps.

    Returns:
        Sketches [b, h, w, 3], float32 in [0, 1].

    Raises:
        TypeError: the picture's values are not floats.
        ValueError: no such layout, values that are not finite, or a setting out of its range.
    """
    check_image(image)
    check_range("whiten_paper", whiten_paper, 0, 1)
    check_range("remove_specks", remove_specks, 0, 20)
    check_range("line_weight", line_weight, -5, 5)
    check_range("ink", ink, 0, 1)
    thousandth = min(image.shape[1:3]) / 1000
    told = on_progress or (lambda done, total: None)
    steps: tuple[tuple[bool, Callable[[Tensor], Tensor]], ...] = (
        (whiten_paper > 0, lambda picture: torch.lerp(picture, whiten(picture), whiten_paper)),
        (ink > 0, lambda picture: darken_ink(picture, ink)),
        (remove_specks > 0, lambda picture: without_specks(picture, remove_specks * thousandth)),
        (
            line_weight != 0,  # takes longer than all before it
            lambda picture: change_width(
                picture,
                line_weight * thousandth,
                lambda done, total: told(3 * total + done, 4 * total),
            ),
        ),
    )
    cleaned = []
    for picture in image:
        picture = flatten_onto_white(unit_range(picture))  # [h, w, 3]
        for done, (wanted, step) in enumerate(steps, 1):
            if wanted:
                picture = step(picture)
            told(done, len(steps))
        cleaned.append(picture)
    return torch.stack(cleaned).contiguous()


def darken_ink(picture: Tensor, amount: float) -> Tensor:
    """Stretches a drawing's tones down from white, so that smooth edges stay as wide as they are.

    Args:
        picture: dark on white [h, w, 3], float32 in [0, 1].
        amount: 0 (as it is) to 1 (the darkest fiftieth of the ink becomes black).

    Returns:
        The drawing [h, w, 3].
    """
    step = max(1, picture.shape[0] * picture.shape[1] // _SAMPLES)
    tones = lightness(picture.flatten(0, 1)[::step])
    strokes = tones[tones < _PAPER].sort().values
    if len(strokes) == 0:
        return picture
    black = amount * strokes[len(strokes) // 50]  # grey areas beside black lines stay grey
    return ((picture - black) / (1 - black)).clamp(0, 1)


_PAPER = 0.85  # of lightness; what is lighter is paper, or a stroke's edge
_SAMPLES = 1 << 20
