"""What all layers of one UNet call share, found before the first of them runs.

The information travels in ComfyUI's transformer_options. So no layer waits for the device, projects
anything or asks who is conditional: it looks up two tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .alpha_mask import Area, Grid
from .reference import Projections, SketchReference

# Our entries in transformer_options.
REFERENCES = "animesketchnet_references"  # tuple of SketchReference, put there by the Apply node
STEP = "animesketchnet_step"  # SamplingStep, for the UNet calls of one step
CALL = "animesketchnet_call"  # UNetCall, for one of them


@dataclass(frozen=True)
class Prompt:
    """What is particular to one conditioning.

    Attributes:
        marks: keys of the references that it is marked with.
        area: the part of the latent that it draws, None for all.
    """

    marks: frozenset[int] = frozenset()
    area: Area | None = None


@dataclass(frozen=True)
class SamplingStep:
    """What is the same for all UNet calls of one evaluation of the model.

    Attributes:
        gets_sketch: for each list of conditionings, whether it gets the sketches that are for no
            prompt in particular.
        prompts: by (number of the list, uuid), the conditionings.
        alphas: by reference key, alpha in this step; only references that act in it.
        latent: size of the whole latent.
    """

    gets_sketch: tuple[bool, ...]
    prompts: Mapping[tuple[int, Any], Prompt]
    alphas: Mapping[int, float]
    latent: Grid


@dataclass(frozen=True, eq=False)
class Branch:
    """One reference's branch of the attention in one call of the UNet.

    Attributes:
        projections: K' and V' by layer.
        alphas: alpha by layer; a tensor where it changes from step to step, because a number that
            changes would make torch.compile start over.
        masks: by token grid, factors of alpha [chunks, latents, tokens].
        lay: makes such a mask for a grid that was not foreseen; None without a mask.
    """

    projections: Projections
    alphas: Mapping[int, float | Tensor]
    masks: Mapping[Grid, Tensor]
    lay: Callable[[Grid], Tensor] | None

    def alpha(self, layer: int, grid: Grid) -> float | Tensor:
        """Returns alpha of a layer, a number or [rows of K', tokens of these rows, 1]."""
        alpha = self.alphas[layer]
        if self.lay is None:
            return alpha
        mask = self.masks.get(grid)
        mask = self.lay(grid) if mask is None else mask
        rows = len(self.projections[layer][0])
        return alpha * mask.reshape(rows, -1, 1)


@dataclass(frozen=True, eq=False)
class UNetCall:
    """The branches of one call of the UNet, by the reference's key; none for those that rest."""

    branches: Mapping[int, Branch]


def prepare_call(
    options: Mapping[str, Any], rows: int, device: torch.device, dtype: torch.dtype
) -> UNetCall:
    """Lays out K', V', alpha and masks of every active reference.

    Args:
        options: ComfyUI's transformer_options.
        rows: rows of the UNet's batch, those of one conditioning after those of another.
        device: where the UNet computes.
        dtype: in which type.
    """
    references: Sequence[SketchReference] = options.get(REFERENCES, ())
    chunks: Sequence[int] = options.get("cond_or_uncond", (0,))
    step: SamplingStep = options.get(STEP) or _step_without_guider(references, max(chunks) + 1)
    uuids = options.get("uuids") or [None] * len(chunks)
    prompts = [step.prompts.get(place, Prompt()) for place in zip(chunks, uuids, strict=True)]
    latents = _latents(options, rows // len(chunks))
    areas = tuple(prompt.area for prompt in prompts)
    grids = _grids(step.latent if areas[0] is None else areas[0][:2])

    def branch(reference: SketchReference) -> Branch:
        def masks(grids: tuple[Grid, ...]) -> Mapping[Grid, Tensor]:
            return reference.masks(grids, step.latent, areas, latents, device, dtype)

        if reference.for_marked_prompts:
            gets = tuple(reference.key in prompt.marks for prompt in prompts)
        else:
            gets = tuple(step.gets_sketch[i] for i in chunks)
        return Branch(
            projections=reference.arranged(gets, latents, device, dtype),
            alphas=_layer_alphas(reference, step.alphas[reference.key], device, dtype),
            masks=masks(grids),
            lay=(lambda grid: masks((grid,))[grid]) if reference.mask else None,
        )

    active = (reference for reference in references if reference.key in step.alphas)
    return UNetCall({reference.key: branch(reference) for reference in active})


def call_of(extra_options: Mapping[str, Any], q: Tensor) -> UNetCall:
    """Returns the running call's entry; makes it if some sampler goes past ComfyUI's wrappers."""
    call = extra_options.get(CALL)
    return call or prepare_call(extra_options, len(q), q.device, q.dtype)


def _layer_alphas(
    reference: SketchReference, alpha: float, device: torch.device, dtype: torch.dtype
) -> Mapping[int, float | Tensor]:
    factors = reference.strength.layers
    if reference.strength.constant:
        return {layer: alpha * factor for layer, factor in factors.items()}
    made = {f: torch.full((), alpha * f, device=device, dtype=dtype) for f in set(factors.values())}
    return {layer: made[factor] for layer, factor in factors.items()}


def _grids(latent: Grid) -> tuple[Grid, ...]:
    """The token grids of a Stable Diffusion UNet: each level halves, rounding up."""
    grids = [latent]
    for _ in range(_MOST_LEVELS - 1):
        height, width = grids[-1]
        grids.append((-(-height // 2), -(-width // 2)))
    return tuple(grids)


_MOST_LEVELS = 4


def _step_without_guider(references: Sequence[SketchReference], lists: int) -> SamplingStep:
    if not all(reference.strength.constant for reference in references):
        raise ValueError(
            "Apply AnimeSketchNet: this sampler does not run ComfyUI's model wrappers, so "
            "start_percent, end_percent and curve are unknown to it. Set them to 0 and 1, and "
            "disconnect curve."
        )
    if any(reference.for_marked_prompts for reference in references):
        raise ValueError(
            "Apply AnimeSketchNet: this sampler does not run ComfyUI's model wrappers, so it "
            "cannot tell which prompt a sketch belongs to. Disconnect the input prompt."
        )
    alphas = {reference.key: reference.strength.alpha for reference in references}
    return SamplingStep(tuple(i == 0 for i in range(lists)), {}, alphas, (1, 1))


def _latents(options: Mapping[str, Any], count: int) -> Sequence[int]:
    """Numbers the latents of a chunk; a context window shows some of the batch only."""
    window = options.get("context_window")
    shown = list(getattr(window, "index_list", ()))
    # Newer ComfyUI (0.28 does, 0.3.75 does not) shows the latent before the window first.
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None:
        shown.insert(0, anchor)
    return shown if len(shown) == count else range(count)
