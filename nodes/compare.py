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
        sketch = sketch[torch.arange(len(images)) % len(sketch)]  # as Apply deals them out
        size = clip_vision.image_size
        pixels = pixel_values(torch.cat([fit_sketch(x, size) for x in (sketch, images)]))
        references, pictures = encode(clip_vision, pixels, ImageFeatures.IMAGE_EMBEDDING).chunk(2)
        similarities = F.cosine_similarity(references, pictures).tolist()
        side = max(images.shape[1:3])
        rows = torch.stack([fit_sketch(x, side) for x in (sketch, images)])  # [2, n, s, s, 3]
        titles = [f"{value:.3f}" for value in similarities]
        grid = to_tensor(contact_sheet(titles, [("", rows)]))[None]
        mean = sum(similarities) / len(similarities)
        return io.NodeOutput(grid, mean, ui=ui.PreviewImage(grid))
