"""The adapter: an image projection, and K', V' for every cross-attention layer of a UNet.

Ye et al. 2023 (arXiv:2308.06721). The module's state-dict keys are the keys of the weight file, so
that what is trained is what is shipped. Trained here is the Plus variant, the one with a Resampler;
the others are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .image_features import ImageFeatures
from .image_projection import ProjectionConfig, config_from_shapes, image_projection
from .unet_layers import UNetShape, cross_attention_layers


class SketchKeyValue(nn.Module):
    """K' and V' of one cross-attention layer: image tokens to that layer's width, no bias."""

    def __init__(
        self, token_dim: int, channels: int, *, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.to_k_ip: nn.Linear = operations.Linear(token_dim, channels, bias=False, **factory)
        self.to_v_ip: nn.Linear = operations.Linear(token_dim, channels, bias=False, **factory)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Projects image tokens [b, m, token_dim] to (K', V'), each [b, m, channels]."""
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


class AnimeSketchAdapter(nn.Module):
    """Everything that is trained; the diffusion model and the encoders stay frozen."""

    def __init__(
        self,
        projection: ProjectionConfig,
        channels: Mapping[int, int],
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Builds the adapter with random weights.

        Args:
            projection: kind and sizes of the image projection.
            channels: width of each cross-attention layer, by the layer's index in the weight file.
            operations: where Linear and LayerNorm come from: torch.nn or one of `comfy.ops`.
            device: where the weights live.
            dtype: the weights' type.
        """
        super().__init__()
        factory = {"operations": operations, "device": device, "dtype": dtype}
        self.image_proj = image_projection(projection, **factory)
        self.ip_adapter = nn.ModuleDict(
            {
                str(index): SketchKeyValue(projection.output_dim, width, **factory)
                for index, width in channels.items()
            }
        )

    @classmethod
    def from_unet(
        cls, shape: UNetShape, projection: ProjectionConfig, **options: Any
    ) -> AnimeSketchAdapter:
        """Makes a new adapter with random weights for a UNet.

        Args:
            shape: the UNet's shape.
            projection: kind and sizes of the image projection; its tokens must be as wide as the
                UNet's text tokens.
            **options: operations, device and dtype, as in the constructor.
        """
        if projection.output_dim != shape.cross_attention_dim:
            raise ValueError(
                f"The image projection's output_dim is {projection.output_dim}, but the UNet "
                f"attends to tokens of width {shape.cross_attention_dim}; the two must be equal."
            )
        channels = {layer.index: layer.channels for layer in cross_attention_layers(shape)}
        return cls(projection, channels, **options)

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        dim_head: int = 64,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> AnimeSketchAdapter:
        """Rebuilds an adapter from the tensors of a weight file (see `weight_file.read_adapter`).

        Args:
            state_dict: the tensors under their file keys; every size but one is read off them.
            dim_head: width of a Resampler head, which shapes cannot tell; 64 in every published
                IP-Adapter, and the only one that diffusers loads.
            dtype: the weights' type; without it, that of the file.
            **options: operations and device, as in the constructor.
        """
        shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
        projection, channels = sizes_of(shapes, dim_head)
        dtype = dtype or state_dict["ip_adapter.1.to_k_ip.weight"].dtype
        adapter = cls(projection, channels, dtype=dtype, **options)
        adapter.load_state_dict(state_dict)
        return adapter

    @property
    def reads(self) -> ImageFeatures:
        """What of the image encoder `tokens` takes."""
        return self.image_proj.config.reads

    def tokens(self, features: Tensor) -> Tensor:
        """Turns the features that the adapter reads, [b, n, e] or [b, e], into tokens [b, m, t]."""
        return self.image_proj(features)

    def keys_values(self, tokens: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Projects image tokens [b, m, t] to every layer's (K', V'), each [b, m, channels]."""
        return {int(index): layer(tokens) for index, layer in self.ip_adapter.items()}

    @torch.no_grad()
    def initialise_from_text(self, text_kv: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Starts K', V' as copies of the UNet's own text projections.

        Args:
            text_kv: by layer index, the UNet's to_k and to_v weights, each [channels, token width].

        Raises:
            KeyError: a layer of the adapter has no weights in text_kv, or the other way round.
        """
        indices = {int(index) for index in self.ip_adapter}
        if indices != text_kv.keys():
            raise KeyError(
                f"The adapter's layers are {sorted(indices)}, but text projections were given for "
                f"{sorted(text_kv)}."
            )
        for index, (key, value) in text_kv.items():
            layer = cast(SketchKeyValue, self.ip_adapter[str(index)])
            layer.to_k_ip.weight.copy_(key)
            layer.to_v_ip.weight.copy_(value)


def sizes_of(
    shapes: Mapping[str, tuple[int, ...]], dim_head: int = 64
) -> tuple[ProjectionConfig, dict[int, int]]:
    """Reads the image projection's sizes and each layer's width off the shapes in a weight file.

    Returns:
        The projection's kind and sizes, and the layers' widths by index in ascending order.
    """
    projection = {
        key.removeprefix("image_proj."): shape
        for key, shape in shapes.items()
        if key.startswith("image_proj.")
    }
    widths = {
        int(key.split(".")[1]): shape[0]
        for key, shape in shapes.items()
        if key.endswith(".to_k_ip.weight")
    }
    return config_from_shapes(projection, dim_head), dict(sorted(widths.items()))
