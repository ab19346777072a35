"""The node Combine Sketches: two encoded sketches as one reference."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from .links import EncodedSketch, SketchType
from .schema import schema


class CombineSketches(io.ComfyNode):
    """Two encoded sketches in, one out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetCombine",
            display_name="Combine Sketches",
            category="AnimeSketchNet",
            description="Makes one reference of two sketches. For sketches with an alpha or a mask "
            "of their own, use one Apply AnimeSketchNet for each instead.",
            search_aliases=["merge", "mix", "average", "combine embeds", "multiple references"],
            inputs=[
                SketchType.Input("sketch_a", tooltip="From Encode Sketch."),
                SketchType.Input("sketch_b", tooltip="From Encode Sketch, with the same adapter."),
                io.Combo.Input(
                    "method",
                    options=["average", "join"],
                    default="average",
                    tooltip="average: one sketch between the two, as balance says. join: each "
                    "place of the picture looks at both and takes what fits it.",
                ),
                io.Float.Input(
                    "balance",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="For average: 0 is sketch_a alone, 0.5 both alike, 1 sketch_b alone.",
                ),
            ],
            outputs=[
                SketchType.Output(
                    "sketch", display_name="sketch", tooltip="For Apply AnimeSketchNet."
                )
            ],
        )

    @classmethod
    def execute(
        cls, sketch_a: EncodedSketch, sketch_b: EncodedSketch, method: str, balance: float
    ) -> io.NodeOutput:
        """Combines the tokens, and with them what stands for no sketch."""
        check_same_adapter(sketch_a, sketch_b)
        pairs = [
            alike(sketch_a.tokens, sketch_b.tokens),
            (sketch_a.unconditional, sketch_b.unconditional),
        ]
        if method == "join":
            tokens, unconditional = (torch.cat(pair, dim=1) for pair in pairs)
        else:
            check_same_count(sketch_a, sketch_b)
            tokens, unconditional = (torch.lerp(a, b, balance) for a, b in pairs)
        return io.NodeOutput(EncodedSketch(sketch_a.adapter, tokens, unconditional))


def check_same_adapter(sketch_a: EncodedSketch, sketch_b: EncodedSketch) -> None:
    """Refuses sketches of two adapters, whose tokens mean different things."""
    if sketch_a.adapter.patcher.model is not sketch_b.adapter.patcher.model:
        raise ValueError(
            f"Combine Sketches: sketch_a was encoded with {sketch_a.adapter.name}, sketch_b with "
            f"{sketch_b.adapter.name}. Connect one Load AnimeSketchNet to both Encode Sketch nodes."
        )


def check_same_count(sketch_a: EncodedSketch, sketch_b: EncodedSketch) -> None:
    """Refuses to average sketches of different numbers of tokens."""
    a, b = sketch_a.tokens.shape[1], sketch_b.tokens.shape[1]
    if a != b:
        raise ValueError(
            f"Combine Sketches: sketch_a has {a} tokens and sketch_b {b}, which have no average. "
            "Set method to join, or encode both with the same detail."
        )


def alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Brings two batches of sketches to one length: the shorter one starts over."""
    count = max(len(a), len(b))
    repeated = (x[[i % len(x) for i in range(count)]] for x in (a, b))
    first, second = repeated
    return first, second
