"""The node Sketch from Image: the lines of a colour picture, as a reference for Encode Sketch."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.sketch_extraction import extract_lines
from .schema import schema


class SketchFromImage(io.ComfyNode):
    """IMAGE in, line drawing out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetSketchFromImage",
            display_name="Sketch from Image",
            category="AnimeSketchNet",
            description="Draws the lines of a colour picture, so that it can be a reference "
            "sketch. Needs no model (flow-based difference of Gaussians).",
            search_aliases=["line art", "lineart", "edges", "fdog", "xdog", "preprocessor"],
            inputs=[
                io.Image.Input("image", tooltip="Colour pictures, any size."),
                io.Float.Input(
                    "line_width",
                    default=1.0,
                    min=0.25,
                    max=4.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Width of the strokes: 0.25 fine, 1 usual, 4 bold.",
                ),
                io.Float.Input(
                    "detail",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How faint a contrast is still drawn: 0 outlines only, 1 everything, "
                    "grain too.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sketch", display_name="sketch", tooltip="The drawing, dark on white."
                )
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, line_width: float, detail: float) -> io.NodeOutput:
        """Draws one picture after the other, so that a long batch can be watched and stopped."""
        device = comfy.model_management.get_torch_device()
        progress = comfy.utils.ProgressBar(len(image))
        drawings = []
        for picture in image.split(1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            drawings.append(extract_lines(picture.to(device), line_width, detail).to(image.device))
            progress.update(1)
        return io.NodeOutput(torch.cat(drawings))
