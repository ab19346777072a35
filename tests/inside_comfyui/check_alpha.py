"""Alpha over the steps, over the layers and over the picture."""

from __future__ import annotations

import comfy.context_windows
import comfy.samplers
import node_helpers
import pytest
import torch


@pytest.fixture
def curve(pack):
    return pack.module("animesketchnet_core.alpha_curve").AlphaCurve.from_text


@pytest.fixture
def layers(pack):
    return pack.module("animesketchnet_core.layer_alphas").LayerAlphas.from_text


def _alphas(calls, layer=1):
    return [float(c.branch.alphas[layer]) if c.branch else 0.0 for c in calls if c.layer == layer]


def test_a_curve_gives_each_step_its_alpha(mini, apply, sample, watch, curve):
    schedule = mini.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "ddim_uniform", 5)[:5]
    percents = [1 - float(schedule.timestep(sigma)) / 999 for sigma in sigmas]
    points = curve("0:1, 0.5:0.5, 1:0")
    with watch() as calls:
        sample(apply(alpha=0.8, curve=points), steps=5)
    expected = [0.8 * points.at(percent) for percent in percents]
    assert _alphas(calls) == pytest.approx(expected, abs=2e-3)
    assert len(set(_alphas(calls))) == 5


def test_a_constant_curve_changes_nothing(apply, sample, curve):
    expected = sample(apply(alpha=0.5))
    torch.testing.assert_close(sample(apply(curve=curve("0:1"))), expected, rtol=0, atol=1e-4)


def test_where_the_curve_is_zero_the_sketch_rests(apply, sample, watch, curve):
    with watch() as calls:
        sample(apply(curve=curve("0.5:1, 0.5:0")), steps=5)
    resting = [call.branch is None for call in calls if call.layer == 1]
    assert resting == sorted(resting)
    assert set(resting) == {False, True}


def test_a_curve_and_a_range_work_together(apply, sample, watch, curve):
    with watch() as calls:
        sample(apply(start_percent=0.5, curve=curve("0:0.5")), steps=5)
    alphas = _alphas(calls)
    assert alphas[0] == 0
    assert alphas[-1] == pytest.approx(0.25)


def test_layers_have_their_own_alpha(mini, apply, sample, watch, layers):
    with watch() as calls:
        sample(apply(alpha=0.5, layers=layers("down.1:0.5, mid:2, up.0:0")), steps=1)
    alphas = {call.block: float(call.branch.alphas[call.layer]) for call in calls}
    assert alphas["input", 1, 0] == 0.5
    assert alphas["input", 3, 0] == 0.25
    assert alphas["middle", 0, 0] == 1.0
    assert ("output", 0, 0) not in alphas  # no patch, no cost
    assert ("output", 2, 0) in alphas


def test_all_layers_off_is_as_without_the_node(mini, apply, sample, layers):
    untouched = apply(layers=layers("all:0"))
    assert untouched.model_options == mini.model.model_options
    assert torch.equal(sample(untouched), sample(mini.model))


def test_layers_that_the_model_lacks_are_named(apply, layers):
    with pytest.raises(
        ValueError, match=r"input layers.*'down.7'.*It has down.0.0, .*up.2.1, mid;"
    ):
        apply(layers=layers("down.7:1"))


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (18, 10), (13, 21)])
def test_a_white_mask_is_no_mask_and_a_black_one_no_sketch(mini, apply, sample, size):
    white = sample(apply(mask=torch.ones(1, 300, 200)), size=size)
    torch.testing.assert_close(white, sample(apply(), size=size), rtol=0, atol=1e-4)
    black = sample(apply(mask=torch.zeros(37, 51)), size=size)
    torch.testing.assert_close(black, sample(mini.model, size=size), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 24), (13, 21)])
def test_a_mask_lies_on_the_exact_token_grid(apply, sample, watch, size):
    left = torch.zeros(1, 64, 128)
    left[:, :, :32] = 1  # the left quarter
    with watch() as calls:
        sample(apply(alpha=0.5, mask=left), steps=1, size=size)
    foreseen = {grid for call in calls for grid in call.branch.masks}
    for call in calls:
        grids = {g for g in foreseen if g[0] * g[1] == call.tokens}
        assert grids == {call.grid}  # the first guess holds, so nothing is laid while sampling
        alpha = call.branch.alpha(call.layer, call.grid)
        rows = alpha.reshape(2, *call.grid) / 0.5
        assert rows[..., 0].min() > 0.9
        assert rows[..., -(call.grid[1] // 2) :].max() == 0
        assert rows.mean() == pytest.approx(0.25, abs=0.06)


def test_masks_go_one_to_a_latent(apply, sample):
    masks = torch.zeros(2, 16, 16)
    masks[0, :, :8] = 1
    masks[1, 8:] = 1
    together = sample(apply(mask=masks), batch=2)
    for number in range(2):
        alone = sample(apply(mask=masks[number]), batch=2)
        torch.testing.assert_close(together[number], alone[number], rtol=0, atol=1e-4)


def test_more_masks_than_latents_are_an_error(apply, sample):
    with pytest.raises(ValueError, match=r"input mask holds 3 masks.*batch has 2"):
        sample(apply(mask=torch.ones(3, 8, 8)), batch=2)


@pytest.mark.parametrize(
    "mask", [torch.ones(2), torch.ones(0, 8, 8), torch.full((8, 8), torch.nan)]
)
def test_what_is_no_mask_is_refused(apply, mask):
    with pytest.raises(ValueError, match="input mask needs finite values"):
        apply(mask=mask)


def test_an_area_prompt_sees_its_part_of_the_mask(mini, apply, sample, watch):
    mask = torch.zeros(1, 16, 16)
    mask[:, 8:] = 1  # the lower half
    upper, lower = (
        node_helpers.conditioning_set_values(mini.positive, {"area": (8, 16, y, 0)}) for y in (0, 8)
    )
    with watch() as calls:
        sample(apply(alpha=1.0, mask=mask), steps=1, positive=upper + lower)
    seen = {}
    for call in calls:
        if call.layer == 1:
            alpha = call.branch.alpha(1, call.grid).reshape(len(call.chunks), -1)
            for uuid, chunk, row in zip(call.uuids, call.chunks, alpha, strict=True):
                if chunk == 0:
                    seen[uuid] = float(row.mean())
    assert sorted(seen.values()) == [0.0, 1.0]


def test_context_windows_move_the_masks(mini, apply, watch, context_windows):
    masks = torch.arange(4.0).div(4).view(4, 1, 1).expand(4, 8, 8)
    model = apply(alpha=1.0, mask=masks)
    model.model_options["context_handler"] = context_windows.handler
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(mini.positive, mini.negative)
    guider.set_cfg(5.0)
    noise = torch.randn(4, 4, 16, 16)
    schedule = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "ddim_uniform", 3)
    sampler = comfy.samplers.sampler_object("ddim")
    with watch() as calls:
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=7)
    windows = [call for call in calls if call.layer == 1][:2]
    for call, latents in zip(windows, context_windows.latents, strict=True):
        alpha = call.branch.alpha(1, call.grid)  # [2 chunks * latents, 256 tokens, 1] at most
        means = alpha.reshape(2, len(latents), -1).mean(-1)[0]
        assert means.tolist() == pytest.approx([latent / 4 for latent in latents])
