"""What files are taken for, their keys written by the libraries that own the layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_adapters import tiny_state
from torch import nn

from animesketchnet_core.image_encoder_file import (
    ImageEncoderKind,
    Layout,
    WrongEncoderError,
    describe_image_encoder,
    read_image_encoder_kind,
)
from animesketchnet_core.image_features import ImageFeatures

HIDDEN, EMBEDDING = ImageFeatures.HIDDEN_STATES, ImageFeatures.IMAGE_EMBEDDING
VISION = {
    "hidden_size": 66, "intermediate_size": 34, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 35, "patch_size": 7,
}  # fmt: skip
TEXT = {
    "hidden_size": 22, "intermediate_size": 26, "num_hidden_layers": 5, "num_attention_heads": 2,
    "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def with_projection() -> Shapes:
    config = transformers.CLIPVisionConfig(**VISION, projection_dim=46)
    return shapes_of(transformers.CLIPVisionModelWithProjection(config))


def whole_clip() -> Shapes:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=46)
    return shapes_of(transformers.CLIPModel(config))


def open_clips() -> Shapes:
    model = pytest.importorskip("open_clip.model")
    vision = model.CLIPVisionCfg(layers=3, width=66, head_width=33, patch_size=7, image_size=35)
    text = model.CLIPTextCfg(context_length=8, vocab_size=97, width=22, heads=2, layers=5)
    return shapes_of(model.CLIP(embed_dim=46, vision_cfg=vision, text_cfg=text))


def saved_by_transformers_5() -> Shapes:
    """As CLIPVisionModel saves itself; older versions wrote the prefix, newer ones do not."""
    shapes = shapes_of(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)))
    return {key.removeprefix("vision_model."): shape for key, shape in shapes.items()}


def without_projection() -> Shapes:
    """As CLIPVisionModel saved itself before."""
    return {f"vision_model.{key}": shape for key, shape in saved_by_transformers_5().items()}


def siglip() -> Shapes:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    return shapes_of(transformers.SiglipModel(config))


@pytest.mark.parametrize(
    ("layout", "is_clip", "embedding", "shapes"),
    [
        (Layout.TRANSFORMERS, True, 46, with_projection),
        (Layout.TRANSFORMERS, True, 46, whole_clip),
        (Layout.TRANSFORMERS, True, None, without_projection),
        (Layout.TRANSFORMERS, False, 66, siglip),
        (Layout.BARE, True, None, saved_by_transformers_5),
        (Layout.OPEN_CLIP, True, 46, open_clips),
    ],
)
def test_sizes_are_read_off_the_shapes(layout, is_clip, embedding, shapes) -> None:
    found = shapes()
    assert describe_image_encoder(found) == ImageEncoderKind(
        layout=layout,
        is_clip=is_clip,
        hidden_width=66,
        embedding_width=embedding,
        layers=3,
        patch_size=7,
        image_size=35,
        num_values=sum(torch.Size(shape).numel() for shape in found.values()),
    )


VIT_H = ImageEncoderKind(
    layout=Layout.TRANSFORMERS, is_clip=True, hidden_width=1280, embedding_width=1024, layers=32,
    patch_size=14, image_size=224, num_values=632_076_800,
)  # fmt: skip
VIT_G = replace(VIT_H, hidden_width=1664, embedding_width=1280, layers=48)


def test_the_same_width_is_hidden_states_of_one_and_embedding_of_another() -> None:
    assert VIT_H.fits(HIDDEN, 1280)
    assert not VIT_H.fits(EMBEDDING, 1280)
    assert VIT_G.fits(EMBEDDING, 1280)
    assert not VIT_G.fits(HIDDEN, 1280)
    vit_l = replace(VIT_H, hidden_width=1024, embedding_width=768, layers=24)
    assert vit_l.fits(HIDDEN, 1024)
    assert VIT_H.fits(EMBEDDING, 1024)
    assert not vit_l.fits(EMBEDDING, 1024)


def test_what_an_adapter_reads_must_be_in_the_file() -> None:
    unprojected = replace(VIT_H, embedding_width=None)
    assert unprojected.fits(HIDDEN, 1280)
    assert not unprojected.fits(EMBEDDING, 1024)
    for layers, reads_hidden, reads_embedding in (
        (30, False, False),
        (31, True, False),  # the penultimate states are there
        (32, True, True),
        (33, False, False),  # another model
    ):
        kind = replace(VIT_H, layers=layers)
        assert kind.fits(HIDDEN, 1280) is reads_hidden
        assert kind.fits(EMBEDDING, 1024) is reads_embedding


def test_what_comfyui_or_the_adapter_cannot_read_does_not_fit() -> None:
    assert not replace(VIT_H, layout=Layout.BARE).fits(HIDDEN, 1280)
    assert replace(VIT_H, layout=Layout.OPEN_CLIP).fits(HIDDEN, 1280)
    assert not replace(VIT_H, is_clip=False).fits(HIDDEN, 1280)


def test_it_names_itself() -> None:
    assert str(VIT_H) == (
        "CLIP ViT-H/14 (32 layers, hidden states of width 1280, image embedding of width 1024, "
        "pictures of 224 x 224)"
    )
    assert "no image embedding, for its projection is" in str(replace(VIT_H, embedding_width=None))
    assert 'lack the prefix "vision_model."' in str(replace(VIT_H, layout=Layout.BARE))
    assert str(replace(VIT_H, is_clip=False)).startswith("a SigLIP vision model (32 layers")
    unknown = replace(VIT_H, hidden_width=66)
    assert str(unknown).startswith("a CLIP vision model of an unknown size (32 layers")


def diffusion_unet() -> Shapes:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=38,
    )
    return shapes_of(unet)


def ip_adapter() -> Shapes:
    return {key: tuple(value.shape) for key, value in tiny_state().items()}


def accelerates_ip_adapter() -> Shapes:
    return {
        key.replace("image_proj.", "image_proj_model.").replace(
            "ip_adapter.", "adapter_modules."
        ): s
        for key, s in ip_adapter().items()
    }


def dinov2() -> Shapes:
    return shapes_of(transformers.Dinov2Model(transformers.Dinov2Config(**VISION)))


def clip_text() -> Shapes:
    shapes = shapes_of(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))
    return {f"text_model.{key.removeprefix('text_model.')}": shape for key, shape in shapes.items()}


def llava() -> Shapes:
    return {f"vision_tower.{key}": shape for key, shape in with_projection().items()}


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (diffusion_unet, "a diffusion UNet or VAE"),
        (ip_adapter, "an IP-Adapter"),
        (accelerates_ip_adapter, "an IP-Adapter"),
        (dinov2, "a DINOv2 image encoder"),
        (clip_text, "a CLIP text encoder"),
        (llava, "a CLIP vision model in a layout that is not read here"),
        (lambda: {"a": (1,), "b": (2,)}, r"a file of 2 tensors \(a, b\)"),
        (dict, "a file of 0 tensors"),
    ],
)
def test_other_files_are_named(shapes, kind: str) -> None:
    with pytest.raises(WrongEncoderError, match=f"^This is {kind}, not an image encoder"):
        describe_image_encoder(shapes())


@pytest.mark.parametrize(
    ("shapes", "patches", "positions"),
    [
        (
            with_projection,
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
        ),
        (open_clips, "visual.conv1.weight", "visual.positional_embedding"),
    ],
)
def test_incomplete_and_broken_encoders_are_refused(shapes, patches: str, positions: str) -> None:
    whole = shapes()
    for key in (patches, positions):
        rest = {name: shape for name, shape in whole.items() if name != key}
        with pytest.raises(WrongEncoderError, match=f"incomplete image encoder: it lacks {key}"):
            describe_image_encoder(rest)
        for shape in ((3,), (0, 0), ()):
            with pytest.raises(WrongEncoderError, match=f"broken image encoder: {key} is"):
                describe_image_encoder({**whole, key: shape})


def test_files_are_read_whatever_their_name_and_container(tmp_path: Path) -> None:
    tensors = {key: torch.zeros(shape) for key, shape in with_projection().items()}
    save_file(tensors, tmp_path / "SigLIP.bin")
    torch.save(tensors, tmp_path / "lora.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "wrapped.pth")
    for name in ("SigLIP.bin", "lora.safetensors", "wrapped.pth"):
        assert read_image_encoder_kind(tmp_path / name).hidden_width == 66


class Hostile:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_damaged_and_hostile_files_are_named_without_advice_on_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page").write_text("<html>")
    torch.save({"vision_model.x": Hostile()}, tmp_path / "hostile")
    for name, message in (("page", "a web page"), ("hostile", "could run code")):
        with pytest.raises(WrongEncoderError, match=message) as caught:
            read_image_encoder_kind(tmp_path / name)
        assert "ipadapter" not in str(caught.value)
    assert "ran" not in capsys.readouterr().out
