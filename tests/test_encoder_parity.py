"""One ViT-H-shaped image encoder in transformers, open_clip and ComfyUI: the same features.

The encoder has ViT-H/14's settings (gelu, patches of 14, 224 pixels, heads of width 80), fewer and
narrower layers. Its weights are numbers that float16 holds, as ComfyUI keeps them in that type.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from animesketchnet_core.clip_input import fit_sketch, pixel_values, unconditional_pixel_values

LIMIT = 1e-4
SCRIPT = Path(__file__).parent / "inside_comfyui" / "encode_clip_vision.py"

REDUCED = {"hidden_size": 160, "num_hidden_layers": 4, "num_attention_heads": 2}
REDUCED |= {"intermediate_size": 640, "projection_dim": 32}
VIT_H = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}
VIT_H |= {"intermediate_size": 5120, "projection_dim": 1024}


def random_encoder(sizes: dict[str, int]) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(**sizes, hidden_act="gelu", patch_size=14, image_size=224)
    torch.manual_seed(7)
    encoder = CLIPVisionModelWithProjection(config).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter += 0.02 * torch.randn_like(parameter)  # norms and biases off 1 and 0
        parameter.copy_(parameter.half())
    return encoder


def sketches() -> Tensor:
    """A tall and a wide drawing, fitted as nodes and trainer do."""
    torch.manual_seed(11)
    coarse = torch.rand(1, 3, 20, 9)
    tall = nn.functional.interpolate(coarse, (500, 225), mode="bilinear").movedim(1, -1)
    return torch.cat([fit_sketch(tall), fit_sketch(tall.transpose(1, 2))])


@torch.no_grad()
def encode_in_transformers(encoder: CLIPVisionModelWithProjection, pixels: Tensor) -> Tensor:
    return encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]


def to_open_clip(encoder: CLIPVisionModelWithProjection) -> dict[str, Tensor]:
    """Renames transformers' weights to those of open_clip's vision tower."""
    weights = encoder.state_dict()
    top = {
        "conv1.weight": "embeddings.patch_embedding.weight",
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    norms = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    renamed = {ours: weights[f"vision_model.{theirs}"] for ours, theirs in top.items()}
    for kind in ("weight", "bias"):
        for ours, theirs in norms.items():
            renamed[f"{ours}.{kind}"] = weights[f"vision_model.{theirs}.{kind}"]
    renamed["proj"] = weights["visual_projection.weight"].T.contiguous()
    for i in range(encoder.config.num_hidden_layers):
        renamed |= open_clip_layer(weights, i)
    return renamed


def open_clip_layer(weights: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    theirs, ours = f"vision_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    layer = {}
    for kind in ("weight", "bias"):
        for name, other in names.items():
            layer[f"{ours}.{name}.{kind}"] = weights[f"{theirs}.{other}.{kind}"]
        parts = [weights[f"{theirs}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
        layer[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
    return layer


@torch.no_grad()
def encode_in_open_clip(
    sizes: dict[str, int], weights: dict[str, Tensor], pixels: Tensor
) -> Tensor:
    tower = VisionTransformer(
        image_size=224,
        patch_size=14,
        width=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        mlp_ratio=sizes["intermediate_size"] / sizes["hidden_size"],
        output_dim=sizes["projection_dim"],
    ).eval()
    tower.load_state_dict(weights)
    seen: list[Tensor] = []
    hook = tower.transformer.resblocks[-2].register_forward_hook(
        lambda module, arguments, output: seen.append(output)
    )
    tower(pixels)
    hook.remove()
    [penultimate] = seen
    return penultimate


def encode_in_comfyui(
    comfyui: Path, folder: Path, weights: dict[str, Tensor], config: str, images: Tensor
) -> Tensor:
    """Runs ComfyUI in a process of its own: it must never be on this one's path."""
    save_file({key: t.contiguous() for key, t in weights.items()}, folder / "weights.safetensors")
    save_file({"images": images.contiguous()}, folder / "images.safetensors")
    out = folder / "out.safetensors"
    files = (folder / "weights.safetensors", config, folder / "images.safetensors", out)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, files)],
        cwd=comfyui,
        env=os.environ | {"PYTHONPATH": str(comfyui)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(out)["penultimate"]


def report(name: str, ours: Tensor, theirs: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max().item()
    with capsys.disabled():
        print(f"\n  {name}: largest difference {difference:.2e} of {ours.abs().max():.1f}")  # noqa: T201
    assert difference < LIMIT
    assert ours.std() > 1000 * LIMIT


def test_transformers_and_open_clip_agree(capsys):
    encoder = random_encoder(REDUCED)
    pixels = torch.cat([pixel_values(sketches()), unconditional_pixel_values()])
    features = encode_in_transformers(encoder, pixels)
    assert features.shape == (3, 257, 160)
    theirs = encode_in_open_clip(REDUCED, to_open_clip(encoder), pixels)
    report("transformers and open_clip", features, theirs, capsys)


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_transformers_and_comfyui_agree(layout, comfyui_folder, tmp_path, capsys):
    """The pictures go in before normalisation: ComfyUI's own preparation must change nothing."""
    encoder = random_encoder(REDUCED)
    images = sketches()
    features = encode_in_transformers(encoder, pixel_values(images))
    config = tmp_path / "config.json"
    settings = {"model_type": "clip_vision_model", "num_channels": 3, "layer_norm_eps": 1e-5}
    settings |= {"hidden_act": "gelu", "patch_size": 14, "image_size": 224, **REDUCED}
    config.write_text(json.dumps(settings), encoding="utf-8")
    weights = encoder.state_dict()
    if layout == "open_clip":
        weights = {f"visual.{key}": tensor for key, tensor in to_open_clip(encoder).items()}
    theirs = encode_in_comfyui(comfyui_folder, tmp_path, weights, str(config), images)
    report(f"transformers and ComfyUI from {layout} weights", features, theirs, capsys)


@pytest.mark.slow
def test_full_size_vit_h_agrees_in_all_three(comfyui_folder, tmp_path, capsys):
    encoder = random_encoder(VIT_H)
    images = sketches()[:1]
    pixels = pixel_values(images)
    features = encode_in_transformers(encoder, pixels)
    assert features.shape == (1, 257, 1280)
    weights = {key: tensor.half() for key, tensor in encoder.state_dict().items()}
    theirs = encode_in_comfyui(comfyui_folder, tmp_path, weights, "auto", images)
    scale = features.abs().max()
    report("transformers and ComfyUI, full ViT-H", features / scale, theirs / scale, capsys)
    theirs = encode_in_open_clip(VIT_H, to_open_clip(encoder), pixels)
    report("transformers and open_clip, full ViT-H", features / scale, theirs / scale, capsys)
