"""The Resampler: turns CLIP's patch features into a few image tokens for the UNet.

A Perceiver whose learned latents (queries) attend to the image features and to themselves, then
pass through a feed-forward layer, `depth` times. From IP-Adapter-Plus (Ye et al. 2023,
arXiv:2308.06721), which took it from Flamingo (Alayrac et al. 2022, arXiv:2204.14198, section 3.1).
Parameter names are those of IP-Adapter-Plus' weight files.

Shapes: b batch, n image tokens, m latents (num_queries), h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention_maps import attention_shares
from .image_features import ImageFeatures


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """The Resampler's sizes; the defaults are IP-Adapter-Plus' for SD v1.5.

    Attributes:
        dim: width inside the Resampler.
        depth: number of (attention, feed-forward) layers; diffusers loads at most 4.
        dim_head: width of one head; diffusers loads 64 only.
        heads: number of heads.
        num_queries: number of image tokens that come out.
        embedding_dim: width of the image features (CLIP ViT-H/14: 1280).
        output_dim: width of the image tokens, the UNet's cross-attention width.
        ff_mult: hidden width of the feed-forward layer, in multiples of dim.
    """

    reads: ClassVar[ImageFeatures] = ImageFeatures.HIDDEN_STATES

    dim: int = 768
    depth: int = 4
    dim_head: int = 64
    heads: int = 12
    num_queries: int = 16
    embedding_dim: int = 1280
    output_dim: int = 768
    ff_mult: int = 4

    @property
    def num_tokens(self) -> int:
        """Number of image tokens, under the name that all image projections have for it."""
        return self.num_queries

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], dim_head: int) -> ResamplerConfig:
        """Reads all sizes but dim_head off the Resampler's shapes, by parameter name."""
        _, num_queries, dim = shapes["latents"]
        return cls(
            dim=dim,
            depth=len({key.split(".")[1] for key in shapes if key.startswith("layers.")}),
            dim_head=dim_head,
            heads=shapes["layers.0.0.to_q.weight"][0] // dim_head,
            num_queries=num_queries,
            embedding_dim=shapes["proj_in.weight"][1],
            output_dim=shapes["proj_out.weight"][0],
            ff_mult=shapes["layers.0.1.1.weight"][0] // dim,
        )


class PerceiverAttention(nn.Module):
    """Cross-attention from the latents to the image features joined with the latents."""

    def __init__(
        self, *, dim: int, dim_head: int, heads: int, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = dim_head * heads
        self.norm1 = operations.LayerNorm(dim, **factory)  # of the image features
        self.norm2 = operations.LayerNorm(dim, **factory)  # of the latents
        self.to_q = operations.Linear(dim, inner, bias=False, **factory)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **factory)
        self.to_out = operations.Linear(inner, dim, bias=False, **factory)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """Attends.

        Args:
            features: image features [b, n, dim].
            latents: queries [b, m, dim].

        Returns:
            What each latent has read, [b, m, dim].
        """
        q, k, v = self._project(features, latents)
        read = F.scaled_dot_product_attention(q, k, v)  # [b, h, m, d]
        return self.to_out(rearrange(read, "b h m d -> b m (h d)"))

    def shares(self, features: Tensor, latents: Tensor) -> Tensor:
        """How much each latent reads of each feature and latent, mean over heads, [b, m, n + m]."""
        q, k, _ = self._project(features, latents)
        return attention_shares(q, k)

    def _project(self, features: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.norm1(features)
        latents = self.norm2(latents)
        joined = torch.cat([features, latents], dim=1)  # [b, n + m, dim]
        q = self._split_heads(self.to_q(latents))  # [b, h, m, d]
        k, v = map(self._split_heads, self.to_kv(joined).chunk(2, dim=-1))  # [b, h, n + m, d] each
        return q, k, v

    def _split_heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)


def feed_forward(*, dim: int, mult: int, operations: Any = nn, **factory: Any) -> nn.Sequential:
    """Makes the layer that follows each attention: norm, widen, GELU, narrow."""
    return nn.Sequential(
        operations.LayerNorm(dim, **factory),
        operations.Linear(dim, dim * mult, bias=False, **factory),
        nn.GELU(),
        operations.Linear(dim * mult, dim, bias=False, **factory),
    )


class Resampler(nn.Module):
    """Image features [b, n, embedding_dim] to image tokens [b, num_queries, output_dim]."""

    def __init__(
        self,
        config: ResamplerConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Builds the layers with random weights.

        Args:
            config: the sizes.
            operations: where Linear and LayerNorm come from: torch.nn or one of `comfy.ops`.
            device: where the weights live.
            dtype: the weights' type.
        """
        super().__init__()
        self.config = config
        factory = {"device": device, "dtype": dtype}
        # Scaled as in Flamingo's code: latents of unit length on average, not of length sqrt(dim).
        latents = torch.randn(1, config.num_queries, config.dim, **factory) / config.dim**0.5
        self.latents = nn.Parameter(latents)
        self.proj_in = operations.Linear(config.embedding_dim, config.dim, **factory)
        self.proj_out = operations.Linear(config.dim, config.output_dim, **factory)
        self.norm_out = operations.LayerNorm(config.output_dim, **factory)
        self.layers = nn.ModuleList(self._layer(operations, **factory) for _ in range(config.depth))

    def _layer(self, operations: Any, **factory: Any) -> nn.ModuleList:
        c = self.config
        sizes = {"dim": c.dim, "dim_head": c.dim_head, "heads": c.heads}
        attention = PerceiverAttention(**sizes, operations=operations, **factory)
        ff = feed_forward(dim=c.dim, mult=c.ff_mult, operations=operations, **factory)
        return nn.ModuleList([attention, ff])

    def forward(self, features: Tensor) -> Tensor:
        """Condenses image features into tokens.

        Args:
            features: CLIP's penultimate hidden states [b, n, embedding_dim], class token included.

        Returns:
            Image tokens [b, num_queries, output_dim].
        """
        features = self.proj_in(features)  # [b, n, dim]
        # comfy.ops casts its layers' weights to the input's type, but knows nothing of the latents;
        # under autocast they must stay in float32, as the sum over all layers.
        dtype = torch.promote_types(self.latents.dtype, features.dtype)
        latents = self.latents.to(features.device, dtype)  # [1, m, dim]
        latents = latents.expand(len(features), -1, -1)  # [b, m, dim]
        for layer in self.layers:
            attention, ff = cast(nn.ModuleList, layer)
            latents = latents + attention(features, latents)
            latents = latents + ff(latents)
        return self.norm_out(self.proj_out(latents))  # [b, m, output_dim]
