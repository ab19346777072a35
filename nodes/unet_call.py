"""What all layers of one UNet call share, found before the first of them runs.

The information travels in ComfyUI's transformer_options. So no layer waits for the device, projects
anything or asks who is conditional: it looks up two tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .reference import Projections, SketchReference

# Our entries in transformer_options.
REFERENCES = "animesketchnet_references"  # tuple of SketchReference, put there by the Apply node
STEP = "animesketchnet_step"  # SamplingStep, for the UNet calls of one step
CALL = "animesketchnet_call"  # UNetCall, for one of them


@dataclass(frozen=True)
class SamplingStep:
    """What is the same for all UNet calls of one evaluation of the model.

    Attributes:
        gets_sketch: for each list of conditionings, whether it gets the sketch.
        active: keys of the references whose start_percent..end_percent holds this step.
    """

    gets_sketch: tuple[bool, ...]
    active: frozenset[int]


@dataclass(frozen=True, eq=False)
class UNetCall:
    """K' and V' for one call of the UNet, by the reference's key and the layer's index."""

    projections: Mapping[int, Projections]

    def keys_values(self, reference: SketchReference) -> Projections | None:
        """Returns a reference's K' and V', None while it does not act."""
        return self.projections.get(reference.key)


def prepare_call(
    options: Mapping[str, Any], rows: int, device: torch.device, dtype: torch.dtype
) -> UNetCall:
    """Lays out K' and V' of every active reference.

    Args:
        options: ComfyUI's transformer_options.
        rows: rows of the UNet's batch, those of one conditioning after those of another.
        device: where the UNet computes.
        dtype: in which type.
    """
    references: Sequence[SketchReference] = options.get(REFERENCES, ())
    chunks: Sequence[int] = options.get("cond_or_uncond", (0,))
    step: SamplingStep = options.get(STEP) or _step_without_guider(references, max(chunks) + 1)
    gets_sketch = tuple(step.gets_sketch[i] for i in chunks)
    latents = _latents(options, rows // len(chunks))
    return UNetCall(
        {
            reference.key: reference.arranged(gets_sketch, latents, device, dtype)
            for reference in references
            if reference.key in step.active
        }
    )


def call_of(extra_options: Mapping[str, Any], q: Tensor) -> UNetCall:
    """Returns the running call's entry; makes it if some sampler goes past ComfyUI's wrappers."""
    call = extra_options.get(CALL)
    return call or prepare_call(extra_options, len(q), q.device, q.dtype)


def _step_without_guider(references: Sequence[SketchReference], lists: int) -> SamplingStep:
    if not all(reference.always_active for reference in references):
        raise ValueError(
            "Apply AnimeSketchNet: this sampler does not run ComfyUI's model wrappers, so "
            "start_percent and end_percent are unknown to it. Set them to 0 and 1."
        )
    keys = frozenset(reference.key for reference in references)
    return SamplingStep(tuple(i == 0 for i in range(lists)), keys)


def _latents(options: Mapping[str, Any], count: int) -> Sequence[int]:
    """Numbers the latents of a chunk; a context window shows some of the batch only."""
    window = getattr(options.get("context_window"), "index_list", ())
    return window if len(window) == count else range(count)
