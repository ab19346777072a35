"""What an adapter reads of an image encoder, and which encoder gives it.

A CLIP vision model gives two things: the hidden states, a vector for each patch, and the image
embedding, one vector for the whole picture, which is compared with texts. Both have widths of their
own, so that 1280 is the width of ViT-H's hidden states and of ViT-bigG's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ImageFeatures(Enum):
    """What an image projection reads; the value is its name in messages.

    What stands for "no sketch" follows from it, in tencent-ailab/IP-Adapter (ip_adapter.py,
    `get_image_embeds`) and in diffusers (`encode_image`) alike.
    """

    HIDDEN_STATES = "penultimate hidden states"
    """[b, n, e], class token included. No sketch: those of a picture of zeros."""

    IMAGE_EMBEDDING = "image embedding"
    """[b, e], pooled, normed and projected. No sketch: zeros, which no picture gives."""

    def encoder(self, width: int) -> str:
        """Names the encoder whose features have this width."""
        names = {known.width(self): known.name for known in ENCODERS}
        return names.get(width, "an unknown encoder")


@dataclass(frozen=True)
class KnownEncoder:
    """An image encoder in the sizes that it was published in.

    Attributes:
        name: as messages name it.
        hidden_width: width of its hidden states.
        embedding_width: width of its image embedding.
        layers: number of its transformer layers.
    """

    name: str
    hidden_width: int
    embedding_width: int
    layers: int

    def width(self, features: ImageFeatures) -> int:
        """Gives the width of its features."""
        hidden = features is ImageFeatures.HIDDEN_STATES
        return self.hidden_width if hidden else self.embedding_width


_MINI, _VIT_H, _VIT_G = "the mini image encoder", "CLIP ViT-H/14", "CLIP ViT-bigG/14"

ENCODERS = (
    KnownEncoder(_MINI, 192, 128, 5),
    KnownEncoder("CLIP ViT-B", 768, 512, 12),
    KnownEncoder("CLIP ViT-L/14", 1024, 768, 24),
    KnownEncoder("SigLIP SO400M", 1152, 1152, 27),
    KnownEncoder(_VIT_H, 1280, 1024, 32),
    KnownEncoder(_VIT_G, 1664, 1280, 48),
)
_DOWNLOADS = {
    _VIT_H: "https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/"
    "model.safetensors",
    _VIT_G: "https://huggingface.co/h94/IP-Adapter/resolve/main/sdxl_models/image_encoder/"
    "model.safetensors",
}


def where_to_get(encoder: str) -> str:
    """Says how an encoder, named as `ImageFeatures.encoder` does, is had."""
    if encoder in _DOWNLOADS:
        return f"Download {_DOWNLOADS[encoder]} into ComfyUI/models/clip_vision."
    if encoder == _MINI:
        return "It comes with Load Mini Models: connect that node's output clip_vision."
    return "Use the image encoder that the adapter was trained with."
