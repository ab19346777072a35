"""The node Apply AnimeSketchNet: a sketch into a model, as strong as alpha says."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.alpha_curve import AlphaCurve
from ..animesketchnet_core.layer_alphas import LayerAlphas
from ..animesketchnet_core.unet_layers import (
    CrossAttentionLayer,
    UNetShape,
    cross_attention_layers,
)
from ..animesketchnet_core.weight_file import check_fits_unet
from .alpha_mask import AlphaMask
from .links import CurveType, EncodedSketch, LayersType, SketchType
from .reference import Projections, SketchReference
from .sampling import MARKS, install
from .schema import schema
from .strength import Strength

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING: (text embeddings, options) for each part of a prompt."""


class ApplyAnimeSketchNet(io.ComfyNode):
    """MODEL and encoded sketch in, MODEL with the sketch out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetApply",
            display_name="Apply AnimeSketchNet",
            category="AnimeSketchNet",
            description="Makes a model draw after a reference sketch as well as after the prompt. "
            "Several of these nodes in a row add up.",
            search_aliases=["ip-adapter", "ipadapter", "sketch", "reference", "image prompt"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model of the adapter's family: SD v1.5, SDXL, or the "
                    "embedded mini model.",
                ),
                SketchType.Input("sketch", tooltip="The reference, from Encode Sketch."),
                io.Float.Input(
                    "alpha",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much of the picture comes from the sketch: 0 none, the prompt "
                    "alone; 0.5 both; 1 the sketch as strongly as it was trained.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="From where on the sketch acts: 0 is the first step, 1 the last. "
                    "Started late, it leaves the composition to the prompt.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Up to where the sketch acts: 0 is the first step, 1 the last. "
                    "Ended early, it leaves the details to the prompt.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the sketch acts: white fully, black not at all. Any size; it "
                    "covers the whole picture. Several masks go one to a latent of the batch.",
                ),
                CurveType.Input(
                    "curve",
                    optional=True,
                    tooltip="How alpha changes over the steps, from Alpha over Steps.",
                ),
                LayersType.Input(
                    "layers",
                    optional=True,
                    tooltip="How alpha differs between layers, from Alpha over Layers: style only, "
                    "composition only, ...",
                ),
                SketchType.Input(
                    "negative_sketch",
                    optional=True,
                    tooltip="A sketch to stay away from: the negative prompt sees it where it "
                    "otherwise sees no sketch.",
                ),
                io.Conditioning.Input(
                    "prompt",
                    optional=True,
                    tooltip="Ties the sketch to this prompt: no other prompt gets it. Connect the "
                    "output prompt instead of it from here on. Without it, the whole positive "
                    "prompt gets the sketch.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the sketch, for a sampler."),
                io.Conditioning.Output(
                    "tied_prompt",
                    display_name="prompt",
                    tooltip="The input prompt, tied to the sketch; nothing if none is connected.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        sketch: EncodedSketch,
        alpha: float,
        start_percent: float,
        end_percent: float,
        mask: Tensor | None = None,
        curve: AlphaCurve | None = None,
        layers: LayerAlphas | None = None,
        negative_sketch: EncodedSketch | None = None,
        prompt: Conditioning | None = None,
    ) -> io.NodeOutput:
        """Projects the sketch for every layer, once, and puts it into a clone of the model."""
        if start_percent > end_percent:
            raise ValueError(
                f"Apply AnimeSketchNet: start_percent {start_percent} comes after end_percent "
                f"{end_percent}, so the sketch would never act. Swap them, or set alpha to 0."
            )
        places = fitting_layers(model, sketch)
        factors = layer_factors(layers or LayerAlphas(), places)
        patched = model.clone()
        if alpha == 0 or not any(factors.values()):
            return io.NodeOutput(patched, prompt)  # the very picture of a graph without this node
        reference = SketchReference(
            project(sketch, sketch.tokens),
            project(sketch, unconditional_tokens(sketch, negative_sketch)),
            Strength(alpha, start_percent, end_percent, curve, factors),
            mask=None if mask is None else AlphaMask(checked_mask(mask)),
            for_marked_prompts=prompt is not None,
            origin=sketch.origin,
        )
        install(patched, places, reference)
        return io.NodeOutput(patched, prompt and marked(prompt, reference))


def layer_factors(layers: LayerAlphas, places: tuple[CrossAttentionLayer, ...]) -> dict[int, float]:
    """Returns the factor of alpha of each of the model's layers."""
    try:
        return layers.by_index(places)
    except ValueError as error:
        raise ValueError(f"Apply AnimeSketchNet, input layers: {error}") from error


def unconditional_tokens(sketch: EncodedSketch, negative: EncodedSketch | None) -> Tensor:
    """Returns what prompts without the sketch see: the trained "no sketch", or the negative one."""
    if negative is None:
        return sketch.unconditional
    if negative.tokens.shape[1:] != sketch.tokens.shape[1:]:
        raise ValueError(
            f"Apply AnimeSketchNet: negative_sketch has {list(negative.tokens.shape[1:])} (tokens, "
            f"width) and sketch has {list(sketch.tokens.shape[1:])}. Encode both with the same "
            "adapter and the same settings."
        )
    return negative.tokens


def checked_mask(mask: Tensor) -> Tensor:
    """Brings a MASK to [k, h, w].

    Raises:
        ValueError: it is none, is empty, or has values that are not finite.
    """
    masks = mask if mask.ndim == 3 else mask[None]
    if masks.ndim != 3 or masks.numel() == 0 or not masks.isfinite().all():
        raise ValueError(
            f"Apply AnimeSketchNet: the input mask needs finite values as [masks, height, width], "
            f"got {list(mask.shape)}. Connect a MASK, for instance of Load Image (as Mask)."
        )
    return masks.clamp(0, 1)


def marked(prompt: Conditioning, reference: SketchReference) -> Conditioning:
    """Ties the reference to a prompt, beside those that it has already."""
    return [
        [text, {**options, MARKS: (*options.get(MARKS, ()), reference.key)}]
        for text, options in prompt
    ]


def project(sketch: EncodedSketch, tokens: Tensor) -> Projections:
    """Computes K' and V' of every layer on the adapter's device and brings them to the CPU."""
    adapter = sketch.adapter.ready()
    projected = adapter.keys_values(tokens.to(sketch.adapter.patcher.load_device))
    return {index: (key.cpu(), value.cpu()) for index, (key, value) in projected.items()}


def fitting_layers(model: Any, sketch: EncodedSketch) -> tuple[CrossAttentionLayer, ...]:
    """Returns the model's cross-attention layers, if they are those of the adapter.

    Raises:
        ValueError: the model is no Stable Diffusion UNet, or one of other sizes.
    """
    try:
        shape = UNetShape.from_comfy(model.model.model_config.unet_config)
        check_fits_unet(sketch.adapter.patcher.model.state_dict(), shape)
    except ValueError as error:  # WrongAdapterError is one
        raise type(error)(
            f"Apply AnimeSketchNet, input model ({sketch.adapter.name}): {error}"
        ) from error
    return cross_attention_layers(shape)
