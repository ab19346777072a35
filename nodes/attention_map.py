"""The node Attention Map: which part of the sketch drew which part of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..animesketchnet_core.attention_maps import attention_shares, heat_map, overlay
from ..animesketchnet_core.clip_input import fit_sketch
from ..animesketchnet_core.contact_sheet import contact_sheet, to_tensor
from .alpha_mask import AlphaMask, Grid
from .attention_patch import Patch, SketchPatch, token_grid
from .links import SketchOrigin
from .pictures import preview
from .reference import SketchReference
from .schema import schema
from .unet_call import REFERENCES, call_of

SHOWN = 16  # tokens at most; Full Face files have 257


class AttentionMap(io.ComfyNode):
    """Model with sketches and finished latent in, pictures of the attention out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetAttentionMap",
            display_name="Attention Map",
            category="AnimeSketchNet",
            description="Shows what the model looked at in the sketch. For each image token: where "
            "in the picture it is used (above) and which part of the sketch it was read from "
            "(below). With a region: which part of the sketch drew that region of the picture.",
            search_aliases=["heatmap", "explain", "visualize", "daam", "debug"],
            is_output_node=True,  # it shows what it made
            inputs=[
                io.Model.Input("model", tooltip="From Apply AnimeSketchNet."),
                io.Conditioning.Input("positive", tooltip="The prompt of the picture."),
                io.Latent.Input("samples", tooltip="The finished picture, from the sampler."),
                io.Vae.Input("vae", tooltip="Decodes the picture that the maps are laid over."),
                io.Float.Input(
                    "percent",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="The moment of the sampling that is looked at: near 0 the composition, "
                    "near 1 lines and grain.",
                ),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Which of several Apply AnimeSketchNet nodes, counted along the model.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="A part of the picture: the output sketch shows what drew it.",
                ),
            ],
            outputs=[
                io.Image.Output("tokens", display_name="tokens", tooltip="One column a token."),
                io.Image.Output(
                    "sketch",
                    display_name="sketch",
                    tooltip="The sketch, red where the region (or all of the picture) came from.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        samples: dict[str, Any],
        vae: Any,
        percent: float,
        reference: int,
        region: Tensor | None = None,
    ) -> io.NodeOutput:
        """Evaluates the model once, on the first picture of the batch."""
        chosen = chosen_reference(model, reference)
        latent = samples["samples"][:1]
        places = watch(model, chosen, positive, latent, percent)  # [tokens, h, w]
        picture = vae.decode(latent).cpu()  # [1, h, w, 3]
        grid = (places.shape[1], places.shape[2])
        uses = places.flatten(1)
        shown = uses.std(1).argsort(descending=True)[:SHOWN].sort().values
        heat = heat_map(uses[shown], grid, (picture.shape[1], picture.shape[2]))
        rows = [overlay(picture.expand(len(shown), -1, -1, -1), heat)]
        size = max(picture.shape[1:3])
        origin = chosen.origin
        if origin is not None:
            rows.append(sketch_overlay(origin, origin.patches[0, shown], size))
        tiles = torch.stack([fit_sketch(row, size) for row in rows])  # [1 or 2, shown, s, s, 3]
        titles = [f"token {int(number) + 1}" for number in shown]
        sheet = to_tensor(contact_sheet(titles, [("", tiles)]))[None]
        weights = None if region is None else region_weights(region, grid)
        drawn = region_overlay(origin, uses, weights, size)
        return io.NodeOutput(sheet, drawn, ui=preview(sheet))


def chosen_reference(model: Any, number: int) -> SketchReference:
    """Finds an applied sketch by its number along the model, 1 the first."""
    options = model.model_options.get("transformer_options", {})
    references: Sequence[SketchReference] = options.get(REFERENCES, ())
    if number > len(references):
        raise ValueError(
            f"Attention Map: reference is {number}, but {len(references)} sketches act in this "
            "model. Connect the model of Apply AnimeSketchNet with alpha above 0, and count its "
            "nodes from 1."
        )
    return references[number - 1]


@dataclass(frozen=True, eq=False)
class RecordingPatch:
    """Writes down the attention to one sketch, and otherwise does what the patch does.

    Attributes:
        patch: the patch of the layer.
        reference: the sketch.
        layer: the layer's index in the weight file.
        record: takes (shares [m, tokens of the picture], their grid) of each call.
    """

    patch: Patch
    reference: SketchReference
    layer: int
    record: list[tuple[Tensor, Grid]]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """Records the first row of the batch."""
        branch = call_of(extra_options, q).branches.get(self.reference.key)
        if branch is not None:
            key = branch.projections[self.layer][0]
            query, key = (
                rearrange(x[:1], "b n (h d) -> b h n d", h=extra_options["n_heads"])
                for x in (q, key)
            )
            shares = attention_shares(query, key)[0].T.cpu()  # [m, n]
            self.record.append((shares, token_grid(extra_options)))
        return self.patch(q, k, v, extra_options)


def watch(
    model: Any, reference: SketchReference, positive: Any, latent: Tensor, percent: float
) -> Tensor:
    """Evaluates the model once at a moment of the sampling.

    Returns:
        How much each place attends to each image token, mean over layers, [m, h, w] on the finest
        grid of tokens.
    """
    record: list[tuple[Tensor, Grid]] = []
    watched = model.clone()
    for key, patch in watched.model_options["transformer_options"]["patches_replace"][
        "attn2"
    ].items():
        if (layer := layer_of(patch, reference)) is not None:
            recording = RecordingPatch(patch, reference, layer, record)
            watched.set_model_attn2_replace(recording, *key)
    guider = comfy.samplers.CFGGuider(watched)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    sigma = watched.get_model_object("model_sampling").percent_to_sigma(max(percent, 1e-3))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sampler = comfy.samplers.KSAMPLER(evaluate_once)
    guider.sample(noise, latent, sampler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=0)
    if not record:
        raise ValueError(
            f"Attention Map: the sketch rests at percent {percent:g} (start_percent, end_percent, "
            "curve, or another prompt than its own). Choose a moment at which it acts."
        )
    finest = max((grid for _, grid in record), key=math.prod)
    maps = [
        F.interpolate(shares.unflatten(1, grid)[None], finest, mode="bilinear")[0]
        for shares, grid in record
    ]
    return torch.stack(maps).mean(0)


def layer_of(patch: Any, reference: SketchReference) -> int | None:
    """The layer in which a chain of patches applies the reference, None if it does not."""
    while isinstance(patch, SketchPatch):
        if patch.reference is reference:
            return patch.layer
        patch = patch.base
    return None


def evaluate_once(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
    """A sampler for ComfyUI that calls the model once, and never steps."""
    return model(x, sigmas[0].expand(len(x)), **(options.get("extra_args") or {}))


def region_weights(region: Tensor, grid: Grid) -> Tensor:
    """Share of each place of the picture in the region, [h * w]."""
    masks = region if region.ndim == 3 else region[None]
    weights = AlphaMask(masks[:1]).on_grid(grid, grid, [None], [0])[0, 0]
    if not 0 < float(weights.sum()) < math.inf:
        raise ValueError(
            "Attention Map: the input region is empty (black), or holds NaN or infinite values. "
            "Paint some of it."
        )
    return weights / weights.sum()


def region_overlay(
    origin: SketchOrigin | None, uses: Tensor, weights: Tensor | None, size: int
) -> Tensor:
    """The sketch, red where a region of the picture looked at more than the whole picture did.

    Args:
        origin: of the sketch; what comes out is white without it (a file does not hold it).
        uses: how much each place of the picture attends to each image token, [m, h * w].
        weights: share of each place in the region, [h * w]; None for where the whole looked.
        size: side of the square that comes out, [1, size, size, 3].
    """
    if origin is None:
        return torch.ones(1, size, size, 3)
    patches = origin.patches[0]  # [m, p]
    shares = uses.mean(1) @ patches  # [p]
    if weights is not None:
        here = weights @ uses.T @ patches
        shares = (here / shares.clamp(min=1e-12) - 1).clamp(min=0)
    return sketch_overlay(origin, shares[None], size)


def sketch_overlay(origin: SketchOrigin, shares: Tensor, size: int) -> Tensor:
    """The sketch as CLIP saw it with heat [k, p] over it, [k, size, size, 3]."""
    side = math.isqrt(shares.shape[1] - 1)  # without the class token, which sees everything
    heat = heat_map(shares[:, 1:], (side, side), (size, size))
    seen = fit_sketch(origin.seen[:1], size)
    return overlay(seen.expand(len(shares), -1, -1, -1), heat)
