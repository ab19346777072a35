"""The node Sketch from Image: a colour picture as a drawing, as a reference for Encode Sketch."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.ink import extract_ink
from ..animesketchnet_core.progress import OnProgress
from ..animesketchnet_core.sketch_extraction import extract_lines
from .pictures import picture_by_picture
from .schema import schema
from .sketch_model import LoadedSketchModel, SketchModelType

METHODS = ("lines", "ink", "neural")


class SketchFromImage(io.ComfyNode):
    """IMAGE in, line drawing out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetSketchFromImage",
            display_name="Sketch from Image",
            category="AnimeSketchNet",
            description="Draws a colour picture as a sketch, so that it can be a reference: its "
            "lines, ink with solid blacks, or a neural network's line art. Needs no model but for "
            "neural.",
            search_aliases=[
                "line art",
                "lineart",
                "edges",
                "fdog",
                "xdog",
                "ink",
                "anime2sketch",
                "preprocessor",
            ],
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
                    "grain too. With ink, how much becomes black: 0 a little, 1 nearly half.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    optional=True,  # prompts of before it existed do not have it
                    tooltip="lines: the lines alone (flow-based difference of Gaussians). ink: "
                    "lines and solid blacks (XDoG). neural: Anime2Sketch, needs a sketch_model.",
                ),
                SketchModelType.Input(
                    "sketch_model",
                    optional=True,
                    tooltip="From Load Sketch Model. Only the method neural uses it.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sketch", display_name="sketch", tooltip="The drawing, dark on white."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        line_width: float,
        detail: float,
        method: str = METHODS[0],
        sketch_model: LoadedSketchModel | None = None,
    ) -> io.NodeOutput:
        """Draws one picture after the other."""
        if method == "neural" and sketch_model is None:
            raise ValueError(
                "Sketch from Image: the method neural needs a model. Connect Load Sketch Model to "
                "the input sketch_model, or choose lines or ink, which need none."
            )

        def draw(picture: Tensor, on_progress: OnProgress) -> Tensor:
            if method == "neural" and sketch_model is not None:
                return sketch_model.draw(
                    picture, neural_resolution(line_width, detail), on_progress
                )
            extract = extract_ink if method == "ink" else extract_lines
            return extract(picture, line_width, detail, on_progress)

        return io.NodeOutput(picture_by_picture(image, draw))


def neural_resolution(line_width: float, detail: float) -> int:
    """The resolution at which the network sees the picture.

    Its strokes have about the same width in pixels at any resolution: a finer one makes them
    thinner, and shows it more detail.
    """
    return round(512 * 4**detail / line_width)
