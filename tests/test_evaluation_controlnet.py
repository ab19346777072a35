"""Our sampler with a ControlNet against diffusers' pipeline; what it reads; its files."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from tests import tiny_world
from training.evaluation.cases import Case, Pair
from training.evaluation.config import DrawSettings
from training.evaluation.methods import controlnet as module
from training.evaluation.methods.controlnet import (
    ControlNetMethod,
    control_image,
    open_controlnet,
    read_controlnet,
)
from training.evaluation.noise import noise
from training.loading import ModelError
from training.models import Base, fingerprint, load_base
from training.sample import ddim_sample
from training.settings import ConfigError

SIZE = (40, 24)
STEPS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(tiny_world.write_models(tmp_path_factory.mktemp("models")))


def loud_controlnet(base: Base, embedding: tuple[int, ...] = (4, 6)) -> ControlNetModel:
    """A ControlNet whose zero convolutions are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = ControlNetModel.from_unet(
            base.unet, conditioning_embedding_out_channels=embedding
        ).eval()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def controlnet(base: Base) -> ControlNetModel:
    return loud_controlnet(base)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("references")
    cases = []
    for number, prompt in enumerate(("a girl", "a boy, smiling", "a cat")):
        picture = Image.new("RGB", (37, 53), "white")
        ImageDraw.Draw(picture).line((5, 7 * number, 31, 47), fill=(30, 30, 30), width=2)
        picture.save(folder / f"{number}.png")
        cases.append(Case(Pair(f"p{number}", prompt, folder / f"{number}.png"), number))
    return cases


def method_of(
    base: Base, controlnet: ControlNetModel, guidance: float = 7.5, batch: int = 2
) -> ControlNetMethod:
    settings = DrawSettings(
        height=SIZE[0], width=SIZE[1], steps=STEPS, guidance=guidance, batch=batch
    )
    return ControlNetMethod(base, controlnet, "lineart", 0.7, settings, "weights")


