"""The one layer table: a cross-attention layer's names in a weight file, diffusers and ComfyUI.

IP-Adapter's weight files number the attention layers of diffusers' `unet.attn_processors`: down
blocks, up blocks, middle block, with self-attention (even, no weights) and cross-attention (odd)
taking turns. ComfyUI names the same layers by (block, number, index inside the block). Both follow
from the UNet's configuration, so SD v1.5 (16 layers), the mini model (10) and SDXL (70) need no
table of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UNetShape:
    """What of a Stable Diffusion UNet's configuration decides its cross-attention layers.

    A level is one resolution of the UNet, 0 the finest. Up levels mirror the down levels.

    Attributes:
        block_out_channels: channels of each level.
        layers_per_block: residual blocks of each level on the way down (one more on the way up).
        transformer_depth: transformer blocks after each residual block of a level, 0 for none.
        mid_depth: transformer blocks of the middle block, 0 for none.
        cross_attention_dim: width of the text tokens.
    """

    block_out_channels: tuple[int, ...]
    layers_per_block: tuple[int, ...]
    transformer_depth: tuple[int, ...]
    mid_depth: int
    cross_attention_dim: int

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if len(self.layers_per_block) != levels or len(self.transformer_depth) != levels:
            raise ValueError(
                f"UNetShape needs one layers_per_block and one transformer_depth for each of the "
                f"{levels} levels of block_out_channels, got {self.layers_per_block} and "
                f"{self.transformer_depth}."
            )

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> UNetShape:
        """Reads the configuration of a diffusers `UNet2DConditionModel` (`unet/config.json`).

        Raises:
            ValueError: the UNet is not of the Stable Diffusion kind (up levels that do not mirror
                the down levels, or text of several widths).
        """
        channels = tuple(config["block_out_channels"])
        attends = ["CrossAttn" in name for name in config["down_block_types"]]
        if ["CrossAttn" in name for name in reversed(config["up_block_types"])] != attends:
            raise ValueError(
                f"The UNet's up blocks {list(config['up_block_types'])} do not mirror its down "
                f"blocks {list(config['down_block_types'])}; only Stable Diffusion UNets are known."
            )
        if config.get("reverse_transformer_layers_per_block") is not None:
            raise ValueError(
                "The UNet has another transformer depth on the way up than on the way down "
                "(reverse_transformer_layers_per_block); only Stable Diffusion UNets are known."
            )
        depth = _per_level(config.get("transformer_layers_per_block", 1), len(channels))
        mid_attends = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
        return cls(
            block_out_channels=channels,
            layers_per_block=_per_level(config.get("layers_per_block", 2), len(channels)),
            transformer_depth=tuple(d if on else 0 for d, on in zip(depth, attends, strict=True)),
            mid_depth=depth[-1] if mid_attends == "UNetMidBlock2DCrossAttn" else 0,
            cross_attention_dim=_one_width(config["cross_attention_dim"]),
        )

    @classmethod
    def from_comfy(cls, unet_config: Mapping[str, Any]) -> UNetShape:
        """Reads ComfyUI's `model.model.model_config.unet_config`.

        There `transformer_depth` has an entry for each residual block on the way down, and
        `transformer_depth_output` one for each residual block on the way up, finest level first.

        Raises:
            ValueError: not a Stable Diffusion UNet, or depths that differ within a level.
        """
        missing = _COMFY_KEYS - unet_config.keys()
        if missing:
            raise ValueError(
                f"This MODEL is not a Stable Diffusion UNet: its configuration has no "
                f"{', '.join(sorted(missing))}. AnimeSketchNet needs an SD v1.5 or SDXL checkpoint."
            )
        multipliers = tuple(unet_config["channel_mult"])
        layers = _per_level(unet_config["num_res_blocks"], len(multipliers))
        down = _group_by_level(unet_config["transformer_depth"], layers)
        up = _group_by_level(unet_config["transformer_depth_output"], [n + 1 for n in layers])
        if down != up:
            raise ValueError(
                f"The UNet has transformer depth {up} on the way up but {down} on the way down; "
                "pruned Stable Diffusion UNets such as SSD-1B are not supported."
            )
        return cls(
            block_out_channels=tuple(unet_config["model_channels"] * m for m in multipliers),
            layers_per_block=layers,
            transformer_depth=down,
            mid_depth=max(0, unet_config["transformer_depth_middle"]),  # -1 and -2 mean none
            cross_attention_dim=_one_width(unet_config["context_dim"]),
        )


_COMFY_KEYS = frozenset(
    {
        "model_channels",
        "channel_mult",
        "num_res_blocks",
        "transformer_depth",
        "transformer_depth_output",
        "transformer_depth_middle",
        "context_dim",
    }
)


@dataclass(frozen=True)
class CrossAttentionLayer:
    """One cross-attention layer under its three names.

    Attributes:
        index: the layer's number in a weight file: 1, 3, 5, ...
        channels: width of the layer's queries, keys and values.
        diffusers: module name, e.g. "down_blocks.0.attentions.0.transformer_blocks.0.attn2".
        comfy: (block, number, index inside the block), e.g. ("input", 1, 0).
    """

    index: int
    channels: int
    diffusers: str
    comfy: tuple[str, int, int]


def cross_attention_layers(shape: UNetShape) -> tuple[CrossAttentionLayer, ...]:
    """Lists a UNet's cross-attention layers in the order of the weight file: down, up, middle."""
    places = [*_down_layers(shape), *_up_layers(shape), *_mid_layers(shape)]
    return tuple(
        CrossAttentionLayer(2 * position + 1, channels, diffusers, comfy)
        for position, (channels, diffusers, comfy) in enumerate(places)
    )


