"""Builds the mini models out of ComfyUI's own model classes, from diffusers' files.

ComfyUI's loaders recognise checkpoints by the sizes of published models, so a smaller model of the
same architecture has to be put together here. What comes out are the very objects that its loaders
give: any node works with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.diffusers_convert
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import folder_paths
from torch import Tensor, nn

from ..animesketchnet_core.mini import load_part, load_text_projection
from .links import Patcher


class _MiniSD15(comfy.supported_models.SD15):
    """SD v1.5 of any size: same sampling, latents and prediction, heads of one width."""

    unet_config: Mapping[str, Any] = {}
    unet_extra_config: Mapping[str, Any] = {}


def load_unet(folder: Path) -> Any:
    """Loads the diffusion model as ComfyUI's MODEL."""
    config, weights = load_part("unet", folder)
    model_config = _MiniSD15(comfy_unet_config(config))
    parameters = sum(tensor.numel() for tensor in weights.values())
    load_device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(
        model_params=parameters, supported_dtypes=model_config.supported_inference_dtypes
    )
    cast_dtype = comfy.model_management.unet_manual_cast(
        dtype, load_device, model_config.supported_inference_dtypes
    )
    model_config.set_inference_dtype(dtype, cast_dtype)
    offload_device = comfy.model_management.unet_offload_device()
    model = model_config.get_model({}, "", device=offload_device)
    names = comfy.utils.unet_to_diffusers(model_config.unet_config)
    renamed = {names.get(key, key): tensor for key, tensor in weights.items()}
    _load_all(model.diffusion_model, renamed, "unet")
    return Patcher(model, load_device=load_device, offload_device=offload_device)


def comfy_unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a diffusers UNet configuration with attention on every level.

    diffusers' `attention_head_dim` is, for Stable Diffusion, the number of heads.
    """
    channels = config["block_out_channels"]
    heads = config["attention_head_dim"]
    head_widths = {c // h for c, h in zip(channels, heads, strict=True)}
    if len(head_widths) != 1:
        raise ValueError(
            f"The mini UNet needs heads of one width on all levels, its config.json has channels "
            f"{channels} and head counts {heads}."
        )
    levels, layers = len(channels), config["layers_per_block"]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": [layers] * levels,
        "use_spatial_transformer": True,
        "transformer_depth": [1] * (levels * layers),
        "transformer_depth_output": [1] * (levels * (layers + 1)),
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "num_heads": -1,
        "num_head_channels": head_widths.pop(),
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "adm_in_channels": None,
        "legacy": False,
    }


def load_clip(folder: Path) -> Any:
    """Loads the text encoder as ComfyUI's CLIP, with SD v1.5's tokenizer."""
    config, weights = load_part("text_encoder", folder)

    class MiniTextModel(comfy.sd1_clip.SDClipModel):
        def __init__(self, **options: Any) -> None:
            options.update(textmodel_json_config=dict(config), return_projected_pooled=False)
            super().__init__(**options)

    class MiniClipModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, **options: Any) -> None:
            super().__init__(clip_model=MiniTextModel, **options)

    class Target:
        params: Mapping[str, Any] = {}
        clip = MiniClipModel
        tokenizer = comfy.sd1_clip.SD1Tokenizer

    embeddings = folder_paths.get_folder_paths("embeddings")
    parameters = sum(tensor.numel() for tensor in weights.values())
    clip = comfy.sd.CLIP(Target(), embedding_directory=embeddings, parameters=parameters)
    transformer = clip.cond_stage_model.clip_l.transformer
    weights["text_projection.weight"] = load_text_projection(folder)
    _load_all(transformer, weights, "text_encoder")
    return clip


def load_vae(folder: Path) -> Any:
    """Loads the autoencoder as ComfyUI's VAE."""
    config, weights = load_part("vae", folder)
    channels = config["block_out_channels"]
    sizes = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": channels[0],
        "ch_mult": [c // channels[0] for c in channels],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    parameters = {"ddconfig": sizes, "embed_dim": config["latent_channels"]}
    renamed = comfy.diffusers_convert.convert_vae_state_dict(weights)
    vae = comfy.sd.VAE(sd=renamed, config={"params": parameters})
    _load_all(vae.first_stage_model, renamed, "vae")
    return vae


def load_clip_vision(folder: Path) -> Any:
    """Loads the image encoder as ComfyUI's CLIP_VISION."""
    _, weights = load_part("image_encoder", folder)
    clip_vision = comfy.clip_vision.ClipVisionModel(str(folder / "image_encoder" / "config.json"))
    _load_all(clip_vision.model, weights, "image_encoder")
    return clip_vision


def _load_all(module: nn.Module, weights: Mapping[str, Tensor], part: str) -> None:
    """Loads weights into a module; every tensor must find its place, and every place a tensor."""
    ignored = [key for key in weights if key.endswith("position_ids")]  # counts 0, 1, 2, ...
    missing, unexpected = module.load_state_dict(
        {key: tensor for key, tensor in weights.items() if key not in ignored}, strict=False
    )
    if missing or unexpected:
        raise ValueError(
            f"The mini models' {part} does not fit ComfyUI's classes: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}. Restore animesketchnet_core/mini from the repository."
        )
