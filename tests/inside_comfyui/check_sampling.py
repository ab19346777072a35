"""Who gets the sketch, when it acts, and batches."""

from __future__ import annotations

import comfy.context_windows
import comfy.sample
import comfy.samplers
import node_helpers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg, PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance


def _sketch_roles(calls, layer=1):
    """For each UNet call: which of its chunks had the sketch's K' (True), which the zeros'."""
    roles = []
    for call in calls:
        if call.layer == layer:
            sketch = call.reference._sketches[layer][0]
            none = call.reference._unconditional[layer][0]
            rows = call.projected[layer][0]
            assert len(rows) == len(call.chunks)
            for row in rows:
                assert torch.equal(row, sketch[0]) or torch.equal(row, none[0])
            pairs = zip(call.chunks, (torch.equal(row, sketch[0]) for row in rows), strict=True)
            roles.append(dict(pairs))
    return roles


def _run(guider, steps=1, batch=1):
    noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    model = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model, "ddim_uniform", steps)
    sampler = comfy.samplers.sampler_object("ddim")
    latent = torch.zeros_like(noise)
    return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=7)


def test_the_positive_prompt_gets_the_sketch(apply, sample, watch):
    with watch() as calls:
        sample(apply(), steps=1)
    assert _sketch_roles(calls) == [{0: True, 1: False}]


def test_cfg_one_has_the_positive_prompt_only(apply, sample, watch):
    with watch() as calls:
        sample(apply(), steps=1, cfg=1.0)
    assert _sketch_roles(calls) == [{0: True}]


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_dual_cfg_counts_from_the_negative_prompt(mini, apply, watch, style):
    guider = Guider_DualCFG(apply())
    guider.set_conds(mini.positive, mini.negative, mini.negative)
    guider.set_cfg(5.0, 3.0, nested=style == "nested")
    with watch() as calls:
        _run(guider)
    assert _sketch_roles(calls) == [{0: False, 1: False, 2: True}]


def test_perp_neg_has_three_prompts(mini, apply, watch):
    guider = Guider_PerpNeg(apply())
    guider.set_conds(mini.positive, mini.negative, mini.negative)
    guider.set_cfg(5.0, 1.0)
    with watch() as calls:
        _run(guider)
    assert _sketch_roles(calls) == [{0: True, 1: False, 2: False}]


def test_the_older_perp_neg_node_brings_a_prompt_of_its_own(mini, apply, sample, watch):
    model = PerpNeg.execute(apply(), mini.negative, 1.0).args[0]
    with watch() as calls:
        sample(model, steps=1)
    assert _sketch_roles(calls) == [{0: True, 1: False}, {0: False}]


def test_self_attention_guidance_calls_with_the_negative_prompt_alone(apply, sample, watch):
    model = SelfAttentionGuidance.execute(apply(), 0.5, 2.0).args[0]
    with watch() as calls:
        sample(model, steps=1)
    assert _sketch_roles(calls) == [{0: True, 1: False}, {0: False}]


def test_perturbed_attention_guidance_calls_with_the_positive_prompt_alone(apply, sample, watch):
    model = PerturbedAttentionGuidance.execute(apply(), 3.0).args[0]
    with watch() as calls:
        sample(model, steps=1)
    assert _sketch_roles(calls) == [{0: True, 1: False}, {0: True}]


def test_area_prompts_are_copied_into_the_other_list(mini, apply, sample, watch):
    """ComfyUI gives the negative list a copy of each area prompt, with its uuid."""
    area = node_helpers.conditioning_set_values(mini.positive, {"area": (8, 8, 0, 0)})
    with watch() as calls:
        sample(apply(), steps=1, positive=area + mini.positive)
    seen = _sketch_roles(calls)
    assert {True} == {role[0] for role in seen if 0 in role}
    assert {False} == {role[1] for role in seen if 1 in role}


