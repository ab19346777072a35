"""Small random adapters, UNets' shapes and weight files for the core's tests."""

from __future__ import annotations

import torch
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.adapter_metadata import AdapterMetadata
from animesketchnet_core.image_projection import (
    EmbeddingProjectionConfig,
    PatchProjectionConfig,
    ProjectionConfig,
)
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import UNetShape

# Three levels, attention on the upper two: 7 cross-attention layers.
TINY_UNET = UNetShape(
    block_out_channels=(32, 64, 96),
    layers_per_block=(1, 1, 1),
    transformer_depth=(1, 1, 0),
    mid_depth=1,
    cross_attention_dim=37,
)
TINY_RESAMPLER = ResamplerConfig(
    dim=22, depth=2, heads=2, num_queries=5, embedding_dim=29, output_dim=37, ff_mult=3
)
# All kinds of weight file, as artists name them.
TINY_KINDS: dict[str, ProjectionConfig] = {
    "Plus": TINY_RESAMPLER,
    "plain": EmbeddingProjectionConfig(num_tokens=3, embedding_dim=29, output_dim=37),
    "Full Face": PatchProjectionConfig(embedding_dim=29, output_dim=37),
}


def tiny_adapter(
    projection: ProjectionConfig = TINY_RESAMPLER, seed: int = 0
) -> AnimeSketchAdapter:
    torch.manual_seed(seed)
    adapter = AnimeSketchAdapter.from_unet(TINY_UNET, projection)
    randomise(adapter)
    return adapter


def randomise(module: torch.nn.Module) -> None:
    """Moves norms and biases off 1 and 0, so that a swapped or forgotten one shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def tiny_state(projection: ProjectionConfig = TINY_RESAMPLER) -> dict[str, Tensor]:
    state_dict = tiny_adapter(projection).state_dict()
    return {key: tensor.detach().clone() for key, tensor in state_dict.items()}


def tiny_metadata() -> AdapterMetadata:
    return AdapterMetadata(num_tokens=5, image_encoder="a tiny encoder", base_model="a tiny UNet")
