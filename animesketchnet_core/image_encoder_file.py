"""Says by keys and shapes which image encoder a weight file holds, without reading its weights.

Three layouts are told apart: transformers' as all published files have it, transformers' as
CLIPVisionModel saves it from 5.0 on, and open_clip's. A file may hold CLIP's text half, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import isqrt, prod
from pathlib import Path

from .image_features import ENCODERS, ImageFeatures, KnownEncoder
from .weight_container import UnreadableWeightsError, open_weights
from .weight_kinds import CLIP_VISION, known_kind, some
from .weight_layouts import canonical_keys

Shapes = Mapping[str, tuple[int, ...]]


class WrongEncoderError(ValueError):
    """A file without an image encoder: says what it is instead."""


class Layout(Enum):
    """How a file names the weights; the value is what stands before all of them."""

    TRANSFORMERS = "vision_model."
    BARE = ""
    """transformers' names without that prefix, which no program but transformers reads."""
    OPEN_CLIP = "visual."


@dataclass(frozen=True)
class _Names:
    """The keys that tell the sizes, without the layout's prefix but for the projection's."""

    patches: str  # [width, 3, p, p]
    positions: str  # [tokens, width]
    class_token: str
    layers: str
    last_norm: str
    projection: str
    projected: int  # the projection's axis that is as wide as the image embedding


_TRANSFORMERS = _Names(
    patches="embeddings.patch_embedding.weight",
    positions="embeddings.position_embedding.weight",
    class_token="embeddings.class_embedding",
    layers="encoder.layers.",
    last_norm="post_layernorm.weight",
    projection="visual_projection.weight",
    projected=0,
)
_NAMES = {
    Layout.TRANSFORMERS: _TRANSFORMERS,
    Layout.BARE: _TRANSFORMERS,
    Layout.OPEN_CLIP: _Names(
        patches="conv1.weight",
        positions="positional_embedding",
        class_token="class_embedding",
        layers="transformer.resblocks.",
        last_norm="ln_post.weight",
        projection="visual.proj",
        projected=1,
    ),
}


@dataclass(frozen=True, kw_only=True)
class ImageEncoderKind:
    """What a file's keys and shapes tell of its image encoder.

    Attributes:
        layout: how the file names the weights.
        is_clip: has CLIP's class token; SigLIP, which sees pictures otherwise, has none.
        hidden_width: width of the hidden states.
        embedding_width: width of the image embedding, None if the file lacks what makes it.
        layers: number of transformer layers.
        patch_size: side of a patch, pixels.
        image_size: side of the pictures that it sees, pixels.
        num_values: how many values all the file's tensors have, those of a text encoder, too.
    """

    layout: Layout
    is_clip: bool
    hidden_width: int
    embedding_width: int | None
    layers: int
    patch_size: int
    image_size: int
    num_values: int

    def fits(self, reads: ImageFeatures, width: int) -> bool:
        """Says whether it gives an adapter what that reads, with every layer it takes.

        Some files lack the last layer: the penultimate hidden states do not need it.
        """
        hidden = reads is ImageFeatures.HIDDEN_STATES
        given = self.hidden_width if hidden else self.embedding_width
        known = self._known()
        spare = 1 if hidden else 0
        whole = known is None or known.layers - spare <= self.layers <= known.layers
        return self.is_clip and self.layout is not Layout.BARE and given == width and whole

    def _known(self) -> KnownEncoder | None:
        return next((known for known in ENCODERS if known.hidden_width == self.hidden_width), None)

    def __str__(self) -> str:
        """Names it, with its sizes."""
        known = self._known()
        name = "a SigLIP vision model"
        if self.is_clip:
            name = known.name if known else "a CLIP vision model of an unknown size"
        embedding = "no image embedding, for its projection is not in the file"
        if self.embedding_width is not None:
            embedding = f"image embedding of width {self.embedding_width}"
        layout = ""
        if self.layout is Layout.BARE:
            layout = '; its keys lack the prefix "vision_model.", so that ComfyUI cannot read it'
        return (
            f"{name} ({self.layers} layers, hidden states of width {self.hidden_width}, "
            f"{embedding}, pictures of {self.image_size} x {self.image_size}{layout})"
        )


def read_image_encoder_kind(path: Path) -> ImageEncoderKind:
    """Looks into a file's header (see `describe_image_encoder`).

    Raises:
        OSError: the file cannot be read.
        WrongEncoderError: it is damaged, could run code, or holds no image encoder.
    """
    try:
        shapes = open_weights(path).shapes
    except UnreadableWeightsError as error:
        raise WrongEncoderError(str(error)) from error
    return describe_image_encoder(shapes)


def describe_image_encoder(shapes: Shapes) -> ImageEncoderKind:
    """Says which image encoder a file holds.

    Args:
        shapes: each tensor's shape by its key in the file.

    Raises:
        WrongEncoderError: none, or one that is incomplete.
    """
    layout = _layout(shapes)
    if layout is None:
        raise WrongEncoderError(f"This is {_other_kind(shapes)}, not an image encoder.")
    names, prefix = _NAMES[layout], layout.value
    width, _, patch, _ = _shape(shapes, prefix + names.patches, dimensions=4)
    tokens, _ = _shape(shapes, prefix + names.positions, dimensions=2)
    is_clip = prefix + names.class_token in shapes
    return ImageEncoderKind(
        layout=layout,
        is_clip=is_clip,
        hidden_width=width,
        embedding_width=_embedding_width(shapes, layout) if is_clip else width,
        layers=_count(shapes, prefix + names.layers),
        patch_size=patch,
        image_size=isqrt(max(0, tokens - is_clip)) * patch,
        num_values=sum(prod(shape) for shape in shapes.values()),
    )


def _layout(shapes: Shapes) -> Layout | None:
    for layout in Layout:
        names = _NAMES[layout]
        if any(layout.value + key in shapes for key in (names.patches, names.class_token)):
            return layout
    return None


def _shape(shapes: Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(key)
    if shape is None:
        raise WrongEncoderError(f"This is an incomplete image encoder: it lacks {key}.")
    if len(shape) != dimensions or 0 in shape:
        raise WrongEncoderError(f"This is a broken image encoder: {key} is {list(shape)}.")
    return shape


def _embedding_width(shapes: Shapes, layout: Layout) -> int | None:
    names = _NAMES[layout]
    if names.projection not in shapes or layout.value + names.last_norm not in shapes:
        return None
    return _shape(shapes, names.projection, dimensions=2)[names.projected]


def _count(keys: Iterable[str], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)})


def _other_kind(shapes: Shapes) -> str:
    if any(
        key.startswith(("image_proj.", "ip_adapter.")) for key in canonical_keys(shapes).sources
    ):
        return "an IP-Adapter"
    kind = known_kind(shapes)
    if kind == CLIP_VISION:  # of LLaVA, timm, Wan
        return f"{kind} in a layout that is not read here"
    return kind or f"a file of {len(shapes)} tensors{some(shapes)}"
