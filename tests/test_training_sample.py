from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.resampler import ResamplerConfig
from tests import tiny_world
from training.models import load_base, load_image_encoder
from training.sample import ddim_sample, ddim_timesteps
from training.unet import AdaptedUNet


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tiny_world.write_models(tmp_path_factory.mktemp("models"))
    base, encoder = load_base(folder), load_image_encoder("", folder)
    torch.manual_seed(2)
    resampler = ResamplerConfig(**tiny_world.SETTINGS["resampler"])
    return base, encoder, AnimeSketchAdapter.from_unet(base.shape, resampler)


@pytest.fixture(scope="module")
def conditions(world):
    base, encoder, _ = world
    generator = torch.Generator().manual_seed(9)
    fitted = torch.rand(5, tiny_world.CLIP_SIZE, tiny_world.CLIP_SIZE, 3, generator=generator)
    return {
        "text": base.encode_text(["one", "two", "three", "four", "five"]),
        "features": encoder.features(fitted),
        "no_features": encoder.unconditional(),
        "noise": torch.randn(5, 4, 16, 16, generator=generator),
    }


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_draws_what_diffusers_ddim_draws(world, conditions, guidance):
    base, _, adapter = world
    ours = ddim_sample(base, adapter, **conditions, alpha=0.6, steps=7, guidance=guidance)
    theirs = sample_with_diffusers(world, conditions, guidance)
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


@torch.no_grad()
def sample_with_diffusers(world, conditions, guidance):
    base, _, adapter = world
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    scheduler.set_timesteps(7)
    model, latents = AdaptedUNet(base.unet, adapter), conditions["noise"]
    no_text = base.encode_text([""]).expand_as(conditions["text"])
    no_features = conditions["no_features"].expand_as(conditions["features"])
    for t in scheduler.timesteps:
        steps = t.expand(len(latents))
        given = model(latents, steps, conditions["text"], conditions["features"], 0.6)
        without = model(latents, steps, no_text, no_features, 0.6)
        predicted = without + guidance * (given - without)
        latents = scheduler.step(predicted, t, latents).prev_sample
    return latents


def test_timesteps_are_stable_diffusions():
    assert ddim_timesteps(50)[:3] == [981, 961, 941]
    assert ddim_timesteps(50)[-1] == 1
    with pytest.raises(ValueError, match="1 to 999 steps, got 1000"):
        ddim_timesteps(1000)


def test_a_picture_does_not_depend_on_its_batch(world, conditions):
    base, _, adapter = world
    together = ddim_sample(base, adapter, **conditions, alpha=1.0, steps=3)
    apart = ddim_sample(base, adapter, **conditions, alpha=1.0, steps=3, batch=2)
    assert (together - apart).abs().max() < 1e-3 * together.abs().max()


def test_alpha_0_leaves_the_adapter_out(world, conditions):
    base, _, adapter = world
    silent = ddim_sample(base, adapter, **conditions, alpha=0.0, steps=3)
    text_only = {"text": conditions["text"], "noise": conditions["noise"]}
    alone = ddim_sample(
        base, None, **text_only, features=None, no_features=None, alpha=0.0, steps=3
    )
    assert torch.equal(silent, alone)
    mixed = ddim_sample(
        base, adapter, **conditions, alpha=torch.tensor([0.0, 0, 0, 0, 1.0]), steps=3
    )
    assert (mixed[:4] - silent[:4]).abs().max() < 1e-3 * silent.abs().max()
    assert (mixed[4] - silent[4]).abs().max() > 1e-3 * silent.abs().max()


def test_prompts_may_be_given_as_text(world, conditions):
    base, _, adapter = world
    named = conditions | {"text": ["one", "two", "three", "four", "five"]}
    ours = ddim_sample(base, adapter, **named, alpha=0.5, steps=2)
    assert torch.equal(ours, ddim_sample(base, adapter, **conditions, alpha=0.5, steps=2))


def test_a_missing_reference_is_an_error(world, conditions):
    base, _, adapter = world
    with pytest.raises(ValueError, match="features and no_features are needed"):
        ddim_sample(base, adapter, ["a"], None, None, 0.5, conditions["noise"][:1], steps=2)
