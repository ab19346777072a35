"""The image projections: what turns an image encoder's features into tokens for the UNet.

Ye et al. 2023 (arXiv:2308.06721) and the files published with it know three: the Resampler (Plus,
Plus Face; see `resampler`), and the two small ones below. Parameter names are those of the weight
files, the file tells the kind.

Shapes: b batch, n patches and class token, e width of the features, m image tokens, t token width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .image_features import ImageFeatures
from .resampler import Resampler, ResamplerConfig


@dataclass(frozen=True, kw_only=True)
class EmbeddingProjectionConfig:
    """Sizes of the plain IP-Adapter's projection; the defaults are those for SD v1.5.

    Attributes:
        num_tokens: number of image tokens that come out; diffusers loads 4 only.
        embedding_dim: width of the image embedding (CLIP ViT-H/14: 1024, ViT-bigG/14: 1280).
        output_dim: width of the image tokens, the UNet's cross-attention width.
    """

    reads: ClassVar[ImageFeatures] = ImageFeatures.IMAGE_EMBEDDING

    num_tokens: int = 4
    embedding_dim: int = 1024
    output_dim: int = 768

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> EmbeddingProjectionConfig:
        """Reads the sizes off the projection's shapes, by parameter name."""
        rows, embedding_dim = shapes["proj.weight"]
        [output_dim] = shapes["norm.weight"]
        num_tokens = max(1, rows // output_dim)  # with too few rows the shape will not fit
        return cls(num_tokens=num_tokens, embedding_dim=embedding_dim, output_dim=output_dim)


class EmbeddingProjection(nn.Module):
    """An image embedding [b, e] to num_tokens image tokens [b, m, t]: one layer and a norm.

    The plain IP-Adapter's, Light's too; `ImageProjModel` in tencent-ailab/IP-Adapter.
    """

    def __init__(
        self, config: EmbeddingProjectionConfig, *, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.config = config
        rows = config.num_tokens * config.output_dim
        self.proj = operations.Linear(config.embedding_dim, rows, **factory)
        self.norm = operations.LayerNorm(config.output_dim, **factory)

    def forward(self, embedding: Tensor) -> Tensor:
        """Projects an image embedding [b, e] to image tokens [b, m, t]."""
        tokens = self.proj(embedding)  # [b, m * t]
        return self.norm(tokens.unflatten(-1, (self.config.num_tokens, -1)))  # [b, m, t]


@dataclass(frozen=True, kw_only=True)
class PatchProjectionConfig:
    """Sizes of the Full Face projection; the defaults are those for SD v1.5.

    Attributes:
        embedding_dim: width of the image features (CLIP ViT-H/14: 1280).
        output_dim: width of the image tokens, the UNet's cross-attention width.
    """

    reads: ClassVar[ImageFeatures] = ImageFeatures.HIDDEN_STATES
    num_tokens: ClassVar[None] = None  # as many as there are hidden states: 257 of CLIP ViT-H/14

    embedding_dim: int = 1280
    output_dim: int = 768

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> PatchProjectionConfig:
        """Reads the sizes off the projection's shapes, by parameter name."""
        _, embedding_dim = shapes["proj.0.weight"]
        [output_dim] = shapes["proj.3.weight"]
        return cls(embedding_dim=embedding_dim, output_dim=output_dim)


class PatchProjection(nn.Module):
    """Hidden states [b, n, e] to as many image tokens [b, n, t], each on its own.

    Full Face's; `MLPProjModel` in tencent-ailab/IP-Adapter.
    """

    def __init__(
        self, config: PatchProjectionConfig, *, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.config = config
        e, t = config.embedding_dim, config.output_dim
        self.proj = nn.Sequential(
            operations.Linear(e, e, **factory),
            nn.GELU(),
            operations.Linear(e, t, **factory),
            operations.LayerNorm(t, **factory),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Projects hidden states [b, n, e] to image tokens [b, n, t]."""
        return self.proj(features)


ProjectionConfig = ResamplerConfig | EmbeddingProjectionConfig | PatchProjectionConfig
ImageProjection = Resampler | EmbeddingProjection | PatchProjection


def config_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], dim_head: int = 64
) -> ProjectionConfig:
    """Tells which projection a weight file holds, and its sizes.

    Args:
        shapes: the shapes of the file's `image_proj.*`, without that prefix.
        dim_head: width of a Resampler head, which shapes cannot tell.

    Raises:
        KeyError, ValueError, IndexError, ZeroDivisionError: the shapes are those of no projection.
    """
    if "proj.weight" in shapes:
        return EmbeddingProjectionConfig.from_shapes(shapes)
    if "proj.3.weight" in shapes:
        return PatchProjectionConfig.from_shapes(shapes)
    return ResamplerConfig.from_shapes(shapes, dim_head)


def image_projection(
    config: ProjectionConfig,
    *,
    operations: Any = nn,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ImageProjection:
    """Builds a projection of these sizes with random weights (arguments as in `Resampler`)."""
    factory = {"operations": operations, "device": device, "dtype": dtype}
    if isinstance(config, EmbeddingProjectionConfig):
        return EmbeddingProjection(config, **factory)
    if isinstance(config, PatchProjectionConfig):
        return PatchProjection(config, **factory)
    return Resampler(config, **factory)
