"""Load Sketch Encoder: which file of models/clip_vision it takes, and what it says of the others.

The files have the keys and shapes of published encoders, but only a few of their weights: enough
for ComfyUI's own loader, which tells the sizes by them.
"""

from __future__ import annotations

import os
from pathlib import Path

import comfy.clip_vision
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

BUNDLE = Path(os.environ["ANIMESKETCHNET_MINI"])
VIT_L, VIT_H, VIT_G = (1024, 768, 24), (1280, 1024, 32), (1664, 1280, 48)  # hidden, embedding


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty models/clip_vision."""
    entry = ([str(tmp_path)], {".safetensors", ".bin", ".pth"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", entry)
    return tmp_path


@pytest.fixture
def node(pack):
    return pack.nodes["AnimeSketchNetEncoderLoader"]


@pytest.fixture
def taken(node, monkeypatch):
    """Runs the node without loading: gives the name of the file that it takes."""
    monkeypatch.setattr(comfy.clip_vision, "load", Path)
    return lambda *inputs: node.execute(*inputs).args[0].name


@pytest.fixture
def adapter(pack, mini):
    """Makes an adapter of another kind, as Load AnimeSketchNet gives it."""

    def make(kind, width):
        core = pack.module("animesketchnet_core.image_projection")
        unet = pack.module("animesketchnet_core.unet_layers")
        shape = unet.UNetShape.from_comfy(mini.model.model.model_config.unet_config)
        projection = getattr(core, kind)(output_dim=128, embedding_dim=width)
        made = pack.module("animesketchnet_core.adapter").AnimeSketchAdapter.from_unet(
            shape, projection
        )
        loaded = pack.module("nodes.links").LoadedAdapter
        return loaded.from_tensors(dict(made.state_dict()), None, "a.safetensors")

    return make


@pytest.fixture
def full_face(adapter):
    """Reads ViT-H's hidden states."""
    return adapter("PatchProjectionConfig", 1280)


@pytest.fixture
def plain(adapter):
    """Reads ViT-H's image embedding."""
    return adapter("EmbeddingProjectionConfig", 1024)


