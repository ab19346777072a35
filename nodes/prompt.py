"""The node Sketch Prompt: a prompt with the keywords that sketch adapters were trained on."""

from __future__ import annotations

from comfy_api.latest import io

from ..animesketchnet_core.prompt_keywords import KEYWORDS, add_keywords
from .schema import schema


class SketchPrompt(io.ComfyNode):
    """Text in, text out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetPrompt",
            display_name="Sketch Prompt",
            category="AnimeSketchNet",
            description="Adds the keywords that the adapter's captions had to a prompt, each once.",
            search_aliases=["keywords", "trigger words", "text", "prompt helper"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, tooltip="What to draw. Keywords that it has stay put."
                ),
                io.String.Input(
                    "keywords",
                    default=KEYWORDS,
                    tooltip="With commas between. Those that the text lacks are added.",
                ),
                io.Combo.Input(
                    "place",
                    options=["front", "end"],
                    default="front",
                    tooltip="Where they are added. What stands in front weighs more.",
                ),
            ],
            outputs=[
                io.String.Output("prompt", display_name="prompt", tooltip="For CLIP Text Encode.")
            ],
        )

    @classmethod
    def execute(cls, text: str, keywords: str, place: str) -> io.NodeOutput:
        """Adds them."""
        return io.NodeOutput(add_keywords(text, keywords, "end" if place == "end" else "front"))
