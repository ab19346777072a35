"""Models as single files, written by the programs that own the formats (single_file.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from animesketchnet_core.mini import MINI_FOLDER
from comfyui_server import ComfyUIServer
from training import single_file
from training.loading import ModelError
from training.models import fingerprint, load_base, load_image_encoder

WIDTH, LAYERS, HEADS = 64, 3, 2


@pytest.fixture
def tiny_vision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a tiny vision transformer one of the known kinds."""
    kinds = {**single_file.VISION_KINDS, (WIDTH, LAYERS): (HEADS, "gelu")}
    monkeypatch.setattr(single_file, "VISION_KINDS", kinds)


def sizes_of_the_mini_models() -> single_file.Sizes:
    parts = ("unet", "vae", "text_encoder")
    return single_file.Sizes(
        *(json.loads((MINI_FOLDER / part / "config.json").read_text()) for part in parts)
    )


def test_a_checkpoint_that_comfyui_saved(
    comfyui: ComfyUIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui.run(
        {
            "1": {"class_type": "AnimeSketchNetMiniLoader", "inputs": {}},
            "2": {
                "class_type": "CheckpointSave",
                "inputs": {
                    "model": ["1", 0],
                    "clip": ["1", 1],
                    "vae": ["1", 2],
                    "filename_prefix": "whole",
                },
            },
        }
    )
    [path] = (comfyui.base / "output").glob("whole*.safetensors")  # type: ignore[attr-defined]
    monkeypatch.setattr(single_file, "SD15", sizes_of_the_mini_models())
    read, known = load_base(path), load_base("mini")
    for part in ("unet", "vae"):
        assert fingerprint(getattr(read, part)) == fingerprint(getattr(known, part))
    prompts = ["anime sketch of a happy face, black hair, facing left", ""]
    assert torch.equal(read.encode_text(prompts), known.encode_text(prompts))
    assert torch.equal(read.alphas_cumprod, known.alphas_cumprod)


def test_an_open_clip_checkpoint(tmp_path: Path, tiny_vision: None) -> None:
    transformer = pytest.importorskip("open_clip.transformer")
    torch.manual_seed(3)
    theirs = transformer.VisionTransformer(
        image_size=28, patch_size=7, width=WIDTH, layers=LAYERS, heads=HEADS, mlp_ratio=4,
        output_dim=16,
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():  # its own start leaves many at 0 and 1
        parameter.data.normal_(std=0.1)
    weights = {f"visual.{key}": value for key, value in theirs.state_dict().items()}
    torch.save(weights | {"logit_scale": torch.tensor(1.0)}, tmp_path / "open_clip.bin")
    ours = load_image_encoder(tmp_path / "open_clip.bin")
    assert (ours.size, ours.shape) == (28, (17, WIDTH))
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.allclose(ours.model(pixels).image_embeds, theirs(pixels), atol=1e-5)


def test_a_whole_clip_of_transformers(tmp_path: Path, tiny_vision: None) -> None:
    torch.manual_seed(3)
    text = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_attention_heads=1,
                          num_hidden_layers=1)  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
                              num_attention_heads=HEADS, image_size=28, patch_size=7,
                              hidden_act="gelu")  # type: ignore[arg-type]  # fmt: skip
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    whole = CLIPModel(config).eval()
    weights = {key: value.half().contiguous() for key, value in whole.state_dict().items()}
    save_file(weights, tmp_path / "clip.safetensors")
    ours = load_image_encoder(tmp_path / "clip.safetensors")
    assert ours.name == "clip"
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        theirs = whole.half().float().vision_model(pixels, output_hidden_states=True)
        read = ours.model(pixels, output_hidden_states=True)
    assert torch.allclose(read.hidden_states[-2], theirs.hidden_states[-2], atol=1e-5)


def test_files_of_another_kind_are_refused(tmp_path: Path, tiny_vision: None) -> None:
    path = tmp_path / "x.safetensors"
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}
    vae = {"first_stage_model.x": torch.zeros(1)}
    sdxl = {"conditioner.embedders.0.transformer.x": torch.zeros(1)}
    text = {"cond_stage_model.transformer.x": torch.zeros(1)}
    inpainting = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)}
    for weights, message in (
        ({"lora_unet.down.weight": torch.zeros(1)}, r"no Stable Diffusion checkpoint.*lora_unet"),
        (unet, "has no VAE"),
        (unet | vae | sdxl, "has no CLIP-L text encoder.*SDXL"),
        (inpainting | vae | text, "9 input channels, 4 were expected.*inpainting"),
        (unet | vae | text, r"x\.safetensors.*incomplete|do not fit"),
    ):
        save_file(weights, path)
        with pytest.raises(ModelError, match=message):
            load_base(path)
    for weights, message in (
        (unet, "holds no CLIP vision transformer.*ViT-H"),
        ({"visual.class_embedding": torch.zeros(8)}, "lacks"),
    ):
        save_file(weights, path)
        with pytest.raises(ModelError, match=message):
            load_image_encoder(path)


def test_a_tensor_that_claims_more_than_the_file_holds_is_told_with_the_file(
    tmp_path: Path, tiny_vision: None
) -> None:
    """A stride of 0 makes any size out of one stored number; it is seen only as it is read."""
    vision = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.patch_embedding.weight": (WIDTH, 3, 7, 7),
        "embeddings.position_embedding.weight": (17, WIDTH),
        "post_layernorm.weight": (WIDTH,),
    }
    weights = {f"vision_model.{key}": torch.zeros(shape) for key, shape in vision.items()}
    weights["vision_model.post_layernorm.bias"] = torch.zeros(1).expand(WIDTH)
    torch.save(weights, tmp_path / "clip.bin")
    with pytest.raises(ModelError, match=r"clip\.bin cannot be read.*post_layernorm\.bias is not"):
        load_image_encoder(tmp_path / "clip.bin")
