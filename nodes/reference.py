"""One applied sketch: K' and V' of all layers, computed once, and how strong and when it acts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Projections = Mapping[int, tuple[Tensor, Tensor]]
"""By layer index, (K', V'), each [rows, m, c]: m image tokens, c channels of the layer."""

_keys = itertools.count()
_MOST_ARRANGEMENTS = 8  # one or two while sampling; more only where context windows move on


class SketchReference:
    """What Apply AnimeSketchNet puts into a model. Never changes; only its cache fills.

    The projections stay in float32 on the CPU (3 MB for SD v1.5). The device gets what the UNet
    reads, 1.6 MB in half precision: one K' and V' for each conditioning, however many latents.
    """

    def __init__(
        self,
        sketches: Projections,
        unconditional: Projections,
        *,
        alpha: float,
        start_percent: float,
        end_percent: float,
    ) -> None:
        """Keeps the projections.

        Args:
            sketches: K' and V' of n sketches, each [n, m, c], on the CPU.
            unconditional: K' and V' of "no sketch", each [1, m, c], on the CPU.
            alpha: strength of the sketch.
            start_percent: from where on it acts, in [0, 1] of the sampling's noise schedule.
            end_percent: up to where.
        """
        self.key = next(_keys)
        self.alpha = alpha
        self.start_percent = start_percent
        self.end_percent = end_percent
        self.count = len(next(iter(sketches.values()))[0])
        self._sketches = sketches
        self._unconditional = unconditional
        self._arranged: dict[tuple[Any, ...], Projections] = {}

    @property
    def always_active(self) -> bool:
        """Whether start_percent and end_percent leave no step out."""
        return self.start_percent <= 0 and self.end_percent >= 1

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
        chosen = tuple(i % self.count for i in latents) if self.count > 1 else (0,)
        key = (gets_sketch, chosen, device, dtype)
        found = self._arranged.get(key)
        if found is None:
            found = self._arrange(*key)
            if len(self._arranged) >= _MOST_ARRANGEMENTS:
                self._arranged.clear()
            self._arranged[key] = found
        return found

    def _arrange(
        self,
        gets_sketch: tuple[bool, ...],
        chosen: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Projections:
        def rows(sketch: Tensor, none: Tensor) -> Tensor:
            shown = sketch[list(chosen)]  # [len(chosen), m, c]
            hidden = none.expand(len(chosen), -1, -1)
            stacked = torch.cat([shown if gets else hidden for gets in gets_sketch])
            return stacked.to(device, dtype)  # [chunks * len(chosen), m, c]

        arranged = {}
        for layer, (key, value) in self._sketches.items():
            none_key, none_value = self._unconditional[layer]
            arranged[layer] = (rows(key, none_key), rows(value, none_value))
        return arranged

    def leave_devices(self) -> None:
        """Frees what was laid out on devices other than the CPU."""
        for key in list(self._arranged):  # another GPU's thread may add to it meanwhile
            if key[2].type != "cpu":
                self._arranged.pop(key, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> SketchReference:
        # It never changes, so a model's clones share it (see SketchPatch).
        return self