def encoder(sizes=VIT_H, *, image_size=224, dtype=torch.float16):
    hidden, embedding, layers = sizes
    prefix = "vision_model.embeddings."
    shapes = {
        f"{prefix}class_embedding": (hidden,),
        f"{prefix}patch_embedding.weight": (hidden, 3, 14, 14),
        f"{prefix}position_embedding.weight": ((image_size // 14) ** 2 + 1, hidden),
        "vision_model.post_layernorm.weight": (hidden,),
        "visual_projection.weight": (embedding, hidden),
        **{
            f"vision_model.encoder.layers.{layer}.layer_norm1.weight": (hidden,)
            for layer in range(layers)
        },
    }
    generator = torch.Generator().manual_seed(3)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def as_open_clip(tensors):
    names = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.post_layernorm.weight": "visual.ln_post.weight",
        "visual_projection.weight": "visual.proj",
    }
    width = len(tensors["vision_model.embeddings.class_embedding"])
    renamed = {"visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(3 * width, width)}
    for key, tensor in tensors.items():
        number = key.removeprefix("vision_model.encoder.layers.").split(".")[0]
        name = names.get(key, f"visual.transformer.resblocks.{number}.ln_1.weight")
        renamed[name] = tensor.T.contiguous() if name == "visual.proj" else tensor
    return renamed


def without(tensors, key):
    return {name: tensor for name, tensor in tensors.items() if key not in name}


def fill_with_decoys(folder):
    save_file(encoder(VIT_L), folder / "CLIP-ViT-H-14.safetensors")  # a name that lies
    save_file(without(encoder((1152, 1, 27)), "class_embedding"), folder / "siglip.safetensors")
    torch.save({"a_lora_down.weight": torch.ones(1)}, folder / "lora.pth")
    (folder / "page.safetensors").write_text("<html>")
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    (folder / "sub").mkdir()
    (folder / "sub" / "unet.safetensors").symlink_to(BUNDLE / "unet" / "model.safetensors")
    (folder / "adapter.safetensors").symlink_to(BUNDLE / "adapter.safetensors")


def test_the_one_that_fits_is_found_among_others(folder, taken, mini, full_face, plain, adapter):
    fill_with_decoys(folder)
    save_file(encoder(VIT_G), folder / "g.safetensors")
    save_file(encoder(VIT_H), folder / "h.safetensors")
    (folder / "x.bin").symlink_to(BUNDLE / "image_encoder" / "model.safetensors")
    assert taken(mini.adapter) == "x.bin"
    assert taken(full_face) == "h.safetensors"
    assert taken(plain) == "h.safetensors"
    assert taken(adapter("EmbeddingProjectionConfig", 1280)) == "g.safetensors"
    assert taken(adapter("PatchProjectionConfig", 1024)) == "CLIP-ViT-H-14.safetensors"


def test_among_several_the_choice_is_always_the_same(folder, taken, full_face):
    for name, tensors in (  # from the last choice to the first
        ("a.safetensors", encoder(image_size=378)),
        ("b.safetensors", encoder(dtype=torch.float8_e4m3fn)),
        ("c.safetensors", encoder(dtype=torch.float32)),
        ("e.safetensors", encoder()),
        ("d.safetensors", encoder()),
    ):
        save_file(tensors, folder / name)
        assert taken(full_face) == name
    assert taken(full_face, "c.safetensors") == "c.safetensors"


def test_a_plain_adapter_needs_the_projection(folder, node, taken, full_face, plain):
    save_file(without(encoder(), "visual_projection"), folder / "h.safetensors")
    assert taken(full_face) == "h.safetensors"
    with pytest.raises(ValueError, match="no image embedding, for its projection is not in the"):
        taken(plain)
    save_file(encoder(), folder / "z.safetensors")
    assert taken(plain) == "z.safetensors"


@pytest.mark.parametrize("layout", [dict, as_open_clip])
def test_comfyuis_own_loader_reads_what_was_found(folder, node, full_face, layout):
    weights = encoder()
    save_file(layout(weights), folder / "h.safetensors")
    clip_vision, found = node.execute(full_face).args
    assert isinstance(clip_vision, comfy.clip_vision.ClipVisionModel)
    assert clip_vision.image_size == 224
    assert found == (
        "h.safetensors: CLIP ViT-H/14 (32 layers, hidden states of width 1280, image embedding of "
        "width 1024, pictures of 224 x 224)"
    )
    read = clip_vision.model.state_dict()
    for key, value in weights.items():
        assert torch.equal(read[key].half(), value), key


def test_a_size_that_comfyui_does_not_load_is_told(folder, node, mini, full_face):
    save_file(encoder(image_size=378), folder / "dfn.safetensors")
    with pytest.raises(
        ValueError, match=r"dfn.safetensors is of a size that ComfyUI does not load"
    ):
        node.execute(full_face)
    (folder / "m.safetensors").symlink_to(BUNDLE / "image_encoder" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"m.safetensors is of a size that ComfyUI(.|\n)*Load Mini"
    ):
        node.execute(mini.adapter)


def test_if_none_fits_the_message_says_what_they_are_and_where_one_is(folder, node, full_face):
    fill_with_decoys(folder)
    with pytest.raises(ValueError, match="Load Sketch Encoder, input animesketchnet: ") as caught:
        node.execute(full_face)
    message = str(caught.value)
    assert message.splitlines() == [
        "Load Sketch Encoder, input animesketchnet: The adapter (a.safetensors) reads the "
        "penultimate hidden states of CLIP ViT-H/14 (width 1280). No file of models/clip_vision "
        "gives these:",
        "- CLIP-ViT-H-14.safetensors: CLIP ViT-L/14 (24 layers, hidden states of width 1024, image "
        "embedding of width 768, pictures of 224 x 224)",
        "- adapter.safetensors: This is an IP-Adapter, not an image encoder.",
        "- 'gone.safetensors' is not in models/clip_vision.",
        "- lora.pth: This is a LoRA, not an image encoder.",
        "- page.safetensors: This is a web page (the download saved a login or error page), not a "
        "weight file.",
        "- siglip.safetensors: a SigLIP vision model (27 layers, hidden states of width 1152, "
        "image embedding of width 1152, pictures of 224 x 224)",
        f"- {os.path.join('sub', 'unet.safetensors')}: This is a diffusion UNet or VAE, not an "
        "image encoder.",
        "Download https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/"
        "model.safetensors into ComfyUI/models/clip_vision.",
    ]


def test_an_empty_folder_and_a_very_full_one(folder, node, full_face):
    with pytest.raises(ValueError, match=r"which has no file at all\.\nDownload https"):
        node.execute(full_face)
    for number in range(15):
        (folder / f"{number:02}.bin").write_text("")
    with pytest.raises(
        ValueError, match=r"- 11.bin: This is an empty file.*\n- and 3 more\nDownload"
    ):
        node.execute(full_face)


def test_the_mini_adapter_is_sent_to_load_mini_models(folder, node, mini):
    save_file(encoder(), folder / "h.safetensors")
    with pytest.raises(ValueError, match="It comes with Load Mini Models: connect that node's"):
        node.execute(mini.adapter)


def test_a_named_file_is_checked_before_anything_runs(folder, node):
    fill_with_decoys(folder)
    assert node.validate_inputs() is True
    assert node.validate_inputs(clip_vision_name="find by itself") is True
    assert node.validate_inputs(clip_vision_name=None) is True
    assert node.validate_inputs(clip_vision_name="CLIP-ViT-H-14.safetensors") is True
    start = "Load Sketch Encoder, input clip_vision_name: "
    end = " Put the right file there, or choose 'find by itself'."
    assert node.validate_inputs(clip_vision_name="lora.pth") == (
        f"{start}lora.pth: This is a LoRA, not an image encoder.{end}"
    )
    assert node.validate_inputs(clip_vision_name="no.pth") == (
        f"{start}'no.pth' is not in models/clip_vision.{end}"
    )


def test_a_named_file_that_does_not_fit_is_refused(folder, node, full_face):
    save_file(encoder(VIT_L), folder / "l.safetensors")
    save_file(encoder(VIT_H), folder / "h.safetensors")  # is not taken in its place
    with pytest.raises(ValueError, match="input clip_vision_name: The adapter") as caught:
        node.execute(full_face, "l.safetensors")
    message = str(caught.value)
    assert "l.safetensors is another: CLIP ViT-L/14 (24 layers" in message
    assert message.endswith("image_encoder/model.safetensors into ComfyUI/models/clip_vision.")


def test_a_new_or_replaced_file_changes_the_fingerprint(folder, node):
    seen = [node.fingerprint_inputs()]
    save_file(encoder(), folder / "h.safetensors")
    seen.append(node.fingerprint_inputs())
    named = node.fingerprint_inputs(clip_vision_name="h.safetensors")
    save_file(encoder(VIT_L), folder / "l.safetensors")
    seen.append(node.fingerprint_inputs())
    assert node.fingerprint_inputs(clip_vision_name="h.safetensors") == named
    save_file(encoder(dtype=torch.float32), folder / "h.safetensors")
    seen.append(node.fingerprint_inputs())
    assert node.fingerprint_inputs(clip_vision_name="h.safetensors") != named
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    seen.append(node.fingerprint_inputs())
    assert len(set(seen)) == len(seen)
    assert node.fingerprint_inputs() == seen[-1]


def test_find_by_itself_is_the_first_choice_and_may_be_left_out(folder, node):
    (folder / "a.bin").write_text("")
    combo = node.INPUT_TYPES()["optional"]["clip_vision_name"][1]
    assert combo["options"] == ["find by itself", "a.bin"]
    assert combo["default"] == "find by itself"
