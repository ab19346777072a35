"""Where in the picture a sketch acts: a mask of any size, laid onto the layers' own token grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""Height and width of a layer's tokens, or of the latent."""

Area = tuple[int, int, int, int]
"""(height, width, y, x) in the latent: the part that an area prompt draws."""


class AlphaMask:
    """A factor of alpha for each place of the picture, one mask for all latents or one for each.

    It covers the whole picture, whatever its own size and aspect. Never changes.
    """

    def __init__(self, masks: Tensor) -> None:
        """Keeps the masks, [k, h, w] in [0, 1]."""
        self.masks = masks.float().cpu()
        self.count = len(masks)

    def on_grid(
        self, grid: Grid, latent: Grid, areas: Sequence[Area | None], latents: Sequence[int]
    ) -> Tensor:
        """Lays the mask onto the tokens of each chunk's latents.

        Args:
            grid: the layer's tokens.
            latent: size of the whole latent.
            areas: for each chunk of the batch, the part of the latent it draws; None for all.
            latents: numbers of the latents in each chunk; latent i has mask i modulo count.

        Returns:
            Factors [chunks, len(latents), tokens] on the CPU.
        """
        chosen = [i % self.count for i in latents]
        return torch.stack([self._part(grid, latent, area)[chosen] for area in areas])

    def _part(self, grid: Grid, latent: Grid, area: Area | None) -> Tensor:
        masks = self.masks
        if area is not None:
            height, width, top, left = area
            masks = _resized(masks, latent)[:, top : top + height, left : left + width]
        return _resized(masks, grid).flatten(1)  # [k, tokens]

    def __deepcopy__(self, memo: dict[int, Any]) -> AlphaMask:
        return self


def _resized(masks: Tensor, grid: Grid) -> Tensor:
    if masks.shape[1:] == grid:
        return masks
    return F.interpolate(masks[:, None], size=grid, mode="bilinear", antialias=True)[:, 0]
