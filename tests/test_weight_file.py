"""Round trips, the layouts that are read, and everything that is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.adapter_metadata import AdapterMetadata
from animesketchnet_core.image_projection import EmbeddingProjectionConfig, ProjectionConfig
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import SD15, UNetShape, cross_attention_layers
from animesketchnet_core.weight_file import (
    WrongAdapterError,
    check_fits,
    check_fits_encoder,
    check_fits_unet,
    read_adapter,
    write_adapter,
)
from tests.tiny_adapters import TINY_KINDS, TINY_RESAMPLER, TINY_UNET, tiny_metadata, tiny_state

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return tiny_state()


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


# Writing


def test_what_is_written_is_read(tmp_path, state):
    metadata = AdapterMetadata(
        num_tokens=5,
        image_encoder="CLIP-ViT-H-14",
        hidden_layer=-3,
        preprocessing="pad white",
        recommended_alpha=0.45,
        base_model="SD v1.5",
        training={"steps": 700, "data": {"pictures": 1818}, "name": "線画"},
        title="Sketch 線",
    )
    write_adapter(tmp_path / "a.safetensors", state, metadata)
    found, found_metadata = read_adapter(tmp_path / "a.safetensors")
    assert found_metadata == metadata
    assert_same(found, {key: tensor.half() for key, tensor in state.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_written_and_kept(tmp_path, state, dtype):
    write_adapter(tmp_path / "a.safetensors", state, tiny_metadata(), dtype)
    found, _ = read_adapter(str(tmp_path / "a.safetensors"))
    assert_same(found, {key: tensor.to(dtype) for key, tensor in state.items()})


def read_header(path: Path) -> dict:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    return json.loads(content[8 : 8 + length])


def test_the_header_tells_other_programs_what_the_file_is(tmp_path, state):
    write_adapter(tmp_path / "a.safetensors", state, tiny_metadata())
    header = read_header(tmp_path / "a.safetensors")
    metadata = header.pop("__metadata__")
    assert header.keys() == state.keys()
    assert metadata["modelspec.title"] == "AnimeSketchNet"
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"].startswith("stable-diffusion-v1")
    assert metadata["animesketchnet.num_tokens"] == "5"
    assert metadata["animesketchnet.hidden_layer"] == "-2"
    assert metadata["animesketchnet.preprocessing"] == "pad white"
    assert metadata["animesketchnet.unconditional"] == "zeros after normalisation"
    assert metadata["animesketchnet.recommended_alpha"] == "0.5"


def test_equal_weights_make_equal_bytes(tmp_path, state):
    contents = set()
    for i in range(5):
        write_adapter(tmp_path / f"{i}.safetensors", state, tiny_metadata())
        contents.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(contents) == 1


def test_the_safetensors_library_reads_the_same_tensors(tmp_path, state):
    write_adapter(tmp_path / "a.safetensors", state, tiny_metadata(), torch.float32)
    assert_same(load_file(tmp_path / "a.safetensors"), state)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, state, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_adapter(path, state, tiny_metadata())
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    state["image_proj.latents"] += 1
    with pytest.raises(OSError, match="No space left"):
        write_adapter(path, state, tiny_metadata())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_float16_cannot_hold_are_not_written(tmp_path, state, value):
    state["ip_adapter.5.to_v_ip.weight"][3, 2] = value
    with pytest.raises(WrongAdapterError, match=r"ip_adapter\.5\.to_v_ip\.weight holds NaN or inf"):
        write_adapter(tmp_path / "a.safetensors", state, tiny_metadata())
    assert not list(tmp_path.iterdir())


def test_half_an_adapter_is_not_written(tmp_path, state):
    del state["image_proj.proj_in.bias"]
    with pytest.raises(WrongAdapterError, match=r"1 missing \(image_proj\.proj_in\.bias\)"):
        write_adapter(tmp_path / "a.safetensors", state, tiny_metadata())


def test_metadata_of_another_adapter_is_not_written(tmp_path, state):
    metadata = AdapterMetadata(num_tokens=16, image_encoder="x")
    with pytest.raises(WrongAdapterError, match="says 16 tokens, the image projection makes 5"):
        write_adapter(tmp_path / "a.safetensors", state, metadata)


@pytest.mark.slow
def test_a_full_size_file_has_83_tensors_and_98_megabytes(tmp_path):
    adapter = AnimeSketchAdapter.from_unet(SD15, ResamplerConfig())
    metadata = AdapterMetadata(num_tokens=16, image_encoder="CLIP-ViT-H-14-laion2B-s32B-b79K")
    path = tmp_path / "a.safetensors"
    write_adapter(path, adapter.state_dict(), metadata)
    tensors = load_file(path).values()
    assert len(tensors) == 83
    assert sum(tensor.numel() for tensor in tensors) == 49_087_488
    assert path.stat().st_size == pytest.approx(98_174_976, rel=2e-4)


# Reading: the layouts


def nested(state: State) -> dict[str, dict[str, Tensor]]:
    """IP-Adapter's .bin."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in state.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    return parts


def accelerate(state: State) -> State:
    """The reference trainer's checkpoint, with the frozen UNet beside the adapter."""
    renamed = {
        key.replace("image_proj.", "image_proj_model.").replace(
            "ip_adapter.", "adapter_modules."
        ): t
        for key, t in state.items()
    }
    return renamed | {"unet.conv_in.weight": torch.full((3, 2), float("nan"))}


def accelerate_without_shared(state: State) -> State:
    """The same from safetensors, which kept the K', V' only under the UNet's processors."""
    return processor_keys(accelerate(state), "unet.", "")


def distributed(state: State) -> State:
    return {f"module.{key}": tensor for key, tensor in accelerate(state).items()}


def processor_keys(state: State, prefix: str, suffix: str) -> State:
    names = {str(layer.index): layer.diffusers for layer in cross_attention_layers(TINY_UNET)}
    renamed = {}
    for key, tensor in sorted(state.items(), reverse=True):  # order in the file means nothing
        match = re.fullmatch(r"(?:adapter_modules|ip_adapter)\.(\d+)\.(to_[kv]_ip)\.weight", key)
        if match:
            key = f"{prefix}{names[match[1]]}.processor.{match[2]}{suffix}.weight"
        renamed[key] = tensor
    return renamed


DIFFUSERS_PROJECTION = {
    "proj.weight": "image_embeds.weight",
    "proj.bias": "image_embeds.bias",
    "proj.0.weight": "ff.net.0.proj.weight",
    "proj.0.bias": "ff.net.0.proj.bias",
    "proj.2.weight": "ff.net.2.weight",
    "proj.2.bias": "ff.net.2.bias",
    "proj.3.weight": "norm.weight",
    "proj.3.bias": "norm.bias",
}
DIFFUSERS_NAMES = {
    "0.norm1": "ln0",
    "0.norm2": "ln1",
    "0.to_q": "attn.to_q",
    "0.to_out": "attn.to_out.0",
    "1.0": "ff.0",
    "1.1": "ff.1.net.0.proj",
    "1.3": "ff.1.net.2",
}


def diffusers(state: State, prefix: str = "") -> State:
    """The state dict of a diffusers UNet that has the adapter loaded."""
    renamed = {f"{prefix}conv_in.weight": torch.zeros(2)}
    for key, tensor in processor_keys(state, prefix, ".0").items():
        match = re.fullmatch(r"image_proj\.(?:(layers\.\d+)\.(\d\.\w+)\.)?(.+)", key)
        if match is None:
            renamed[key] = tensor
            continue
        base = f"{prefix}encoder_hid_proj.image_projection_layers.0."
        layer, name, rest = match.groups()
        if layer is None:
            renamed[base + DIFFUSERS_PROJECTION.get(rest, rest)] = tensor
        elif name == "0.to_kv":
            (
                renamed[f"{base}{layer}.attn.to_k.weight"],
                renamed[f"{base}{layer}.attn.to_v.weight"],
            ) = tensor.chunk(2)
        else:
            renamed[f"{base}{layer}.{DIFFUSERS_NAMES[name]}.{rest}"] = tensor
    return {key: tensor.contiguous() for key, tensor in renamed.items()}


