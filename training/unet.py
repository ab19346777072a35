"""Puts the adapter into diffusers' UNet: one attention processor, one context.

The processors hold no weights. Those of cross-attention layers read K', V' and alpha from a context
that is filled for the length of one UNet call, so that the frozen UNet can serve any adapter (the
one in training, its running average) and, with an empty context, none.

Shapes: b batch, n positions of the picture, m tokens, h heads, d head width, c = h d channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.attention import decoupled_attention
from animesketchnet_core.unet_layers import UNetShape, cross_attention_layers

KeysValues = Mapping[int, tuple[Tensor, Tensor]]
"""By layer index: (K', V'), each [b, m, c]."""


@dataclass
class SketchContext:
    """What the processors add during one UNet call; empty: nothing.

    Attributes:
        keys_values: every layer's K', V'.
        alpha: strength of the sketch, a number or [b, 1, 1].
    """

    keys_values: KeysValues = field(default_factory=dict)
    alpha: float | Tensor = 1.0

    @contextmanager
    def filled(self, keys_values: KeysValues, alpha: float | Tensor) -> Iterator[None]:
        """Lends K', V' and alpha to the processors."""
        self.keys_values, self.alpha = keys_values, alpha
        try:
            yield
        finally:
            self.keys_values, self.alpha = {}, 1.0


class SketchAttention:
    """Diffusers' attention processor of one layer; in a cross-attention layer text plus sketch.

    Self-attention layers get it too, with index None, for the sake of `multi_head_attention`.
    """

    def __init__(self, context: SketchContext, index: int | None) -> None:
        self.context = context
        self.index = index

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attends from the picture [b, n, c] to the text [b, m, t]; the names are diffusers'."""
        if attention_mask is not None:
            raise ValueError("The trainer's UNet takes no attention mask.")
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return multi_head_attention(query, key, value, attn.heads)

        query = attn.to_q(hidden_states)  # [b, n, c]
        key, value = attn.to_k(source), attn.to_v(source)  # type: ignore[misc]  # [b, m, c] each
        out = attend(query, key, value)  # [b, n, c]
        if self.index is not None and self.context.keys_values:
            key, value = self.context.keys_values[self.index]
            key, value = key.to(query.dtype), value.to(query.dtype)
            out = decoupled_attention(query, out, key, value, self.context.alpha, attend)
        for layer in attn.to_out:  # type: ignore[union-attr]  # projection, then dropout
            out = layer(out)
        return out


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attends with torch's fused kernel, but on a CPU in plain products where gradients flow.

    There the fused kernel's bfloat16 backward is slow: with plain products the mini model's whole
    training step takes 0.8 s of one core instead of 1.37 s (batch 48, torch 2.14).

    Args:
        query: [b, n, c].
        key: [b, m, c].
        value: [b, m, c].
        heads: h, which divides c.

    Returns:
        [b, n, c].
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [b, h, n, m]
        read = scores.softmax(-1) @ v  # [b, h, n, d]
    else:
        read = F.scaled_dot_product_attention(q, k, v)  # [b, h, n, d]
    return read.transpose(1, 2).flatten(2)


def install(unet: UNet2DConditionModel) -> SketchContext:
    """Gives every attention layer of the UNet a sketch processor.

    A UNet that has them already keeps them, and so its context.

    Raises:
        ValueError: a layer has options that no Stable Diffusion v1 or XL UNet uses.
    """
    layers = cross_attention_layers(UNetShape.from_diffusers(unet.config))
    indices = {layer.diffusers: layer.index for layer in layers}
    names = [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    attentions = {name: _attention(unet, name) for name in names}
    present = [attention.processor for attention in attentions.values()]
    if isinstance(present[0], SketchAttention):
        return present[0].context
    context = SketchContext()
    for name, attention in attentions.items():
        processor = SketchAttention(context, indices.get(name))
        attention.set_processor(processor)  # type: ignore[arg-type]
    return context


def text_keys_values(unet: UNet2DConditionModel) -> dict[int, tuple[Tensor, Tensor]]:
    """Reads the text's own projections, from which K', V' start.

    Returns:
        By layer index: the to_k and to_v weights, each [c, t].
    """
    layers = cross_attention_layers(UNetShape.from_diffusers(unet.config))
    modules = {layer.index: _attention(unet, layer.diffusers) for layer in layers}
    return {
        index: (module.get_parameter("to_k.weight"), module.get_parameter("to_v.weight"))
        for index, module in modules.items()
    }


class AdaptedUNet(nn.Module):
    """The frozen UNet with an adapter in it: what the trainer calls, and differentiates."""

    def __init__(self, unet: UNet2DConditionModel, adapter: AnimeSketchAdapter) -> None:
        super().__init__()
        self.unet = unet
        self.adapter = adapter
        self.context = install(unet)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        features: Tensor,
        alpha: float | Tensor,
        precision: torch.dtype = torch.float32,
    ) -> Tensor:
        """Predicts the noise.

        Args:
            latents: noisy latents [b, 4, height, width].
            timesteps: int64 [b].
            text: text embeddings [b, 77, t].
            features: penultimate CLIP features of the references [b, n, e].
            alpha: strength of the sketch, a number or [b].
            precision: of the adapter's products; its weights stay as they are. The frozen UNet
                computes in its weights' own type, so nothing of it is cast at each step.

        Returns:
            float32 [b, 4, height, width].
        """
        dtype = self.unet.dtype
        with torch.autocast(latents.device.type, precision, enabled=precision != torch.float32):
            tokens = self.adapter.tokens(features.float())
            keys_values = self.adapter.keys_values(tokens)
        if isinstance(alpha, Tensor):
            alpha = alpha.to(dtype).view(-1, 1, 1)
        with self.context.filled(keys_values, alpha):
            out = self.unet(latents.to(dtype), timesteps, text.to(dtype), return_dict=False)[0]
        return out.float()


def _attention(unet: UNet2DConditionModel, name: str) -> Attention:
    """Finds a layer and refuses what SketchAttention does not compute."""
    module = unet.get_submodule(name)
    plain = (
        isinstance(module, Attention)
        and module.group_norm is None
        and module.spatial_norm is None
        and module.norm_q is None
        and not module.norm_cross
        and not module.residual_connection
        and module.rescale_output_factor == 1
    )
    if not plain:
        raise ValueError(
            f"{name} is not a plain attention layer; only Stable Diffusion's own UNets are known."
        )
    return module  # type: ignore[return-value]
