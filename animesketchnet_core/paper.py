"""Makes photographed or scanned paper white: uneven light, shadows and yellowed paper go.

The paper's colour is looked for in cells of a grid: most of a cell's brighter pixels are paper.
Light on paper changes gradually, and what was drawn has edges. So paper is what can be reached from
its usual tone in small steps from cell to cell; other cells, black or grey, take their neighbours'
paper. Dividing by it leaves the drawing on even white.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def whiten(picture: Tensor) -> Tensor:
    """Divides a drawing by the colour of its paper.

    Args:
        picture: [h, w, 3], float32 in [0, 1], dark on light.

    Returns:
        The same [h, w, 3] on white; ink keeps its darkness against the paper.
    """
    ratio = picture / paper_colour(picture)
    return (ratio / _white_point(ratio)).clamp(0, 1)


def paper_colour(picture: Tensor) -> Tensor:
    """Finds the paper's colour under each pixel of a drawing; both [h, w, 3]."""
    height, width, _ = picture.shape
    side = max(1, min(height, width) // _CELLS)
    # Some pixels of a cell are enough, and as many in a large picture as in a small one.
    step = max(1, side // 16)
    side = side // step * step
    bright = _bright_of_cells(picture[::step, ::step], side // step)  # [1, 3, rows, columns]
    bright = bright.clamp(min=_DARKEST)
    paper = _filled(bright, _is_paper(bright.mean(1, keepdim=True)))
    paper = _blur(_close(_extended(paper, _MARGIN), 1))
    size = (paper.shape[2] * side, paper.shape[3] * side)
    whole = F.interpolate(paper, size, mode="bilinear")[0].movedim(0, -1)
    margin = _MARGIN * side
    return whole[margin : margin + height, margin : margin + width]


def _is_paper(tone: Tensor) -> Tensor:
    """Whether cells of this tone are paper, 0 or 1; both [1, 1, rows, columns]."""
    # At least a quarter of a drawing is bare paper; 'higher' is a tone that some cell has.
    usual = tone.flatten().quantile(0.75, interpolation="higher")
    paper = ((tone / usual - 1).abs() < _STEP).float()
    while True:
        near = _neighbours(tone * paper) / _neighbours(paper).clamp(min=1e-6)
        grown = paper.maximum(((tone / near.clamp(min=1e-6) - 1).abs() < _STEP).float())
        if torch.equal(grown, paper):
            break
        paper = grown
    # Cells beside ink that are darker than the paper near them have some of its edge.
    edge = (_neighbours(1 - paper) > 0) & (tone < (1 - _STEP / 4) * near)
    return paper * (~edge).float()


def _filled(bright: Tensor, paper: Tensor) -> Tensor:
    """Gives cells that are no paper the mean of the paper next to them; [1, 3, rows, columns]."""
    filled, known = bright * paper, paper
    while not known.all():
        near = _neighbours(known)
        mean = _neighbours(filled) / near.clamp(min=1e-6)
        filled = torch.where(known > 0, filled, mean)
        known = known.maximum((near > 0).float())
    return filled


_CELLS = 40  # along the shorter side
_MARGIN = 4  # cells
_DARKEST = 0.05
_STEP = 0.12  # by which light may change from cell to cell
_SAMPLES = 1 << 20


def _bright_of_cells(picture: Tensor, side: int) -> Tensor:
    """The 80th percentile of each cell of side by side pixels; [1, 3, rows, columns]."""
    planes = picture.movedim(-1, 0)[None]  # [1, 3, h, w]
    pad = (0, -planes.shape[3] % side, 0, -planes.shape[2] % side)
    planes = F.pad(planes, pad, mode="replicate")
    cells = planes.unfold(2, side, side).unfold(3, side, side).flatten(4)
    return cells.kthvalue(1 + int(0.8 * (side * side - 1)), dim=-1).values


def _extended(x: Tensor, margin: int) -> Tensor:
    """Continues cells [1, c, rows, columns] beyond the border as light falls off there."""
    for dim in (2, 3):
        inner = min(margin, x.shape[dim] - 1)
        steps = torch.arange(1, margin + 1).to(x).view([-1 if i == dim else 1 for i in range(4)])
        sides = []
        for edge, inside in ((0, inner), (-1, -1 - inner)):
            edge, inside = x.select(dim, edge), x.select(dim, inside)
            slope = (edge - inside) / max(1, inner)
            sides.append(edge.unsqueeze(dim) + slope.unsqueeze(dim) * steps)
        x = torch.cat([sides[0].flip(dim), x, sides[1]], dim=dim)
    return x.clamp(_DARKEST, 1)


def _close(x: Tensor, radius: int) -> Tensor:
    """Fills what is darker than its surroundings and at most 2 radius wide."""
    size = 2 * radius + 1
    grown = F.max_pool2d(x, size, stride=1, padding=radius)
    return -F.max_pool2d(-grown, size, stride=1, padding=radius)


def _neighbours(x: Tensor) -> Tensor:
    """Sums 3 by 3 cells; there are none beyond the border."""
    return 9 * F.avg_pool2d(x, 3, stride=1, padding=1)


def _blur(x: Tensor) -> Tensor:
    """Averages over 3 by 3 cells, twice; beyond the border the nearest cells go on."""
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return x


def _white_point(ratio: Tensor) -> Tensor:
    """What is to become white: below the paper's tone by as much as its grain reaches."""
    values = ratio.flatten()
    values = values[:: max(1, len(values) // _SAMPLES)]
    paper = values[values > 0.8].sort().values
    if len(paper) == 0:
        return values.new_tensor(1.0)
    middle, high = paper[len(paper) // 2], paper[int(0.98 * (len(paper) - 1))]
    # The brighter half of the grain is measured: the darker one has faint strokes in it.
    return (middle - 1.4 * (high - middle)).clamp(0.8, 1.0)
