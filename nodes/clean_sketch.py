"""The node Clean Sketch: white paper, no specks, dark lines of the wanted weight."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.progress import OnProgress
from ..animesketchnet_core.sketch_cleaning import clean_sketch
from .pictures import picture_by_picture
from .schema import schema


class CleanSketch(io.ComfyNode):
    """IMAGE in, IMAGE out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetCleanSketch",
            display_name="Clean Sketch",
            category="AnimeSketchNet",
            description="Cleans a scanned, photographed or extracted sketch: white paper, no "
            "specks, darker lines, thinner or thicker ones.",
            search_aliases=[
                "whiten paper",
                "scan",
                "despeckle",
                "line weight",
                "line art clean-up",
                "levels",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="Sketches, dark on light, any size: scans, photos, line art."
                ),
                _slider(
                    "whiten_paper",
                    (0.0, 1.0, 0.01),
                    default=1.0,
                    tooltip="How much of the paper's tone goes: 0 none; 1 all of it, with shadows, "
                    "uneven light and yellowing.",
                ),
                _slider(
                    "remove_specks",
                    (0.0, 20.0, 0.5),
                    default=4.0,
                    tooltip="Up to which size lone specks go, in thousandths of the shorter side: "
                    "0 none; 4 means 4 pixels in a picture of 1000. Strokes stay, however thin.",
                ),
                _slider(
                    "line_weight",
                    (-5.0, 5.0, 0.1),
                    default=0.0,
                    tooltip="How much wider lines become, in thousandths of the shorter side: -5 "
                    "thinner (fine lines fade), 0 as they are, 5 thicker.",
                ),
                _slider(
                    "ink",
                    (0.0, 1.0, 0.01),
                    default=0.5,
                    tooltip="How much darker the lines become: 0 as they are, 1 the darkest "
                    "are black.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sketch", display_name="sketch", tooltip="The sketch, dark on white."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        whiten_paper: float,
        remove_specks: float,
        line_weight: float,
        ink: float,
    ) -> io.NodeOutput:
        """Cleans one picture after the other."""

        def clean(picture: Tensor, on_progress: OnProgress) -> Tensor:
            return clean_sketch(
                picture,
                whiten_paper=whiten_paper,
                remove_specks=remove_specks,
                line_weight=line_weight,
                ink=ink,
                on_progress=on_progress,
            )

        return io.NodeOutput(picture_by_picture(image, clean))


def _slider(
    name: str, scale: tuple[float, float, float], *, default: float, tooltip: str
) -> io.Float.Input:
    low, high, step = scale
    return io.Float.Input(
        name,
        default=default,
        min=low,
        max=high,
        step=step,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )
