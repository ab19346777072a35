"""The node Alpha over Layers: which of the UNet's layers a sketch acts in."""

from __future__ import annotations

from comfy_api.latest import io

from ..animesketchnet_core.layer_alphas import PRESETS, LayerAlphas
from .links import LayersType
from .schema import schema


class AlphaOverLayers(io.ComfyNode):
    """Preset and list in, factors of alpha by layer out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetAlphaOverLayers",
            display_name="Alpha over Layers",
            category="AnimeSketchNet",
            description="Lets the sketch act in some layers of the model only, which decide over "
            "different sides of a drawing.",
            search_aliases=["style transfer", "composition", "weight type", "block weights"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="all",
                    tooltip="What to take over from the sketch. all: everything. style: how it is "
                    "drawn, while the prompt decides what and where. composition: what is where, "
                    "while the prompt decides how it is drawn. line: its strokes and paper only.",
                ),
                io.String.Input(
                    "factors",
                    default="",
                    tooltip="Changes the preset by name:factor, with commas between, such as "
                    "down.2:0.5, mid:1, up.1.1:0. The beginning of a name stands for all layers "
                    "that begin so, all for every layer; a later entry wins.",
                ),
            ],
            outputs=[LayersType.Output("layers", tooltip="For Apply AnimeSketchNet.")],
        )

    @classmethod
    def validate_inputs(cls, factors: str | None) -> bool | str:
        """Names a wrong entry before anything runs."""
        try:
            LayerAlphas.from_text(factors or "")
        except ValueError as error:
            return f"Alpha over Layers, input factors: {error}"
        return True

    @classmethod
    def execute(cls, preset: str, factors: str) -> io.NodeOutput:
        """Reads the list."""
        return io.NodeOutput(LayerAlphas.from_text(factors, preset))
