"""The node Alpha over Steps: a curve that says when a sketch acts how strongly."""

from __future__ import annotations

from comfy_api.latest import io

from ..animesketchnet_core.alpha_curve import PRESETS, AlphaCurve
from .links import CurveType
from .schema import schema

CUSTOM = "custom"


class AlphaOverSteps(io.ComfyNode):
    """Preset or points in, curve out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        made = schema(
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
        # For web/curve_editor.js, which draws them; older text inputs take no extra_dict at first.
        made.inputs[1].extra_dict = {"presets": {k: v.to_text() for k, v in PRESETS.items()}}
        return made

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
        """Looks the preset up, or reads the points."""
        return io.NodeOutput(PRESETS[preset] if preset != CUSTOM else AlphaCurve.from_text(points))