def conditions(base: Base, cases: list[Case]) -> tuple[Tensor, Tensor, Tensor]:
    """Text, lines and noise of the cases."""
    references = [case.pair.reference_picture() for case in cases]
    lines = torch.cat([control_image(picture, "lineart", SIZE) for picture in references])
    start = torch.cat([noise(case, 4, SIZE[0] // 2, SIZE[1] // 2) for case in cases])
    return base.encode_text([case.pair.prompt for case in cases]), lines, start


def with_diffusers(
    base: Base, controlnet: ControlNetModel, cases: list[Case], guidance: float, output: str
) -> Tensor:
    """What diffusers' own pipeline draws."""
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    no: Any = None
    pipeline = StableDiffusionControlNetPipeline(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer,
        unet=copy.deepcopy(base.unet), controlnet=controlnet, scheduler=scheduler,
        safety_checker=no, feature_extractor=no, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    _, lines, start = conditions(base, cases)
    drawn: Any = pipeline(
        [case.pair.prompt for case in cases], image=lines, latents=start,
        num_inference_steps=STEPS, guidance_scale=guidance, controlnet_conditioning_scale=0.7,
        output_type=output,
    )  # fmt: skip
    return drawn.images


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_latents_are_diffusers(
    base: Base, controlnet: ControlNetModel, cases: list[Case], guidance: float
) -> None:
    theirs = with_diffusers(base, controlnet, cases, guidance, "latent")
    text, lines, start = conditions(base, cases)
    method = method_of(base, controlnet, guidance)

    def draw(control: Any) -> Tensor:
        return ddim_sample(
            base, None, text, None, None, 0.0, start, steps=STEPS, guidance=guidance, batch=2,
            control=control,
        )  # fmt: skip

    ours = draw(lambda chosen: method._residuals(lines[chosen]))
    scale = theirs.std()
    assert (ours - theirs).abs().max() < 1e-4 * scale
    without = draw(None)
    assert (ours - without).std() > 0.05 * scale, "the ControlNet did nothing"


def test_the_pictures_are_diffusers_and_do_not_depend_on_their_neighbours(
    base: Base, controlnet: ControlNetModel, cases: list[Case]
) -> None:
    method = method_of(base, controlnet, 5.0)
    drawn = method.draw(cases)
    assert [tuple(picture.shape) for picture in drawn] == [(*SIZE, 3)] * 3
    theirs = with_diffusers(base, controlnet, cases, 5.0, "pt").movedim(1, -1)
    assert (torch.stack(drawn) - theirs).abs().max() < 1e-4
    [alone] = method.draw(cases[2:])
    assert (alone - drawn[2]).abs().max() < 1e-4
    assert (drawn[0] - drawn[1]).abs().max() > 1e-2


def test_a_pair_without_a_reference_is_an_error(base: Base, controlnet: ControlNetModel) -> None:
    with pytest.raises(ValueError, match="pair p9 has no reference"):
        method_of(base, controlnet).draw([Case(Pair("p9", "a girl"), 0)])


def test_the_control_image_is_the_whole_sketch_in_white_on_black() -> None:
    picture = torch.ones(1, 5, 11, 3)
    picture[0, 0, 0] = 0.0  # the first corner is black, the last one half grey, as all of them
    picture[0, 4, 10] = torch.tensor([0.25, 0.5, 0.75])
    lines = control_image(picture, "lineart", (13, 11))
    assert lines.shape == (1, 3, 13, 11)
    expected = torch.zeros(13, 11)
    expected[4, 0], expected[8, 10] = 1.0, 0.5
    assert torch.allclose(lines[0], expected.expand(3, -1, -1), atol=1e-6)
    tall = control_image(picture.movedim(1, 2), "lineart_anime", (11, 14))
    assert torch.allclose(tall[0, 0, :, 4:9], expected[4:9].T, atol=1e-6)
    assert tall.sum() == pytest.approx(3 * 1.5, abs=1e-5)


def test_a_sketch_is_scaled_to_fit() -> None:
    picture = torch.ones(1, 26, 22, 3)
    picture[:, :, 10:12] = 0.0
    lines = control_image(picture, "lineart", (13, 31))[0, 0]
    assert lines[:, :10].max() == 0 == lines[:, 21:].max()
    assert lines[6, 15] > 0.8  # the line's own column
    assert lines.max() <= 1


def test_scribbles_are_hard_lines() -> None:
    picture = torch.ones(1, 1, 4, 3)
    # The darkest is 0.6 darker than white, so lines are what is at least 0.3 darker.
    picture[0, 0] = torch.tensor([1.0, 0.4, 0.69, 0.71]).view(4, 1)
    lines = control_image(picture, "scribble", (1, 4))
    assert lines[0, 0, 0].tolist() == [0, 1, 1, 0]
    assert not control_image(torch.ones(1, 3, 3, 3), "scribble", (3, 3)).any()


@pytest.mark.parametrize("name", module.FILES)
def test_a_folder_of_diffusers_draws_in_the_bases_precision(
    base: Base, controlnet: ControlNetModel, cases: list[Case], tmp_path: Path, name: str
) -> None:
    controlnet.save_pretrained(tmp_path)
    (tmp_path / module.FILES[0]).rename(tmp_path / name)
    settings = method_of(base, controlnet).settings
    half = copy.deepcopy(base).to("cpu", torch.bfloat16)
    exact, rough = (
        open_controlnet(each, "base", tmp_path, "lineart", 0.7, settings) for each in (base, half)
    )
    assert exact.weights == rough.weights == f"base {fingerprint(controlnet)}"
    assert (exact.controlnet.dtype, rough.controlnet.dtype) == (torch.float32, torch.bfloat16)
    [known], [same], [near] = (
        method.draw(cases[:1]) for method in (method_of(base, controlnet), exact, rough)
    )
    assert torch.equal(same, known)
    assert near.dtype == torch.float32
    assert 0 < (near - known).abs().max() < 0.1


RENAMED = (  # diffusers' names to those of the latent-diffusion repository, for two levels
    (r"^controlnet_cond_embedding\.conv_in\.", "input_hint_block.0."),
    (r"^controlnet_cond_embedding\.conv_out\.", "input_hint_block.14."),
    (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
    (r"^controlnet_mid_block\.", "middle_block_out.0."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^down_blocks\.0\.resnets\.0\.", "input_blocks.1.0."),
    (r"^down_blocks\.0\.attentions\.0\.", "input_blocks.1.1."),
    (r"^down_blocks\.0\.downsamplers\.0\.conv\.", "input_blocks.2.0.op."),
    (r"^down_blocks\.1\.resnets\.0\.", "input_blocks.3.0."),
    (r"^down_blocks\.1\.attentions\.0\.", "input_blocks.3.1."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
    (r"^(\w+(?:\.\d+)+\.)norm1\.", r"\1in_layers.0."),
    (r"^(\w+(?:\.\d+)+\.)conv1\.", r"\1in_layers.2."),
    (r"^(\w+(?:\.\d+)+\.)time_emb_proj\.", r"\1emb_layers.1."),
    (r"^(\w+(?:\.\d+)+\.)norm2\.", r"\1out_layers.0."),
    (r"^(\w+(?:\.\d+)+\.)conv2\.", r"\1out_layers.3."),
    (r"^(\w+(?:\.\d+)+\.)conv_shortcut\.", r"\1skip_connection."),
)


def ldm_name(key: str) -> str:
    """Names a weight as lllyasviel's files do."""
    if match := re.match(r"controlnet_cond_embedding\.blocks\.(\d)\.(.*)", key):
        return f"input_hint_block.{2 * int(match[1]) + 2}.{match[2]}"
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    return key


@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_a_single_file_is_read(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, form: str
) -> None:
    model = loud_controlnet(base, (4, 5, 6, 7))
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    monkeypatch.setattr(module, "SD15", config)
    weights = {prefix + ldm_name(key): value for key, value in model.state_dict().items()}
    assert f"{prefix}zero_convs.3.0.weight" in weights
    path = tmp_path / f"control.{form}"
    save_file(weights, path) if form == "safetensors" else torch.save(weights, path)
    assert fingerprint(read_controlnet(path)) == fingerprint(model)


def test_a_single_file_of_diffusers_is_read(
    controlnet: ControlNetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SD15", dict(controlnet.config))
    save_file(controlnet.state_dict(), tmp_path / "control.safetensors")
    read = read_controlnet(tmp_path / "control.safetensors")
    assert fingerprint(read) == fingerprint(controlnet)


def test_what_is_no_controlnet_is_refused(
    controlnet: ControlNetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SD15", dict(controlnet.config))
    said = "^The ControlNet .* cannot be loaded.*"
    with pytest.raises(ModelError, match=said + "no config.json.* Expected is one of"):
        read_controlnet(tmp_path / "missing")
    path = tmp_path / "x.safetensors"
    path.write_text("<html>")
    with pytest.raises(ModelError, match=said + "a web page"):
        read_controlnet(path)
    save_file({"lora.down.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=said + "holds no ControlNet.*input_hint_block"):
        read_controlnet(path)
    save_file({"control_model.input_hint_block.0.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=said + "do not fit ControlNetModel"):
        read_controlnet(path)
    controlnet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "T2IAdapter"}))
    with pytest.raises(ModelError, match=said + "says that it is a T2IAdapter"):
        read_controlnet(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=said + r"config\.json"):
        read_controlnet(tmp_path)


def test_a_controlnet_of_another_base_and_an_unknown_control_are_refused(
    base: Base, tmp_path: Path
) -> None:
    def opened(controlnet: ControlNetModel, control: str = "lineart") -> ControlNetMethod:
        controlnet.save_pretrained(tmp_path)
        return open_controlnet(base, "base", tmp_path, control, 1.0, DrawSettings())

    with pytest.raises(ModelError, match=r"4 x 4 pixels for one latent, and .* 2 x 2"):
        opened(loud_controlnet(base, (4, 5, 6)))
    own = ("sample_size", "out_channels", "up_block_types")
    unet: Any = {key: value for key, value in tiny_world.UNET.items() if key not in own}
    with pytest.raises(ModelError, match=r"cross_attention_dim 32 and the UNet of .* 24"):
        opened(ControlNetModel(**unet | {"cross_attention_dim": 32}))
    with pytest.raises(ConfigError, match="'canny'; expected one of scribble, lineart, lineart_an"):
        opened(loud_controlnet(base), "canny")


def test_the_recipe_follows_weights_and_settings(base: Base, controlnet: ControlNetModel) -> None:
    method = method_of(base, controlnet)
    changes: Any = (
        {"height": 24}, {"width": 40}, {"steps": 5}, {"guidance": 7.0}
    )  # fmt: skip
    others: Any = ({"control": "scribble"}, {"alpha": 0.5}, {"weights": "other"})
    recipes = [replace(method, **change).recipe for change in ({}, *others)]
    recipes += [replace(method, settings=replace(method.settings, **c)).recipe for c in changes]
    assert len(set(recipes)) == 8
    assert method_of(base, controlnet, batch=1).recipe == method.recipe
