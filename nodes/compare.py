"""The node Compare Sketches: pictures beside their reference, and how alike CLIP finds them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..animesketchnet_core.clip_input import fit_sketch, pixel_values
from ..animesketchnet_core.contact_sheet import contact_sheet, to_tensor
from ..animesketchnet_core.image_features import ImageFeatures
from .encode import encode
from .schema import schema


class CompareSketches(io.ComfyNode):
    """Reference and pictures in, labelled row and similarities out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetCompare",
            display_name="Compare with Sketch",
            category="AnimeSketchNet",
            description="Lays pictures beside their reference sketch, and says how alike CLIP "
            "finds them: 1 is the same picture to it.",
            search_aliases=["similarity", "clip score", "side by side", "evaluate"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The encoder that judges."),
                io.Image.Input("sketch", tooltip="The reference."),
                io.Image.Input("images", tooltip="What was drawn after it, one or many."),
            ],
            outputs=[
                io.Image.Output("grid", display_name="grid", tooltip="One row, labelled."),
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
        size = clip_vision.image_size
        pictures = [fit_sketch(x, size) for x in (sketch[:1], images)]
        pixels = pixel_values(torch.cat(pictures))
        embeddings = encode(clip_vision, pixels, ImageFeatures.IMAGE_EMBEDDING)
        similarities = F.cosine_similarity(embeddings[:1], embeddings[1:]).tolist()
        height, width = images.shape[1:3]
        reference = fit_sketch(sketch[:1], max(height, width))
        shown = fit_sketch(images, max(height, width))
        titles = ["reference", *(f"{value:.3f}" for value in similarities)]
        row = torch.cat([reference, shown])[None]  # [1, pictures, s, s, 3]
        grid = to_tensor(contact_sheet(titles, [("", row)]))[None]
        mean = sum(similarities) / len(similarities)
        return io.NodeOutput(grid, mean, ui=ui.PreviewImage(grid))
