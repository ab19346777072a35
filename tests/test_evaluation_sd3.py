"""A tiny random Stable Diffusion 3: our method against diffusers' pipeline with the same noise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_networks import t5_tokenizer
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from training.evaluation.cases import Case, Pair
from training.evaluation.config import DrawSettings
from training.evaluation.methods.stable_diffusion_3 import (
    StableDiffusion3Method,
    open_stable_diffusion_3,
)
from training.evaluation.noise import noise
from training.loading import ModelError
from training.models import clip_tokenizer

TEXT = 16  # width of each CLIP; the transformer reads both, 32, as wide as T5
CPU = torch.device("cpu")
SETTINGS = DrawSettings(height=24, width=40, steps=3, guidance=5.0, batch=2)
PROMPTS = ("a girl", "a boy, smiling", "a cat")
CASES = [Case(Pair(f"p{number}", prompt), number) for number, prompt in enumerate(PROMPTS)]


def clip_text() -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        hidden_size=TEXT, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=TEXT, vocab_size=49408, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval()


def tiny_pipeline() -> StableDiffusion3Pipeline:
    tokenizer: Any = t5_tokenizer()
    torch.manual_seed(5)
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=8, out_channels=8, num_layers=2,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=2 * TEXT,
        caption_projection_dim=32, pooled_projection_dim=2 * TEXT,
    )  # fmt: skip
    for parameter in transformer.parameters():  # the modulations start as zeros
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    blocks: Any = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 8),
    }
    vae = AutoencoderKL(
        **blocks, norm_num_groups=4, latent_channels=8, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5035,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=2 * TEXT, d_kv=8, d_ff=24, num_layers=1, num_heads=2
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), vae=vae.eval(), scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=clip_text(), text_encoder_2=clip_text(),
        text_encoder_3=T5EncoderModel(t5).eval(), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), tokenizer_3=tokenizer,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    with torch.random.fork_rng():
        pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(pipeline: StableDiffusion3Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The folder's copy, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "sd3"))


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion3Method:
    return open_stable_diffusion_3(folder, SETTINGS, CPU, dtype)


def drawn_by(pipeline: StableDiffusion3Pipeline) -> torch.Tensor:
    latents: Any = torch.cat([noise(case, 8, 12, 20) for case in CASES])
    drawn: Any = pipeline(
        list(PROMPTS), height=24, width=40, num_inference_steps=3, guidance_scale=5.0,
        latents=latents, output_type="pt",
    )  # fmt: skip
    return drawn.images.movedim(1, -1)


def test_the_pictures_are_diffusers(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    method = opened(folder)
    drawn = method.draw(CASES)
    assert [tuple(picture.shape) for picture in drawn] == [(24, 40, 3)] * 3
    assert (torch.stack(drawn) - drawn_by(pipeline)).abs().max() < 1e-4
    assert (drawn[0] - drawn[1]).abs().max() > 1e-2
    [alone] = method.draw(CASES[2:])
    assert (alone - drawn[2]).abs().max() < 1e-4


def test_without_t5_zeros_take_its_place(pipeline: StableDiffusion3Pipeline, copied: Path) -> None:
    whole = opened(copied)
    shutil.rmtree(copied / "text_encoder_3")
    shutil.rmtree(copied / "tokenizer_3")
    method = opened(copied)
    assert method.pipeline.text_encoder_3 is None
    parts = {**pipeline.components, "text_encoder_3": None, "tokenizer_3": None}
    reduced = StableDiffusion3Pipeline(**parts)
    reduced.set_progress_bar_config(disable=True)
    drawn = torch.stack(method.draw(CASES))
    assert (drawn - drawn_by(reduced)).abs().max() < 1e-4
    assert (drawn - torch.stack(whole.draw(CASES))).abs().max() > 1e-3
    assert method.recipe != whole.recipe


def test_half_precision(folder: Path) -> None:
    half = opened(folder, torch.bfloat16)
    assert {part.dtype for part in (half.pipeline.transformer, half.pipeline.vae)} == {
        torch.bfloat16
    }
    [rough], [exact] = half.draw(CASES[:1]), opened(folder).draw(CASES[:1])
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.2


def test_the_recipe_follows_weights_and_settings(folder: Path, copied: Path) -> None:
    method = opened(folder)
    changes: Any = ({"height": 40}, {"width": 24}, {"steps": 4}, {"guidance": 4.0})
    recipes = [replace(method, settings=replace(SETTINGS, **change)).recipe for change in changes]
    for part in ("vae", "transformer", "text_encoder_2"):
        [file] = (copied / part).glob("*.safetensors")
        weights = load_file(file)
        weights[next(iter(weights))] += 1
        save_file(weights, file, {"format": "pt"})
        recipes.append(opened(copied).recipe)
    assert len({method.recipe, *recipes}) == 8
    assert replace(method, settings=replace(SETTINGS, batch=1)).recipe == method.recipe


def test_what_is_no_stable_diffusion_3_is_refused(copied: Path) -> None:
    with pytest.raises(ModelError, match=r"sd3/missing, which cannot be loaded \(.*Use a copy of"):
        opened(copied / "missing")
    index = json.loads((copied / "model_index.json").read_text())
    flux = json.dumps(index | {"_class_name": "FluxPipeline"})
    (copied / "model_index.json").write_text(flux)
    with pytest.raises(ModelError, match=r"which is for FluxPipeline\. Use a copy of stabilityai"):
        opened(copied)


@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder", "tokenizer_2", "tokenizer_3", "scheduler"]
)
def test_a_missing_part_is_an_error(copied: Path, part: str) -> None:
    shutil.rmtree(copied / part)
    with pytest.raises(ModelError, match=rf"The folder of .* no {part}/\. Use a copy"):
        opened(copied)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_missing_weights_are_an_error(copied: Path, part: str) -> None:
    [file] = (copied / part).glob("*.safetensors")
    weights = load_file(file)
    lost = next(key for key in weights if key.endswith("weight"))
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"The folder of .*a copy of stabilityai"):
        opened(copied)
