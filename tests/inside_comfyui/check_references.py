"""Sketches that are for one prompt only, and sketches to stay away from."""

from __future__ import annotations

import node_helpers
import pytest
import torch


@pytest.fixture
def other(mini, picture):
    return mini.encode(picture(seed=2))


def _who(calls, key):
    """For each chunk with the reference: (list, whether it saw the sketch)."""
    seen = []
    for call in calls:
        if call.layer == 1 and call.reference.key == key:
            sketch = call.reference._sketches[1][0]
            rows = call.projected[1][0]
            pairs = zip(call.chunks, rows, strict=True)
            seen += [(chunk, torch.equal(row, sketch[0])) for chunk, row in pairs]
    return sorted(seen)


def _keys(model):
    options = model.model_options["transformer_options"]
    return [reference.key for reference in options["animesketchnet_references"]]


def test_a_tied_sketch_is_for_its_prompt_only(mini, apply, sample, watch, other):
    model, first = apply(prompt=mini.positive)
    model, second = apply(model=model, sketch=other, prompt=mini.positive)
    one, two = _keys(model)
    with watch() as calls:
        sample(model, steps=1, positive=first + second + mini.positive)
    assert _who(calls, one) == [(0, False), (0, False), (0, True), (1, False)]
    assert _who(calls, two) == [(0, False), (0, False), (0, True), (1, False)]


def test_one_prompt_alone_is_as_if_untied(mini, apply, sample):
    model, prompt = apply(prompt=mini.positive)
    assert torch.equal(sample(model, positive=prompt), sample(apply()))


def test_two_sketches_can_be_tied_to_one_prompt(mini, apply, sample, other):
    model, prompt = apply(prompt=mini.positive)
    model, prompt = apply(model=model, sketch=other, prompt=prompt)
    together = sample(model, positive=prompt)
    untied = sample(apply(model=apply(), sketch=other))
    torch.testing.assert_close(together, untied, rtol=0, atol=1e-4)


def test_a_sketch_can_be_tied_to_the_negative_prompt(mini, apply, sample, watch):
    model, negative = apply(prompt=mini.negative)
    with watch() as calls:
        sample(model, steps=1, negative=negative)
    assert _who(calls, *_keys(model)) == [(0, False), (1, True)]


def test_the_copies_of_area_prompts_in_the_other_list_do_not_count(mini, apply, sample, watch):
    area = node_helpers.conditioning_set_values(mini.positive, {"area": (8, 8, 0, 0)})
    model, tied = apply(prompt=area)
    with watch() as calls:
        sample(model, steps=1, positive=tied + mini.positive)
    seen = _who(calls, *_keys(model))
    assert (0, True) in seen
    assert (1, True) not in seen


def test_the_prompt_that_went_in_stays_as_it_was(mini, apply):
    before = [dict(options) for _, options in mini.positive]
    _, prompt = apply(prompt=mini.positive)
    assert [options.keys() for _, options in mini.positive] == [b.keys() for b in before]
    assert prompt is not mini.positive


def test_alpha_zero_leaves_the_prompt_untied(mini, apply):
    _, prompt = apply(alpha=0.0, prompt=mini.positive)
    assert prompt is mini.positive


def test_the_negative_sketch_takes_the_place_of_no_sketch(mini, apply, sample, watch, other):
    with watch() as calls:
        result = sample(apply(negative_sketch=other), steps=1)
    key, _ = mini.adapter.patcher.model.keys_values(other.tokens)[1]
    call = next(call for call in calls if call.layer == 1)
    negative = call.projected[1][0][call.chunks.index(1)]
    torch.testing.assert_close(negative, key[0], rtol=0, atol=1e-5)
    assert not torch.allclose(result, sample(apply(), steps=1), atol=1e-3)


def test_negative_sketches_go_one_to_a_latent(mini, apply, sample):
    pictures = torch.rand(2, 31, 41, 3, generator=torch.Generator().manual_seed(3))
    together = sample(apply(negative_sketch=mini.encode(pictures)), batch=2)
    for number in range(2):
        negative = mini.encode(pictures[number : number + 1])
        expected = sample(apply(negative_sketch=negative), batch=2)[number]
        torch.testing.assert_close(together[number], expected, rtol=0, atol=1e-4)


def test_a_sampler_past_the_wrappers_cannot_tell_prompts_apart(mini, apply):
    model, _ = apply(prompt=mini.positive)
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [1, 0]}
    with pytest.raises(ValueError, match="Disconnect the input prompt"):
        model.model.apply_model(
            torch.randn(2, 4, 16, 16),
            torch.ones(2),
            c_crossattn=torch.randn(2, 77, 128),
            transformer_options=options,
        )
