"""One applied sketch: K' and V' of all layers, computed once, and how strong and when it acts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .alpha_mask import AlphaMask, Area, Grid
from .links import SketchOrigin
from .strength import Strength

Projections = Mapping[int, tuple[Tensor, Tensor]]
"""By layer index, (K', V'), each [rows, m, c]: m image tokens, c channels of the layer."""

_keys = itertools.count()
_MOST_ARRANGEMENTS = 16  # a few while sampling; more only where context windows move on


class SketchReference:
    """What Apply AnimeSketchNet puts into a model. Never changes; only its cache fills.

    The projections stay in float32 on the CPU (3 MB for SD v1.5). The device gets what the UNet
    reads, 1.6 MB in half precision: one K' and V' for each conditioning, however many latents.
    """

    def __init__(
        self,
        sketches: Projections,
        unconditional: Projections,
        strength: Strength,
        *,
        mask: AlphaMask | None = None,
        for_marked_prompts: bool = False,
        origin: SketchOrigin | None = None,
    ) -> None:
        """Keeps the projections.

        Args:
            sketches: K' and V' of n sketches, each [n, m, c], on the CPU.
            unconditional: K' and V' of "no sketch", or of the negative sketches, each [k, m, c].
            strength: alpha over steps and layers.
            mask: alpha over the picture, None for 1 everywhere.
            for_marked_prompts: only conditionings that carry this reference's key get the sketch,
                not all of the positive prompt.
            origin: where the image tokens came from, for those who look into the attention.
        """
        self.key = next(_keys)
        self.strength = strength
        self.mask = mask
        self.for_marked_prompts = for_marked_prompts
        self.origin = origin
        self.count = _rows(sketches)
        self._sketches = sketches
        self._unconditional = unconditional
        self._arranged: dict[tuple[Any, ...], Any] = {}

    def arranged(
        self,
        gets_sketch: tuple[bool, ...],
        latents: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Projections:
        """Lays out K' and V' as a call of the UNet needs them; the same tensors for the same call.

        Args:
            gets_sketch: for each chunk of the batch, whether it gets the sketch.
            latents: numbers of the latents in each chunk; latent i gets sketch i modulo count.
            device: where the UNet computes.
            dtype: in which type.

        Returns:
            K' and V' with one row for each chunk; with several sketches, one for each latent of
            each chunk.
        """
        # Windows that move over a long batch see the same sketches again after so many latents.
        period = math.lcm(self.count, _rows(self._unconditional))
        chosen = tuple(i % period for i in latents) if period > 1 else (0,)
        return self._kept(self._arrange, device, dtype, gets_sketch, chosen)

    def masks(
        self,
        grids: tuple[Grid, ...],
        latent: Grid,
        areas: tuple[Area | None, ...],
        latents: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Mapping[Grid, Tensor]:
        """Lays the mask onto token grids (see `AlphaMask.on_grid`); empty without a mask.

        Returns:
            By grid, [chunks, len(latents), tokens].
        """
        if self.mask is None:
            return {}
        return self._kept(self._lay, device, dtype, grids, latent, areas, tuple(latents))

    def _kept(
        self, make: Callable[..., Any], device: torch.device, dtype: torch.dtype, *what: Any
    ) -> Any:
        key = (device, dtype, *what)
        found = self._arranged.get(key)
        if found is None:
            found = make(device, dtype, *what)
            if len(self._arranged) >= _MOST_ARRANGEMENTS:
                self._arranged.clear()
            self._arranged[key] = found
        return found

    def _arrange(
        self,
        device: torch.device,
        dtype: torch.dtype,
        gets_sketch: tuple[bool, ...],
        chosen: tuple[int, ...],
    ) -> Projections:
        def rows(sketch: Tensor, none: Tensor) -> Tensor:
            shown = sketch[[i % len(sketch) for i in chosen]]  # [len(chosen), m, c]
            hidden = none[[i % len(none) for i in chosen]]
            stacked = torch.cat([shown if gets else hidden for gets in gets_sketch])
            return stacked.to(device, dtype)  # [chunks * len(chosen), m, c]

        arranged = {}
        for layer, (key, value) in self._sketches.items():
            none_key, none_value = self._unconditional[layer]
            arranged[layer] = (rows(key, none_key), rows(value, none_value))
        return arranged

    def _lay(
        self, device: torch.device, dtype: torch.dtype, grids: tuple[Grid, ...], *place: Any
    ) -> Mapping[Grid, Tensor]:
        assert self.mask is not None
        return {grid: self.mask.on_grid(grid, *place).to(device, dtype) for grid in grids}

    def leave_devices(self) -> None:
        """Frees what was laid out on devices other than the CPU."""
        for key in list(self._arranged):  # another GPU's thread may add to it meanwhile
            if key[0].type != "cpu":
                self._arranged.pop(key, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> SketchReference:
        # It never changes, so a model's clones share it (see SketchPatch).
        return self


def _rows(projections: Projections) -> int:
    return len(next(iter(projections.values()))[0])
