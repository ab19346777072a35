"""The drawing styles of the mini world: line weight, grain, ink, paper; captions may omit them.

A picture is drawn once, by Lorelei's designer; we redraw it with another pen on another paper, so
that a reference sketch carries something that the prompt does not say.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

# The words that captions use. The first of each axis is the plain one and the most frequent.
LINES = ("regular lines", "fine lines", "bold lines")
GRAINS = ("solid", "pencil grain")
INKS = ("black ink", "grey ink")
PAPERS = ("white paper", "grey paper")
AXES: dict[str, tuple[str, ...]] = {
    "lines": LINES,
    "grain": GRAINS,
    "ink": INKS,
    "paper": PAPERS,
}

INK_VALUES = torch.tensor([15, 100]) / 255
PAPER_VALUES = torch.tensor([255, 212]) / 255

PICTURE_SIZE = 128
HATCHING_PERIOD = 8  # pixels
# 99% of the portraits lie in this square of the 256 x 256 originals: (left, top, side), in pixels.
FRAME = (14, 4, 228)


@dataclass(frozen=True)
class Style:
    """One drawing style: an index into each axis of AXES."""

    lines: int = 0
    grain: int = 0
    ink: int = 0
    paper: int = 0

    def words(self) -> list[str]:
        """The style in words, one for each axis."""
        return [AXES[field.name][getattr(self, field.name)] for field in fields(self)]

    def code(self) -> str:
        """A short name for file names and groups, such as '0120'."""
        return "".join(str(index) for index in astuple(self))

    @classmethod
    def draw(cls, rng: random.Random) -> Style:
        """A random style; the plain choice of each axis has twice the weight of any other."""
        chosen = {
            name: rng.choices(range(len(words)), [2] + [1] * (len(words) - 1))[0]
            for name, words in AXES.items()
        }
        return cls(**chosen)

    @classmethod
    def draw_uniform(cls, rng: random.Random) -> Style:
        """A random style with every choice equally likely, for measuring."""
        return cls(**{name: rng.randrange(len(words)) for name, words in AXES.items()})


def render(portraits: Tensor, styles: Sequence[Style]) -> Tensor:
    """Draws portraits in the given styles.

    Args:
        portraits: [b, 256, 256] uint8, 0 = ink, 255 = paper.
        styles: one for each portrait.

    Returns:
        [b, 3, 128, 128] float in [0, 1].
    """
    left, top, side = FRAME
    paper = portraits[:, None, top : top + side, left : left + side].float() / 255
    paper = _weigh_lines(paper, torch.tensor([style.lines for style in styles]))
    ink = 1 - F.interpolate(paper, size=(PICTURE_SIZE, PICTURE_SIZE), mode="area")
    grainy = torch.tensor([style.grain for style in styles], dtype=torch.float32)
    ink = ink * (1 - grainy[:, None, None, None] * _hatching(ink))
    full = INK_VALUES[[style.ink for style in styles], None, None, None]
    empty = PAPER_VALUES[[style.paper for style in styles], None, None, None]
    return (empty + (full - empty) * ink).expand(-1, 3, -1, -1)


def _weigh_lines(paper: Tensor, lines: Tensor) -> Tensor:
    """Thins lines by half a pixel of the original on each side, or thickens them by one."""
    paper = paper.clone()
    if (fine := lines == LINES.index("fine lines")).any():
        doubled = F.interpolate(paper[fine], scale_factor=2, mode="bilinear")
        paper[fine] = F.avg_pool2d(F.max_pool2d(doubled, 3, 1, 1), 2)
    if (bold := lines == LINES.index("bold lines")).any():
        paper[bold] = -F.max_pool2d(-paper[bold], 3, 1, 1)
    return paper


def _hatching(ink: Tensor) -> Tensor:
    """How much ink the pencil leaves out: diagonal gaps in filled areas, faint ones in lines.

    The strokes' period divides the autoencoder's cell of 8 pixels, so a latent can hold them.
    """
    along = torch.arange(PICTURE_SIZE)
    gaps = 0.5 + 0.5 * torch.cos((along[:, None] + along) * (2 * torch.pi / HATCHING_PERIOD))
    filled = ((F.avg_pool2d(ink, 9, 1, 4) - 0.35) * 4).clamp(0.15, 1)
    return 0.8 * gaps * filled  # b 1 h w
