"""The node Compare Sketches: pictures beside their reference, and how alike CLIP finds them."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.clip_input import fit_sketch
from ..animesketchnet_core.contact_sheet import contact_sheet, to_tensor
from ..animesketchnet_core.scores import clip_image_similarity
from .clip_embeddings import deal_out, embed_pictures
from .pictures import preview
from .schema import schema


class CompareSketches(io.ComfyNode):
    """Reference and pictures in, labelled grid and similarities out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetCompare",
            display_name="Compare with Sketch",
            category="AnimeSketchNet",
            description="Lays pictures below their reference sketches, and says how alike CLIP "
            "finds them: 1 is the same picture to it.",
            search_aliases=["similarity", "clip score", "side by side", "evaluate"],
            is_output_node=True,  # it shows what it made
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The encoder that judges."),
                io.Image.Input(
                    "sketch",
                    tooltip="The reference. Several go one to a picture, and start over when "
                    "there are more pictures.",
                ),
                io.Image.Input("images", tooltip="What was drawn after it, one or many."),
            ],
            outputs=[
                io.Image.Output(
                    "grid",
                    display_name="grid",
                    tooltip="Pictures below their references, labelled.",
                ),
                io.Float.Output(
                    "similarity",
                    display_name="similarity",
                    tooltip="Mean cosine similarity of the pictures' and the reference's CLIP "
                    "image embeddings.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: Any, sketch: Tensor, images: Tensor) -> io.NodeOutput:
        """Embeds all pictures as CLIP would see them as references."""
        sketch = deal_out(sketch, len(images))
        references, pictures = (embed_pictures(clip_vision, x) for x in (sketch, images))
        similarities = clip_image_similarity(pictures, references).tolist()
        grid = laid_out([f"{value:.3f}" for value in similarities], "", sketch, images)
        mean = sum(similarities) / len(similarities)
        return io.NodeOutput(grid, mean, ui=preview(grid))


def laid_out(titles: list[str], text: str, sketch: Tensor | None, images: Tensor) -> Tensor:
    """Lays pictures out in a row, below their references if there are any.

    Args:
        titles: one for each picture.
        text: a line above the pictures.
        sketch: references [n, h, w, c], one for each picture.
        images: pictures [n, h, w, c].

    Returns:
        The sheet as an IMAGE [1, h, w, 3].
    """
    side = max(images.shape[1:3])
    rows = torch.stack([fit_sketch(x, side) for x in (sketch, images) if x is not None])
    return to_tensor(contact_sheet(titles, [(text, rows)]))[None]
