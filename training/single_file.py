"""Reads frozen models as ComfyUI users hold them: one file each.

A Stable Diffusion v1 checkpoint (.safetensors or .ckpt) holds UNet, autoencoder and text encoder
under the names of the latent-diffusion repository; diffusers renames them. An image encoder is a
transformers file (`CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors`, as ComfyUI's CLIPVisionLoader
reads it) or an open_clip checkpoint. Kinds are told by keys and shapes, never by names of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from animesketchnet_core.image_encoder_file import (
    ImageEncoderKind,
    Layout,
    WrongEncoderError,
    describe_image_encoder,
)
from animesketchnet_core.weight_container import (
    UnreadableWeightsError,
    WeightContainer,
    open_weights,
)
from animesketchnet_core.weight_kinds import some

from .loading import ModelError, load_strictly

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


@dataclass(frozen=True)
class Sizes:
    """Configurations of a checkpoint's parts; its weights alone do not tell the number of heads.

    Attributes:
        unet: of UNet2DConditionModel.
        vae: of AutoencoderKL.
        text: of CLIPTextModel.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]


SD15 = Sizes(  # the configurations of stable-diffusion-v1-5 on the Hugging Face hub
    unet={"sample_size": 64, "cross_attention_dim": 768},
    vae={
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
    text={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
)

# (heads, activation) of CLIP's vision transformers by width and layers.
VISION_KINDS: dict[tuple[int, int], tuple[int, str]] = {
    (1024, 24): (16, "quick_gelu"),  # ViT-L/14, OpenAI
    (1280, 32): (16, "gelu"),  # ViT-H/14, LAION
    (1664, 48): (16, "gelu"),  # ViT-bigG/14, LAION
}


def read_checkpoint(
    path: Path, sizes: Sizes | None = None
) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """Reads the three parts of a Stable Diffusion v1 checkpoint, in float32.

    Args:
        path: .safetensors, .ckpt or .bin.
        sizes: the parts' configurations; None: SD v1.5's.

    Raises:
        ModelError: the file is damaged, or no checkpoint of this family.
    """
    sizes = sizes or SD15
    with _opened(path) as file:
        _check_family(path, file, sizes)
        unet = UNet2DConditionModel(**sizes.unet)
        vae = AutoencoderKL(**sizes.vae)
        text = CLIPTextModel(CLIPTextConfig(**sizes.text))
        _load(unet, file, UNET, path, lambda part: convert_ldm_unet_checkpoint(part, unet.config))
        _load(vae, file, VAE, path, lambda part: convert_ldm_vae_checkpoint(part, vae.config))
        _load(text, file, TEXT, path, convert_ldm_clip_checkpoint)
        return unet, vae, text


def read_image_encoder(path: Path) -> CLIPVisionModelWithProjection:
    """Reads a CLIP vision transformer from a transformers or an open_clip file, in float32.

    Raises:
        ModelError: the file is damaged, or holds no vision transformer of a known kind.
    """
    try:
        with _opened(path) as container:
            kind = describe_image_encoder(container.shapes)
            is_open_clip = kind.layout is Layout.OPEN_CLIP
            weights = (_from_open_clip if is_open_clip else _from_transformers)(container)
        model = CLIPVisionModelWithProjection(_vision_config(path, kind, weights))
    except ModelError:
        raise
    except WrongEncoderError as error:
        raise ModelError(
            f"{path} holds no CLIP vision transformer. {error} Expected a transformers or "
            "open_clip file of CLIP ViT-H/14, such as CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors; "
            "set model.image_encoder."
        ) from error
    except KeyError as error:
        raise ModelError(f"{path} lacks the weight {error}. Download it again.") from error
    except Exception as error:  # what torch and transformers raise for shapes without sense
        raise ModelError(
            f"{path} has weights of shapes that no CLIP vision transformer has ({error}). Download "
            "it again."
        ) from error
    load_strictly(model, {key: value.float() for key, value in weights.items()}, path)
    return model


@contextmanager
def _opened(path: Path) -> Iterator[WeightContainer]:
    """Opens a file; what is wrong with it, now or as it is read, is told under its name."""
    try:
        yield open_weights(path)
    except (UnreadableWeightsError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a model. {error}") from error


def _check_family(path: Path, container: WeightContainer, sizes: Sizes) -> None:
    key = f"{UNET}input_blocks.0.0.weight"
    if key not in container.shapes:
        raise ModelError(
            f"{path} is no Stable Diffusion checkpoint: it has no {key}, but "
            f"{len(container.shapes)} others{some(container.shapes)}. "
            "Expected a whole SD v1.5 checkpoint with UNet, VAE and text encoder."
        )
    for prefix, part in ((VAE, "VAE"), (TEXT, "CLIP-L text encoder")):
        if not any(name.startswith(prefix) for name in container.shapes):
            raise ModelError(
                f"{path} has no {part} (no key begins with {prefix}). Expected a whole SD v1.5 "
                "checkpoint; SD 2.x and SDXL have other text encoders and are not supported."
            )
    channels = container.shapes[key][1:2]
    if channels != ((expected := sizes.unet.get("in_channels", 4)),):
        found = ", ".join(map(str, channels)) or "no"
        raise ModelError(
            f"{path} has a UNet with {found} input channels, {expected} were expected: it is "
            "for inpainting or editing. Use the plain SD v1.5 model."
        )


def _load(
    model: nn.Module,
    container: WeightContainer,
    prefix: str,
    path: Path,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    """Loads the part of a checkpoint whose keys begin with a prefix."""
    names = [name for name in container.shapes if name.startswith(prefix)]
    part = {name: container.read(name).float() for name in names}
    try:
        converted = convert(part)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"The {prefix}* weights in {path} are incomplete ({error!r}). Download it again."
        ) from error
    load_strictly(model, converted, path)


def _vision_config(
    path: Path, kind: ImageEncoderKind, weights: Mapping[str, Tensor]
) -> CLIPVisionConfig:
    """Completes the sizes that the file tells."""
    size = (kind.hidden_width, kind.layers)
    if size not in VISION_KINDS:
        known = "; ".join(f"{w} wide, {layers} layers" for w, layers in VISION_KINDS)
        raise ModelError(
            f"{path} holds a vision transformer {size[0]} wide with {size[1]} layers; known "
            f"are {known}. Give a transformers folder with config.json in its place."
        )
    heads, activation = VISION_KINDS[size]
    return CLIPVisionConfig(
        hidden_size=kind.hidden_width,
        intermediate_size=len(weights["vision_model.encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=kind.layers,
        num_attention_heads=heads,
        hidden_act=activation,  # type: ignore[arg-type]
        image_size=kind.image_size,
        patch_size=kind.patch_size,
        projection_dim=len(weights["visual_projection.weight"]),
    )


def _from_transformers(container: WeightContainer) -> dict[str, Tensor]:
    """Leaves out what else the file holds, such as CLIP's text encoder."""
    keep = ("vision_model.", "visual_projection.")
    return {key: container.read(key) for key in container.shapes if key.startswith(keep)}


# open_clip's names within a layer, and transformers'.
_LAYER_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OTHER_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}


def _from_open_clip(container: WeightContainer) -> dict[str, Tensor]:
    """Renames open_clip's vision transformer to transformers' names."""
    weights = {key: container.read(key) for key in container.shapes if key.startswith("visual.")}
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key == "visual.proj":
            renamed["visual_projection.weight"] = value.T.contiguous()
        elif key.startswith("visual.transformer.resblocks."):
            number, name = key.removeprefix("visual.transformer.resblocks.").split(".", 1)
            layer = f"vision_model.encoder.layers.{number}."
            name, _, kind = name.rpartition(".")  # ("attn.out_proj", "weight")
            if name == "attn":  # in_proj_weight, in_proj_bias: query, key and value in one
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    suffix = kind.removeprefix("in_proj_")
                    renamed[f"{layer}self_attn.{letter}_proj.{suffix}"] = part.clone()
            else:
                renamed[f"{layer}{_LAYER_NAMES.get(name, name)}.{kind}"] = value
        else:
            renamed[_OTHER_NAMES.get(key, key)] = value
    return renamed
