"""The node Encode Sketch: a picture through CLIP and the adapter's image projection."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..animesketchnet_core.attention_maps import patch_shares
from ..animesketchnet_core.clip_input import (
    cut_into_tiles,
    fit_sketch,
    pixel_values,
    unconditional_pixel_values,
)
from ..animesketchnet_core.image_features import ImageFeatures
from ..animesketchnet_core.image_projection import PatchProjection
from ..animesketchnet_core.resampler import Resampler
from ..animesketchnet_core.weight_file import WrongAdapterError, check_fits_encoder
from .links import AnimeSketchNetType, EncodedSketch, LoadedAdapter, SketchOrigin, SketchType
from .memory import first_that_fits
from .pictures import preview
from .schema import schema

PENULTIMATE = -2  # ComfyUI counts layers, transformers hidden_states; both mean the last but one
PLACES = {ImageFeatures.HIDDEN_STATES: 1, ImageFeatures.IMAGE_EMBEDDING: 2}  # in CLIP's outputs


class EncodeSketch(io.ComfyNode):
    """IMAGE, CLIP_VISION and adapter in, image tokens out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetEncode",
            display_name="Encode Sketch",
            category="AnimeSketchNet",
            description="Turns a reference sketch into the image tokens that Apply "
            "AnimeSketchNet puts into the model.",
            search_aliases=["reference", "ip-adapter", "ipadapter", "image prompt", "line art"],
            inputs=[
                AnimeSketchNetType.Input(
                    "animesketchnet", tooltip="The adapter, from Load AnimeSketchNet."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder that the adapter was trained with: CLIP ViT-H/14 "
                    "for SD v1.5 and for the SDXL files named vit-h.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The reference sketch, any size: all of it is seen, fitted onto white "
                    "paper. Several pictures go one to a latent of the batch, in order.",
                ),
                io.Int.Input(
                    "tiles",
                    default=1,
                    min=1,
                    max=4,
                    optional=True,  # graphs that were saved before it was there do not have it
                    tooltip="For large, detailed sketches. 1: seen as a whole. 2 to 4: beside it "
                    "also in parts, so many along its shorter side, so that fine lines survive "
                    "CLIP's small picture; the details then weigh more than the whole.",
                ),
            ],
            outputs=[
                SketchType.Output(
                    "sketch", display_name="sketch", tooltip="For Apply AnimeSketchNet."
                ),
                io.Image.Output(
                    "seen", display_name="seen", tooltip="What CLIP sees of the sketch."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, animesketchnet: LoadedAdapter, clip_vision: Any, image: Tensor, tiles: int = 1
    ) -> io.NodeOutput:
        """Encodes the sketches, and what stands for no sketch, with one encoder."""
        size = clip_vision.image_size
        parts = [image, *(cut_into_tiles(image, tiles) if tiles > 1 else [])]
        seen = torch.cat([fit_sketch(part, size) for part in parts])  # [parts * n, s, s, 3]
        features = encode_with_none(
            clip_vision, pixel_values(seen), animesketchnet.patcher.model.reads
        )
        check_width(features.shape[-1], animesketchnet)
        adapter = animesketchnet.ready()
        features = features.to(animesketchnet.patcher.load_device)
        tokens = adapter.tokens(features).cpu()  # [parts * n + 1, m, t]
        sketch = EncodedSketch(
            animesketchnet,
            tokens=torch.cat(tokens[:-1].chunk(len(parts)), dim=1),  # [n, parts * m, t]
            unconditional=tokens[-1:].repeat(1, len(parts), 1),
            origin=None if tiles > 1 else origin_of(seen, adapter.image_proj, features[:-1]),
        )
        return io.NodeOutput(sketch, seen, ui=preview(seen))


def origin_of(seen: Tensor, projection: nn.Module, features: Tensor) -> SketchOrigin | None:
    """Says which part of the sketch each token came from; None for tokens of the whole picture."""
    if isinstance(projection, Resampler):
        return SketchOrigin(seen, patch_shares(projection, features).cpu())
    if isinstance(projection, PatchProjection):
        return SketchOrigin(seen, torch.eye(features.shape[1]).expand(len(features), -1, -1))
    return None


def encode_with_none(clip_vision: Any, pixels: Tensor, reads: ImageFeatures) -> Tensor:
    """Encodes pictures, and after them "no sketch" as the adapters were trained with it.

    Args:
        clip_vision: ComfyUI's CLIP_VISION.
        pixels: normalised pictures [n, 3, size, size].
        reads: what the adapter reads.

    Returns:
        Features of n + 1 rows, the last of them for no sketch.
    """
    if reads is ImageFeatures.IMAGE_EMBEDDING:
        embeddings = encode(clip_vision, pixels, reads)  # [n, width]
        return torch.cat([embeddings, torch.zeros_like(embeddings[:1])])
    none = unconditional_pixel_values(clip_vision.image_size).to(pixels)
    return encode(clip_vision, torch.cat([pixels, none]), reads)


def encode(clip_vision: Any, pixels: Tensor, reads: ImageFeatures) -> Tensor:
    """Runs ComfyUI's own copy of CLIP, so that no second one takes memory.

    Args:
        clip_vision: ComfyUI's CLIP_VISION.
        pixels: normalised pictures [b, 3, size, size].
        reads: which of its outputs.

    Returns:
        The penultimate hidden states [b, tokens, width], or the image embedding [b, width];
        float32.
    """
    comfy.model_management.load_models_gpu([clip_vision.patcher])
    bar = comfy.utils.ProgressBar(len(pixels))

    def at_once(part: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        outputs = clip_vision.model(
            pixel_values=part.to(clip_vision.load_device), intermediate_output=PENULTIMATE
        )
        bar.update(len(part))
        return outputs[PLACES[reads]].float()

    def encoded(part: Tensor) -> Tensor:
        if len(part) == 1:
            return at_once(part)
        return first_that_fits(
            lambda: at_once(part), lambda: torch.cat([encoded(half) for half in part.chunk(2)])
        )

    return torch.cat([encoded(part) for part in pixels.split(_AT_ONCE)])


_AT_ONCE = 8  # pictures: many references, or tiles, must not need more memory than sampling does


def check_width(found: int, animesketchnet: LoadedAdapter) -> None:
    """Refuses an encoder whose features are not as wide as those that the adapter reads."""
    try:
        check_fits_encoder(animesketchnet.patcher.model.state_dict(), found)
    except WrongAdapterError as error:
        raise WrongAdapterError(
            f"Encode Sketch, input clip_vision ({animesketchnet.name}): {error}"
        ) from error
