"""The patch that adds a sketch to one cross-attention layer of ComfyUI's UNet.

The only file that knows how ComfyUI names layers and how it calls an attn2 replace patch:
patch(q, k, v, extra_options) -> [b, n, c], with q, k, v projected and the output projection still
to come. Patches are never changed once made: ComfyUI shares them between a model and its clones.

Shapes: b rows of the UNet's batch (chunk by chunk: all latents of one conditioning, then all of the
next), n tokens of the picture, m image tokens, c channels of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..animesketchnet_core.attention import decoupled_attention
from ..animesketchnet_core.unet_layers import CrossAttentionLayer
from .alpha_mask import Grid
from .reference import SketchReference
from .unet_call import call_of

Patch = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
LayerKey = tuple[Any, ...]  # ("input", 1, 0), or ("input", 1) for all layers of a block
Patches = Mapping[LayerKey, Patch]


@dataclass(frozen=True, eq=False)
class SketchPatch:
    """Adds one reference's branch to one layer.

    Attributes:
        reference: the sketch.
        layer: the layer's index in the weight file.
        base: the patch that was there before and computes the text's branch; None for ComfyUI's
            own attention.
    """

    reference: SketchReference
    layer: int
    base: Patch | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """Computes Z of the decoupled cross-attention, [b, n, c]."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return optimized_attention(
                q,
                k,
                v,
                extra_options["n_heads"],
                attn_precision=extra_options.get("attn_precision"),
                transformer_options=extra_options,
            )

        text = self.base(q, k, v, extra_options) if self.base else attend(q, k, v)
        branch = call_of(extra_options, q).branches.get(self.reference.key)
        if branch is None:  # the sketch rests in this step
            return text
        key, value = branch.projections[self.layer]
        alpha = branch.alpha(self.layer, token_grid(extra_options))
        # Rows that share a sketch become one long row of queries: no copy of K' and V' for each.
        query, joined = (x.reshape(len(key), -1, x.shape[-1]) for x in (q, text))
        out = decoupled_attention(query, joined, key, value, alpha, attend)
        return out.reshape(text.shape)  # [b, n, c]

    def to(self, target: Any) -> SketchPatch:
        """Called by ComfyUI with a device or type; frees the GPU's memory when the model leaves."""
        if isinstance(target, torch.device) and target.type == "cpu":
            self.reference.leave_devices()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SketchPatch:
        # ComfyUI before 0.16 deep-copies a model's patches with each clone.
        return self


def token_grid(extra_options: Mapping[str, Any]) -> Grid:
    """Height and width of the layer's tokens, as the UNet itself tells them."""
    height, width = extra_options["activations_shape"][-2:]
    return int(height), int(width)


def add_to_patches(
    patches: Patches, layers: Iterable[CrossAttentionLayer], reference: SketchReference
) -> dict[LayerKey, Patch]:
    """Puts the reference into every layer where it acts, on top of what stood under its own key.

    Args:
        patches: the model's attn2 replace patches; left as they are.
        layers: the layers.
        reference: the sketch.

    Returns:
        The new attn2 replace patches.
    """
    added = {
        layer.comfy: SketchPatch(reference, layer.index, patches.get(layer.comfy))
        for layer in layers
        if reference.strength.layers[layer.index] != 0
    }
    return {**patches, **added}


def chain_short_patches(patches: Patches) -> Patches:
    """Puts patches that stand under the short key, ("input", 1), below ours under ("input", 1, 0).

    ComfyUI calls one patch only and looks for the long key first, so ours would silently switch
    them off. They are chained for the call and not when ours is applied, because packs that use
    the short key (IPAdapter_plus is one) look for their own patch there to add to it, before or
    after our node.

    Args:
        patches: the attn2 replace patches of a UNet call; left as they are.

    Returns:
        The patches to call; the same object if there is nothing to do.
    """
    hidden = {key[:2] for key in patches if len(key) == 3} & patches.keys()
    if not hidden:
        return patches
    return {
        key: _on_base(patch, patches[key[:2]])
        if isinstance(patch, SketchPatch) and key[:2] in hidden
        else patch
        for key, patch in patches.items()
    }


def _on_base(patch: SketchPatch, base: Patch) -> SketchPatch:
    """Puts a base below the lowest of our patches, unless a foreign one of the long key is."""
    below = patch.base
    if isinstance(below, SketchPatch):
        below = _on_base(below, base)
    return SketchPatch(patch.reference, patch.layer, below or base)