LAYOUTS: dict[str, Callable[[State], State]] = {
    "original": dict,
    "accelerate": accelerate,
    "accelerate without shared tensors": accelerate_without_shared,
    "distributed": distributed,
    "diffusers": diffusers,
    "diffusers pipeline": lambda state: diffusers(state, "unet."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("container", ["safetensors", "pickle", "old pickle"])
def test_every_layout_is_read_from_every_container(tmp_path, state, layout, container):
    tensors = LAYOUTS[layout](state)
    path = tmp_path / "weights"  # a name that says nothing
    if container == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "pickle")
    found, metadata = read_adapter(path)
    assert metadata is None
    assert_same(found, state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["plain", "Full Face"])
def test_every_kind_is_read_in_every_layout(tmp_path, kind, layout):
    state = tiny_state(TINY_KINDS[kind])
    save_file(LAYOUTS[layout](state), tmp_path / "weights")
    assert_same(read_adapter(tmp_path / "weights")[0], state)
    torch.save(LAYOUTS[layout](state), tmp_path / "weights")
    assert_same(read_adapter(tmp_path / "weights")[0], state)


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_every_kind_is_read_from_a_bin_of_two_dicts(tmp_path, kind):
    state = tiny_state(TINY_KINDS[kind])
    torch.save(nested(state), tmp_path / "ip-adapter_sd15.bin")
    assert_same(read_adapter(tmp_path / "ip-adapter_sd15.bin")[0], state)


SDXL = UNetShape((320, 640, 1280), (2, 2, 2), (0, 2, 10), 10, 2048)
NARROW_SDXL = UNetShape((2, 4, 8), (2, 2, 2), (0, 2, 10), 10, 2048)
SDXL_PLUS = ResamplerConfig(
    dim=8, depth=1, heads=1, num_queries=2, embedding_dim=12, output_dim=2048, ff_mult=1
)
SDXL_PLAIN = EmbeddingProjectionConfig(num_tokens=4, embedding_dim=5, output_dim=2048)


@pytest.mark.parametrize("projection", [SDXL_PLUS, SDXL_PLAIN], ids=["Plus", "plain"])
def test_files_for_sdxl_are_read(tmp_path, projection):
    state = dict(AnimeSketchAdapter.from_unet(NARROW_SDXL, projection).state_dict())
    save_file(state, tmp_path / "a")
    found, metadata = read_adapter(tmp_path / "a")
    assert metadata is None
    assert_same(found, state)
    check_fits_unet(found, NARROW_SDXL)


@pytest.mark.parametrize("wrap", [nested, lambda state: {"state_dict": nested(state), "step": 7}])
def test_a_bin_of_two_dicts_is_read(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "ip-adapter.bin")
    assert_same(read_adapter(tmp_path / "ip-adapter.bin")[0], state)


def test_a_checkpoint_that_holds_a_layer_twice_is_read(tmp_path, state):
    """accelerate's .bin keeps the shared tensors under both names."""
    torch.save(accelerate(state) | accelerate_without_shared(state), tmp_path / "a.bin")
    assert_same(read_adapter(tmp_path / "a.bin")[0], state)


def test_trained_parameters_come_back_as_plain_tensors(tmp_path, state):
    trained = {key: torch.nn.Parameter(tensor) for key, tensor in state.items()}
    torch.save(trained, tmp_path / "a.bin")
    found, _ = read_adapter(tmp_path / "a.bin")
    assert {type(tensor) for tensor in found.values()} == {Tensor}
    assert not any(tensor.requires_grad for tensor in found.values())


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_what_was_read_does_not_change_with_the_file(tmp_path, state, save):
    path = tmp_path / "a"
    save(dict(state), path)
    found, _ = read_adapter(path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4)
        file.write(b"\xaa" * (path.stat().st_size // 2))
    assert_same(found, state)


def test_names_of_files_do_not_count(tmp_path, state):
    save_file(state, tmp_path / "lora.bin")
    torch.save(state, tmp_path / "faceid-plusv2_sdxl.safetensors")
    assert_same(read_adapter(tmp_path / "lora.bin")[0], state)
    assert_same(read_adapter(tmp_path / "faceid-plusv2_sdxl.safetensors")[0], state)


# Reading: what is refused


def zeros(*keys: str, **shapes: tuple[int, ...]) -> State:
    return {key: torch.zeros(2, 2) for key in keys}


FACE_ID = zeros(
    "image_proj.proj.0.weight",
    "image_proj.proj.2.weight",
    "image_proj.norm.weight",
    "ip_adapter.1.to_k_ip.weight",
)
LAYER = zeros("ip_adapter.1.to_k_ip.weight", "ip_adapter.1.to_v_ip.weight")

FOREIGN: dict[str, tuple[State, str]] = {
    "FaceID": (FACE_ID, r"an IP-Adapter FaceID for SD v1\.5"),
    "FaceID with LoRA": (
        LAYER | zeros("image_proj.proj.0.weight", "ip_adapter.0.to_q_lora.down.weight"),
        "an IP-Adapter FaceID",
    ),
    "FaceID Plus": (
        LAYER | zeros("image_proj.perceiver_resampler.proj_in.weight"),
        "an IP-Adapter FaceID",
    ),
    "FaceID of SDXL": (
        FACE_ID | {"ip_adapter.1.to_k_ip.weight": torch.zeros(3, 2048)},
        "an IP-Adapter FaceID for SDXL",
    ),
    "FaceID in diffusers": (
        {
            f"encoder_hid_proj.image_projection_layers.0.{name}": torch.zeros(shape)
            for name, shape in {
                "ff.net.0.proj.weight": (14, 7),
                "ff.net.0.proj.bias": (14,),
                "ff.net.2.weight": (4 * 5, 14),
                "ff.net.2.bias": (4 * 5,),
                "norm.weight": (5,),
                "norm.bias": (5,),
            }.items()
        },
        "an IP-Adapter FaceID",
    ),
    "InstantID": (
        LAYER
        | {"image_proj.latents": torch.zeros(1, 2, 4)}
        | {"image_proj.proj_in.weight": torch.zeros(4, 512)},
        "InstantID",
    ),
    "LoRA": (zeros("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), "a LoRA"),
    "diffusers LoRA": (
        zeros("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight"),
        "a LoRA",
    ),
    "PEFT LoRA": (zeros("unet.mid_block.attentions.0.proj_in.lora_A.weight"), "a LoRA"),
    "checkpoint": (
        zeros("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"),
        "a Stable Diffusion checkpoint",
    ),
    "UNet": (zeros("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"), "a diffusion UNet"),
    "ControlNet": (zeros("control_model.input_blocks.0.0.weight"), "a ControlNet"),
    "CLIP vision": (zeros("vision_model.encoder.layers.0.mlp.fc1.weight"), "a CLIP vision model"),
    "open_clip": (zeros("visual.transformer.resblocks.0.attn.in_proj_weight"), "a CLIP vision"),
    "Flux": (zeros("double_blocks.0.img_attn.proj.weight"), "a Flux model"),
    "textual inversion": (zeros("emb_params"), "a textual inversion embedding"),
    "no projection": (LAYER, r"an incomplete IP-Adapter without its projection"),
    "no layers": (
        {"image_proj.latents": torch.zeros(1, 2, 4)},
        r"an incomplete IP-Adapter without its K', V' layers",
    ),
    "something": (zeros("a", "b", "c", "d"), r"file of 4 tensors \(a, b, c, \.\.\.\)"),
    "nothing": ({}, "file of 0 tensors"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named_and_refused(tmp_path, kind):
    tensors, found = FOREIGN[kind]
    path = tmp_path / "ip-adapter-plus_sd15.safetensors"  # the name does not help
    save_file(tensors, path)
    with pytest.raises(
        WrongAdapterError, match=f"This is (no IP-Adapter, but a )?{found}"
    ) as error:
        read_adapter(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "needed is an IP-Adapter weight file for SD v1.5 or SDXL" in message
    assert "models/ip-adapter-plus_sd15.safetensors" in message
    assert "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors" in message


def without(state: State, key: str) -> State:
    return {k: tensor for k, tensor in state.items() if k != key}


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "a norm is missing": (
        lambda s: without(s, "image_proj.layers.1.0.norm2.bias"),
        r"1 missing \(image_proj\.layers\.1\.0\.norm2\.bias\)",
    ),
    "a value projection is missing": (
        lambda s: without(s, "ip_adapter.7.to_v_ip.weight"),
        r"1 missing \(ip_adapter\.7\.to_v_ip\.weight\)",
    ),
    "a layer in the middle is missing": (
        lambda s: without(without(s, "ip_adapter.7.to_v_ip.weight"), "ip_adapter.7.to_k_ip.weight"),
        r"the layers are numbered \[1, 3, 5, 9, 11, 13\], not \[1, 3, 5, 7, 9, 11\]",
    ),
    "a wrong shape": (
        lambda s: s | {"ip_adapter.5.to_k_ip.weight": torch.zeros(64, 38)},
        r"1 of a wrong shape \(ip_adapter\.5\.to_k_ip\.weight is \[64, 38\] instead of \[64, 37\]",
    ),
    "an extra tensor": (
        lambda s: s | zeros("image_proj.pos_emb.weight"),
        r"1 unexpected \(image_proj\.pos_emb\.weight\)",
    ),
    "a stranger": (lambda s: s | zeros("lora_te_x"), r"1 unknown tensors \(lora_te_x\)"),
    "no latents": (lambda s: without(s, "image_proj.latents"), "sizes cannot be read"),
    "flat latents": (lambda s: s | {"image_proj.latents": torch.zeros(3)}, "sizes cannot be read"),
    "a scalar": (
        lambda s: s | {"image_proj.proj_out.weight": torch.zeros(())},
        "sizes cannot be read",
    ),
    "an empty tensor": (
        lambda s: s | {"image_proj.latents": torch.zeros(1, 5, 0)},
        r"without values \(image_proj\.latents\)",
    ),
    "a layer without number": (
        lambda s: s | zeros("ip_adapter.x.to_k_ip.weight"),
        "sizes cannot be read",
    ),
    "NaN": (
        lambda s: s | {"image_proj.proj_in.bias": torch.full((22,), float("nan"))},
        r"image_proj\.proj_in\.bias holds NaN or infinite values",
    ),
    "integers": (
        lambda s: s | {"image_proj.proj_in.bias": torch.ones(22, dtype=torch.int8)},
        r"image_proj\.proj_in\.bias is stored as torch\.int8",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_broken_adapters_are_refused_by_tensor(tmp_path, state, fault, save):
    break_it, message = BROKEN[fault]
    save(break_it(state), tmp_path / "a")
    with pytest.raises(WrongAdapterError, match=message):
        read_adapter(tmp_path / "a")


BROKEN_KINDS: list[tuple[str, Callable[[State], State], str]] = [
    (
        "plain",
        lambda s: without(s, "image_proj.norm.bias"),
        r"1 missing \(image_proj\.norm\.bias\)",
    ),
    (
        "plain",
        lambda s: s | {"image_proj.proj.weight": torch.zeros(3 * 37 + 1, 29)},
        r"image_proj\.proj\.weight is \[112, 29\] instead of \[111, 29\]",
    ),
    (
        "plain",
        lambda s: s | {"image_proj.proj.weight": torch.zeros(36, 29)},
        r"2 of a wrong shape \(image_proj\.proj\.weight is \[36, 29\] instead of \[37, 29\]",
    ),
    ("plain", lambda s: s | {"image_proj.proj.weight": torch.zeros(111)}, "sizes cannot be read"),
    (
        "plain",
        lambda s: s | zeros("image_proj.latents"),
        r"1 unexpected \(image_proj\.latents\)",
    ),
    (
        "Full Face",
        lambda s: without(s, "image_proj.proj.0.bias"),
        r"1 missing \(image_proj\.proj\.0\.bias\)",
    ),
    (
        "Full Face",
        lambda s: s | {"image_proj.proj.2.weight": torch.zeros(37, 30)},
        r"image_proj\.proj\.2\.weight is \[37, 30\] instead of \[37, 29\]",
    ),
    (
        "Full Face",
        lambda s: s | {"ip_adapter.3.to_v_ip.weight": torch.zeros(64, 36)},
        r"ip_adapter\.3\.to_v_ip\.weight is \[64, 36\] instead of \[64, 37\]",
    ),
]


@pytest.mark.parametrize(("kind", "break_it", "message"), BROKEN_KINDS)
def test_broken_adapters_of_the_other_kinds_are_refused_by_tensor(
    tmp_path, kind, break_it, message
):
    save_file(break_it(tiny_state(TINY_KINDS[kind])), tmp_path / "a")
    with pytest.raises(WrongAdapterError, match=message):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("save", [save_file, torch.save])
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.05])
def test_truncated_files_are_refused(tmp_path, state, save, kept):
    save(state, tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WrongAdapterError, match="damaged"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "a file that starts with"),
        (struct.pack("<Q", 1 << 60) + b"{}", "damaged or incomplete"),
        (struct.pack("<Q", 2) + b"{]", "damaged or incomplete"),
        (struct.pack("<Q", 8) + b'{"\xff\xfe":1', "damaged or incomplete"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, content, message):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WrongAdapterError, match=message):
        read_adapter(tmp_path / "a.safetensors")


def test_a_folder_is_refused_with_the_way_on(tmp_path):
    with pytest.raises(WrongAdapterError, match=r"a folder; needed .* pytorch_model\.bin"):
        read_adapter(tmp_path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_adapter(tmp_path / "a.safetensors")


# Hostile pickles


class Harmful:
    """Creates a file when it is unpickled by a careless program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, state, new_format):
    trace = tmp_path / "the code ran"
    content = nested(state) | {"step": Harmful(trace)}
    torch.save(content, tmp_path / "a.bin", _use_new_zipfile_serialization=new_format)
    with pytest.raises(WrongAdapterError, match="could run code"):
        read_adapter(tmp_path / "a.bin")
    assert not trace.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    trace = tmp_path / "the code ran"
    (tmp_path / "a.bin").write_bytes(pickle.dumps(Harmful(trace)))
    with pytest.raises(WrongAdapterError, match="could run code"):
        read_adapter(tmp_path / "a.bin")
    assert not trace.exists()


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, state):
    """A stride of 0 makes any size out of one stored number."""
    state["image_proj.proj_in.bias"] = torch.zeros(1).expand(22)
    torch.save(state, tmp_path / "a.bin")
    with pytest.raises(WrongAdapterError, match=r"proj_in\.bias is not an ordinary tensor"):
        read_adapter(tmp_path / "a.bin")


def test_sparse_tensors_are_refused(tmp_path, state):
    state["image_proj.latents"] = state["image_proj.latents"].to_sparse()
    torch.save(state, tmp_path / "a.bin")
    with pytest.raises(WrongAdapterError):
        read_adapter(tmp_path / "a.bin")


def test_nesting_without_end_is_refused(tmp_path):
    loop: dict = {"x": torch.zeros(2)}
    loop["again"] = loop
    torch.save(loop, tmp_path / "loop.bin")
    with pytest.raises(WrongAdapterError, match="no IP-Adapter"):
        read_adapter(tmp_path / "loop.bin")
    inner = {str(i): {} for i in range(400)}
    torch.save({str(i): inner for i in range(400)}, tmp_path / "wide.bin")
    with pytest.raises(WrongAdapterError, match="over 100,000 values"):
        read_adapter(tmp_path / "wide.bin")


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), 7, "text", None])
def test_pickles_of_other_things_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(WrongAdapterError):
        read_adapter(tmp_path / "a.bin")


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "old pickle"])
def test_damaged_bytes_give_this_error_or_an_adapter(tmp_path, kind):
    """Three hundred random changes; nothing else may come out of it."""
    adapter = AnimeSketchAdapter.from_unet(
        UNetShape((2,), (1,), (1,), 0, 3),
        ResamplerConfig(
            dim=2, depth=1, heads=1, num_queries=1, embedding_dim=3, output_dim=3, ff_mult=1
        ),
    )
    state = dict(adapter.state_dict())
    buffer = io.BytesIO()
    if kind == "safetensors":
        save_file(state, tmp_path / "good")
        buffer.write((tmp_path / "good").read_bytes())
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "pickle")
    content = buffer.getvalue()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(min(len(damaged), 4000))] = rng.randrange(256)
        (tmp_path / "a").write_bytes(damaged)
        try:
            found, _ = read_adapter(tmp_path / "a")
        except WrongAdapterError:
            continue
        assert found.keys() == state.keys()


# Metadata


def saved_with(path: Path, state: State, **changes: str | None) -> Path:
    """A file of ours whose metadata strings were changed, or removed with None."""
    strings: dict[str, str | None] = {**tiny_metadata().to_strings(), **changes}
    kept = {key: value for key, value in strings.items() if value is not None}
    save_file(state, path, metadata=kept)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"animesketchnet.num_tokens": "many"}, "num_tokens is 'many', not int"),
        ({"animesketchnet.num_tokens": "9" * 5000}, "not int"),
        ({"animesketchnet.num_tokens": "7"}, "says 7 tokens, the image projection makes 5"),
        ({"animesketchnet.num_tokens": None}, r"no animesketchnet\.num_tokens"),
        ({"animesketchnet.recommended_alpha": "nan"}, "not a finite float"),
        ({"animesketchnet.training": "[1]"}, "not a finite dict|not dict"),
        ({"animesketchnet.training": "[" * 100_000}, "not dict"),
        ({"animesketchnet.format": "2"}, "update AnimeSketchNet"),
    ],
)
def test_metadata_that_lies_or_cannot_be_read_is_refused(tmp_path, state, changes, message):
    path = saved_with(tmp_path / "a.safetensors", state, **changes)
    with pytest.raises(WrongAdapterError, match=message):
        read_adapter(path)


def test_metadata_of_a_later_version_is_read_as_far_as_known(tmp_path, state):
    path = saved_with(tmp_path / "a.safetensors", state, **{"animesketchnet.new": "x"})
    assert read_adapter(path)[1] == tiny_metadata()


def test_metadata_of_others_is_none_of_ours(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors", metadata={"modelspec.title": "something"})
    assert read_adapter(tmp_path / "a.safetensors")[1] is None


# Does it fit?


def test_the_right_unet_and_encoder_fit(state):
    check_fits(state, TINY_UNET, TINY_RESAMPLER.embedding_dim)


PLAIN = EmbeddingProjectionConfig()
PLAIN_G = EmbeddingProjectionConfig(embedding_dim=1280)
STATES, EMBEDDING = "penultimate hidden states", "image embedding"
VIT_H_FILE = "/models/image_encoder/model.safetensors"
VIT_G_FILE = "/sdxl_models/image_encoder/model.safetensors"


@pytest.mark.parametrize(
    ("projection", "wanted", "width", "name", "file"),
    [
        (ResamplerConfig(), f"{STATES} of CLIP ViT-H/14", 1024, "CLIP ViT-L/14", VIT_H_FILE),
        (ResamplerConfig(), f"{STATES} of CLIP ViT-H/14", 1664, "CLIP ViT-bigG/14", VIT_H_FILE),
        (ResamplerConfig(), f"{STATES} of CLIP ViT-H/14", 1152, "SigLIP SO400M", VIT_H_FILE),
        (PLAIN, f"{EMBEDDING} of CLIP ViT-H/14", 768, "CLIP ViT-L/14", VIT_H_FILE),
        (PLAIN, f"{EMBEDDING} of CLIP ViT-H/14", 1280, "CLIP ViT-bigG/14", VIT_H_FILE),
        (PLAIN_G, f"{EMBEDDING} of CLIP ViT-bigG/14", 1024, "CLIP ViT-H/14", VIT_G_FILE),
    ],
)
def test_another_encoder_is_named(projection, wanted, width, name, file):
    adapter = AnimeSketchAdapter.from_unet(SD15, projection, device="meta")
    check_fits_encoder(adapter.state_dict(), projection.embedding_dim)
    with pytest.raises(WrongAdapterError) as error:
        check_fits_encoder(adapter.state_dict(), width)
    message = str(error.value)
    assert f"reads the {wanted} (width {projection.embedding_dim})" in message
    assert f"of width {width} ({name})" in message
    assert f"IP-Adapter/resolve/main{file} into ComfyUI/models/clip_vision" in message


def full_size(shape: UNetShape, projection: ProjectionConfig) -> State:
    return AnimeSketchAdapter.from_unet(shape, projection, device="meta").state_dict()


def test_an_adapter_for_sd15_on_sdxl_is_told_with_a_file_that_fits():
    with pytest.raises(
        WrongAdapterError, match=r"SD v1\.5 \(16 layers.*MODEL is SDXL \(70 layers and .* 2048"
    ) as error:
        check_fits_unet(full_size(SD15, PLAIN), SDXL)
    assert "an adapter for SDXL such as https://huggingface.co" in str(error.value)
    assert "/sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors" in str(error.value)
    assert "a MODEL of the adapter's family (SD v1.5)" in str(error.value)


def test_an_adapter_for_sdxl_on_sd15_is_told_with_a_file_that_fits():
    with pytest.raises(
        WrongAdapterError, match=r"made for SDXL \(70 layers.*MODEL is SD v1\.5 \(16 layers"
    ) as error:
        check_fits_unet(full_size(SDXL, EmbeddingProjectionConfig(output_dim=2048)), SD15)
    assert "an adapter for SD v1.5 such as https://huggingface.co" in str(error.value)
    assert "/models/ip-adapter-plus_sd15.safetensors" in str(error.value)
    assert "Illustrious, NoobAI and Pony" in str(error.value)


def test_an_adapter_that_lacks_the_middle_block_does_not_fit(state):
    del state["ip_adapter.13.to_k_ip.weight"], state["ip_adapter.13.to_v_ip.weight"]
    with pytest.raises(WrongAdapterError, match=r"\(6 layers .* \(7 layers"):
        check_fits_unet(state, TINY_UNET)
