"""The node Apply AnimeSketchNet: a sketch into a model, as strong as alpha says."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.unet_layers import (
    CrossAttentionLayer,
    UNetShape,
    cross_attention_layers,
)
from ..animesketchnet_core.weight_file import check_fits_unet
from .links import EncodedSketch, SketchType
from .reference import Projections, SketchReference
from .sampling import install
from .schema import schema


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
                io.Model.Input("model", tooltip="An SD v1.5 model, or the embedded mini model."),
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
            ],
            outputs=[io.Model.Output(tooltip="The model with the sketch, for a sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        sketch: EncodedSketch,
        alpha: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        """Projects the sketch for every layer, once, and puts it into a clone of the model."""
        if start_percent > end_percent:
            raise ValueError(
                f"Apply AnimeSketchNet: start_percent {start_percent} comes after end_percent "
                f"{end_percent}, so the sketch would never act. Swap them, or set alpha to 0."
            )
        layers = fitting_layers(model, sketch)
        patched = model.clone()
        if alpha != 0:  # 0 must give the very picture of a graph without this node
            reference = SketchReference(
                project(sketch, sketch.tokens),
                project(sketch, sketch.unconditional),
                alpha=alpha,
                start_percent=start_percent,
                end_percent=end_percent,
            )
            install(patched, layers, reference)
        return io.NodeOutput(patched)


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