_Place = tuple[int, str, tuple[str, int, int]]


def _down_layers(shape: UNetShape) -> Iterator[_Place]:
    number = 1  # ComfyUI's input block 0 is the first convolution
    for level, (channels, layers, depth) in enumerate(_levels(shape)):
        for j in range(layers):
            for k in range(depth):
                name = f"down_blocks.{level}.attentions.{j}.transformer_blocks.{k}.attn2"
                yield channels, name, ("input", number + j, k)
        number += layers + 1  # the downsampler is an input block of its own


def _up_layers(shape: UNetShape) -> Iterator[_Place]:
    number = 0
    for level, (channels, layers, depth) in enumerate(reversed(_levels(shape))):
        for j in range(layers + 1):
            for k in range(depth):
                name = f"up_blocks.{level}.attentions.{j}.transformer_blocks.{k}.attn2"
                yield channels, name, ("output", number + j, k)
        number += layers + 1  # the upsampler is part of the level's last output block


def _mid_layers(shape: UNetShape) -> Iterator[_Place]:
    for k in range(shape.mid_depth):
        name = f"mid_block.attentions.0.transformer_blocks.{k}.attn2"
        yield shape.block_out_channels[-1], name, ("middle", 0, k)


def _levels(shape: UNetShape) -> list[tuple[int, int, int]]:
    return list(
        zip(shape.block_out_channels, shape.layers_per_block, shape.transformer_depth, strict=True)
    )


def _per_level(value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else tuple(value)


def _one_width(value: int | Sequence[int]) -> int:
    widths = {value} if isinstance(value, int) else set(value)
    if len(widths) != 1:
        raise ValueError(f"The UNet attends to text of several widths {sorted(widths)}, not one.")
    return widths.pop()


def _group_by_level(depths: Sequence[int], blocks: Sequence[int]) -> tuple[int, ...]:
    """Turns one depth per residual block into one per level, which must agree inside a level."""
    if len(depths) != sum(blocks):
        raise ValueError(
            f"Expected {sum(blocks)} transformer depths, one per residual block, got {depths}."
        )
    grouped, start = [], 0
    for count in blocks:
        level = set(depths[start : start + count])
        if len(level) != 1:
            raise ValueError(f"Transformer depths {sorted(level)} differ within one UNet level.")
        grouped.append(level.pop())
        start += count
    return tuple(grouped)


SD15 = UNetShape(  # runwayml/stable-diffusion-v1-5, unet/config.json
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=(2, 2, 2, 2),
    transformer_depth=(1, 1, 1, 0),
    mid_depth=1,
    cross_attention_dim=768,
)
