"""Puts the adapter into diffusers' UNet: one stateless attention processor.

What it adds comes with each call, as diffusers' `cross_attention_kwargs`, so that the frozen UNet
can serve any adapter (the one in training, its running average) or none, and a checkpointed block
that is computed again in the backward pass meets the same K', V'.

Shapes: b batch, n positions of the picture, m tokens, h heads, d head width, c = h d channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.attention import decoupled_attention
from animesketchnet_core.unet_layers import UNetShape, cross_attention_layers


@dataclass(frozen=True)
class Sketch:
    """What the cross-attention layers add in one UNet call.

    Attributes:
        keys_values: by layer index: (K', V'), each [b, m, c].
        alpha: strength, a number or [b, 1, 1].
    """

    keys_values: Mapping[int, tuple[Tensor, Tensor]]
    alpha: float | Tensor = 1.0

    def kwargs(self) -> dict[str, Sketch]:
        """The UNet's `cross_attention_kwargs`."""
        return {"sketch": self}


class SketchAttention:
    """Diffusers' attention processor of one layer; in a cross-attention layer text plus sketch.

    Self-attention layers get it too, with index None, for the sake of `multi_head_attention`.
    """

    def __init__(self, index: int | None) -> None:
        self.index = index

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sketch: Sketch | None = None,
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
        if self.index is not None and sketch is not None:
            key, value = sketch.keys_values[self.index]
            key, value = key.to(query.dtype), value.to(query.dtype)
            out = decoupled_attention(query, out, key, value, sketch.alpha, attend)
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
    elif q.device.type == "meta":  # keeps what a GPU's fused kernel does (estimate.py)
        read = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
    else:
        read = F.scaled_dot_product_attention(q, k, v)  # [b, h, n, d]
    return read.transpose(1, 2).flatten(2)


def install(unet: UNet2DConditionModel) -> None:
    """Gives every attention layer of the UNet a sketch processor, once.

    Raises:
        ValueError: a layer has options that no Stable Diffusion v1 or XL UNet uses.
    """
    layers = cross_attention_layers(UNetShape.from_diffusers(unet.config))
    indices = {layer.diffusers: layer.index for layer in layers}
    names = [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    for name in names:
        attention = _attention(unet, name)
        if not isinstance(attention.processor, SketchAttention):
            attention.set_processor(SketchAttention(indices.get(name)))  # type: ignore[arg-type]


CHECKPOINTED = ("none", "largest", "all")


def checkpoint_blocks(unet: UNet2DConditionModel, blocks: str) -> None:
    """Computes blocks again in the backward pass, in place of keeping what they computed.

    Args:
        unet: what is changed.
        blocks: "none"; "largest", those of the finest level, which keep most of the memory for a
            small part of the time; or "all".
    """
    unet.disable_gradient_checkpointing()
    if blocks == "none":
        return
    unet.enable_gradient_checkpointing()
    if blocks == "largest":
        finest = {*unet.down_blocks[0].modules(), *unet.up_blocks[-1].modules()}
        for module in set(unet.modules()) - finest:
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False  # type: ignore[assignment]
    for module in unet.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # else old versions of diffusers do not heed the mark


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
        install(unet)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        features: Tensor | None,
        alpha: float | Tensor,
        precision: torch.dtype = torch.float32,
    ) -> Tensor:
        """Predicts the noise.

        Args:
            latents: noisy latents [b, 4, height, width].
            timesteps: int64 [b].
            text: text embeddings [b, 77, t].
            features: penultimate CLIP features of the references [b, n, e]; None: the base alone.
            alpha: strength of the sketch, a number or [b].
            precision: of the adapter's products; its weights stay as they are. The frozen UNet
                computes in its weights' own type, so nothing of it is cast at each step.

        Returns:
            float32 [b, 4, height, width].
        """
        dtype = self.unet.dtype
        sketch = None if features is None else self._sketch(features, alpha, precision).kwargs()
        out = self.unet(
            latents.to(dtype),
            timesteps,
            text.to(dtype),
            cross_attention_kwargs=sketch,
            return_dict=False,
        )[0]
        return out.float()

    def _sketch(self, features: Tensor, alpha: float | Tensor, precision: torch.dtype) -> Sketch:
        exact = precision == torch.float32
        with nullcontext() if exact else torch.autocast(features.device.type, precision):
            tokens = self.adapter.tokens(features.float())
            keys_values = self.adapter.keys_values(tokens)
        if isinstance(alpha, Tensor):
            alpha = alpha.to(self.unet.dtype).view(-1, 1, 1)
        return Sketch(keys_values, alpha)


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
