"""The node Alpha over Steps: a curve that says when a sketch acts how strongly."""

from __future__ import annotations

from comfy_api.latest import io, ui
from PIL import Image, ImageDraw

from ..animesketchnet_core.alpha_curve import PRESETS, AlphaCurve
from ..animesketchnet_core.contact_sheet import to_tensor, write
from .links import CurveType
from .schema import schema

CUSTOM = "custom"


class AlphaOverSteps(io.ComfyNode):
    """Preset or points in, curve out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetAlphaOverSteps",
            display_name="Alpha over Steps",
            category="AnimeSketchNet",
            description="Lets alpha rise or fall while the picture is sampled: the first steps "
            "decide the composition, the last ones lines and grain.",
            search_aliases=["schedule", "curve", "weight type", "ease in", "ease out", "keyframes"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="composition first",
                    tooltip="A ready curve. composition first: the sketch leads, then the prompt "
                    "finishes. lines last: the prompt composes, the sketch draws. custom: the "
                    "points below.",
                ),
                io.String.Input(
                    "points",
                    default="0:1, 0.4:1, 0.6:0",
                    tooltip="For custom: progress:factor of alpha, with commas between. Progress 0 "
                    "is the first step, 1 the last; the factor goes from 0 to 4, straight lines "
                    "run between the points, and two points of one progress make a jump.",
                ),
            ],
            outputs=[CurveType.Output("curve", tooltip="For Apply AnimeSketchNet.")],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None, points: str | None) -> bool | str:
        """Names a wrong point before anything runs."""
        if preset != CUSTOM or points is None:
            return True
        try:
            AlphaCurve.from_text(points)
        except ValueError as error:
            return f"Alpha over Steps, input points: {error}"
        return True

    @classmethod
    def execute(cls, preset: str, points: str) -> io.NodeOutput:
        """Reads the curve and shows it."""
        curve = PRESETS[preset] if preset != CUSTOM else AlphaCurve.from_text(points)
        return io.NodeOutput(curve, ui=ui.PreviewImage(to_tensor(plot(curve))[None]))


WIDTH, HEIGHT, MARGIN = 320, 160, 24  # pixels


def plot(curve: AlphaCurve) -> Image.Image:
    """Draws the curve: progress from left to right, the factor of alpha upwards."""
    top = max(1.0, *(factor for _, factor in curve.points))

    def place(progress: float, factor: float) -> tuple[float, float]:
        x = MARGIN + progress * (WIDTH - 2 * MARGIN)
        return x, HEIGHT - MARGIN - factor / top * (HEIGHT - 2 * MARGIN)

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((place(0, top), place(1, 0)), outline="lightgrey")
    first, last = curve.points[0], curve.points[-1]
    line = [place(0, first[1]), *(place(*point) for point in curve.points), place(1, last[1])]
    pen.line(line, fill="black", width=2)
    for x, y in (place(*point) for point in curve.points):
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill="black")
    write(image, f"alpha x {top:g}", (0, 4), WIDTH, 16)
    write(image, "first step", (0, HEIGHT - 20), WIDTH, 16)
    write(image, "last step", (WIDTH - 80, HEIGHT - 20), 80, 16)
    return image