def test_context_windows_copy_the_lists(mini, apply, watch, context_windows):
    model = apply(sketch=mini.encode(torch.rand(4, 31, 41, 3)))
    model.model_options["context_handler"] = context_windows.handler
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(mini.positive, mini.negative)
    guider.set_cfg(5.0)
    with watch() as calls:
        _run(guider, batch=4, steps=3)  # 0.3.75 compares the batch with the list of 4 sigmas
    windows = [call for call in calls if call.layer == 1][:2]
    for call, latents in zip(windows, context_windows.latents, strict=True):
        sketches = call.reference._sketches[1][0]
        rows = call.projected[1][0].unflatten(0, (2, len(latents)))  # chunk, latent
        assert torch.equal(rows[call.chunks.index(0)], sketches[latents])


def test_the_same_prompt_on_both_sides_is_told_apart(mini, apply, sample, watch):
    with watch() as calls:
        sample(apply(), steps=1, negative=mini.positive)
    assert _sketch_roles(calls) == [{0: True, 1: False}]


def test_start_and_end_percent(mini, apply, sample, watch):
    schedule = mini.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "ddim_uniform", 5)[:5]
    start, end = (float(schedule.percent_to_sigma(p)) for p in (0.3, 0.7))
    expected = [end <= float(sigma) <= start for sigma in sigmas]
    assert sorted(expected) == [False, False, False, True, True]  # the test tests something
    with watch() as calls:
        sample(apply(start_percent=0.3, end_percent=0.7), steps=5)
    assert [call.projected is not None for call in calls if call.layer == 1] == expected


def test_a_range_without_a_step_is_as_without_the_node(mini, apply, sample):
    result = sample(apply(start_percent=0.0, end_percent=0.0))
    torch.testing.assert_close(result, sample(mini.model), rtol=0, atol=1e-5)


def test_one_sketch_for_a_batch_of_latents(apply, sample, watch):
    patched = apply()
    with watch() as calls:
        three = sample(patched, batch=3)
    assert all(len(call.projected[call.layer][0]) == 2 for call in calls)  # no copy per latent
    torch.testing.assert_close(three[:1], sample(patched), rtol=0, atol=1e-4)


def test_several_sketches_go_one_to_a_latent(mini, apply, sample):
    pictures = torch.rand(2, 31, 41, 3, generator=torch.Generator().manual_seed(3))
    together = sample(apply(sketch=mini.encode(pictures)), batch=2)
    for number in range(2):
        alone = apply(sketch=mini.encode(pictures[number : number + 1]))
        expected = sample(alone, batch=2)[number]
        torch.testing.assert_close(together[number], expected, rtol=0, atol=1e-4)


def test_sketches_start_over_when_there_are_more_latents(mini, apply, sample):
    sketch = mini.encode(torch.rand(2, 31, 41, 3, generator=torch.Generator().manual_seed(3)))
    four = sample(apply(sketch=sketch), batch=4)
    assert torch.isfinite(four).all()


def test_more_sketches_than_latents_are_an_error(mini, apply, sample):
    sketch = mini.encode(torch.rand(3, 31, 41, 3))
    with pytest.raises(ValueError, match=r"3 sketches.*latent batch has 2.*batch_size to 3"):
        sample(apply(sketch=sketch), batch=2)


def test_a_sampler_past_the_wrappers_gets_roles_by_position(apply, watch):
    with watch() as calls:
        _bare_call(apply())
    assert _sketch_roles(calls) == [{1: False, 0: True}]


def test_a_sampler_past_the_wrappers_cannot_honour_a_range(apply):
    with pytest.raises(ValueError, match="start_percent, end_percent and curve are unknown"):
        _bare_call(apply(end_percent=0.5))


def _bare_call(model):
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [1, 0]}
    model.model.apply_model(
        torch.randn(2, 4, 16, 16),
        torch.ones(2),
        c_crossattn=torch.randn(2, 77, 128),
        transformer_options=options,
    )
