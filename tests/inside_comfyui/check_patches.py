"""The patches: all layers, the equation, chaining, cloning, alpha 0."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention


def _attn2(model):
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def _unet_calls(model, counts):
    return model.model.diffusion_model.register_forward_pre_hook(
        lambda *_: counts.update(unet_calls=1)
    )


def test_each_layer_is_patched_and_called_once_per_unet_call(pack, mini, apply, sample, watch):
    unet = pack.module("animesketchnet_core.unet_layers")
    config = mini.model.model.model_config.unet_config
    layers = unet.cross_attention_layers(unet.UNetShape.from_comfy(config))
    patched = apply()
    counts: Counter = Counter()
    hook = _unet_calls(patched, counts)
    with watch() as calls:
        sample(patched, steps=3)
    hook.remove()
    assert len(layers) == 10
    assert counts["unet_calls"] == 3
    assert Counter(call.block for call in calls) == {layer.comfy: 3 for layer in layers}
    assert ("middle", 0, 0) in {call.block for call in calls}
    assert {(call.block, call.layer) for call in calls} == {(i.comfy, i.index) for i in layers}


def test_alpha_zero_installs_nothing(mini, apply, sample):
    untouched = apply(alpha=0.0)
    assert untouched is not mini.model
    assert untouched.model_options == mini.model.model_options
    assert untouched.wrappers == mini.model.wrappers
    assert torch.equal(sample(untouched), sample(mini.model))


def test_alpha_changes_the_picture_and_the_same_run_gives_the_same_bits(mini, apply, sample):
    without, half, full = (sample(m) for m in (mini.model, apply(alpha=0.5), apply(alpha=1.0)))
    assert not torch.allclose(half, without, atol=1e-2)
    assert not torch.allclose(full, half, atol=1e-2)
    assert torch.equal(sample(apply(alpha=0.5)), half)


def test_a_layer_computes_the_equation(pack, mini, apply):
    patch = _attn2(apply(alpha=0.25))["middle", 0, 0]
    q = torch.randn(2 * 3, 5, 192)  # two chunks of three latents
    text_k, text_v = torch.randn(6, 77, 192), torch.randn(6, 77, 192)
    options = {
        "n_heads": 6,
        "attn_precision": None,
        "cond_or_uncond": [1, 0],
        "activations_shape": [6, 192, 1, 5],
        "animesketchnet_references": (patch.reference,),
    }
    out = patch(q, text_k, text_v, options)
    text = optimized_attention(q, text_k, text_v, 6)
    adapter = mini.adapter.patcher.model
    for rows, tokens in (
        (slice(0, 3), mini.sketch.unconditional),
        (slice(3, 6), mini.sketch.tokens),
    ):
        key, value = adapter.keys_values(tokens)[patch.layer]
        sketch = optimized_attention(q[rows], key.expand(3, -1, -1), value.expand(3, -1, -1), 6)
        torch.testing.assert_close(out[rows], text[rows] + 0.25 * sketch, rtol=0, atol=1e-5)


def test_the_upstream_model_stays_as_it_was(mini, apply, sample, clones):
    plain = sample(mini.model)
    first = apply()
    before = sample(first)
    seconds = [apply(model=first, alpha=0.7) for _ in range(3)]  # re-run over a cached upstream
    for second in seconds:
        assert len(second.model_options["transformer_options"]["animesketchnet_references"]) == 2
        assert _depth(_attn2(second)["input", 1, 0]) == 2
    assert _depth(_attn2(first)["input", 1, 0]) == 1
    assert not _attn2(mini.model)
    pictures = [sample(second) for second in seconds]
    assert torch.equal(pictures[0], pictures[2])
    assert not torch.allclose(pictures[0], before, atol=1e-2)
    assert torch.equal(sample(first), before)
    assert torch.equal(sample(mini.model), plain)


def _depth(patch) -> int:
    return 0 if patch is None else 1 + _depth(getattr(patch, "base", None))


def test_clones_share_the_patches_and_draw_the_same(apply, sample, clones):
    patched = apply()
    clone = patched.clone().clone()
    assert _attn2(clone)["middle", 0, 0] is _attn2(patched)["middle", 0, 0]
    assert torch.equal(sample(clone), sample(patched))


def test_two_references_add_up_in_any_order(pack, mini, apply, sample):
    other = mini.encode(torch.rand(1, 37, 53, 3, generator=torch.Generator().manual_seed(2)))
    one_way = sample(apply(model=apply(alpha=0.3), sketch=other, alpha=0.6))
    other_way = sample(apply(model=apply(sketch=other, alpha=0.6), alpha=0.3))
    torch.testing.assert_close(one_way, other_way, rtol=0, atol=1e-4)


class _Foreign:
    """Another pack's patch: ComfyUI's own attention, halved; counts its calls."""

    def __init__(self):
        self.calls = Counter()

    def __call__(self, q, k, v, extra_options):
        self.calls[extra_options["block"]] += 1
        return 0.5 * optimized_attention(q, k, v, extra_options["n_heads"])

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize(
    ("index", "order"),
    [((), "before"), ((0,), "before"), ((), "after")],  # (block, n), (block, n, index)
)
def test_chains_with_another_packs_patch(mini, apply, sample, watch, clones, index, order):
    foreign = _Foreign()
    places = [("input", 1), ("middle", 0), ("output", 4)]
    model = mini.model.clone() if order == "before" else apply()
    for place in places:
        model.set_model_attn2_replace(foreign, *place, *index)
    patched = apply(model=model) if order == "before" else model
    with watch() as calls:
        result = sample(patched.clone())
    assert foreign.calls == {place: 2 for place in places}
    assert len(calls) == 2 * 10  # and all of ours
    assert not torch.allclose(result, sample(apply()), atol=1e-3)
    assert set(places) <= {key[:2] for key in _attn2(patched)}


def test_a_foreign_patch_below_changes_nothing_else(mini, apply, sample):
    """The same attention as ComfyUI's own, from a foreign patch, gives the same bits."""

    def own(q, k, v, extra_options):
        return optimized_attention(
            q,
            k,
            v,
            extra_options["n_heads"],
            attn_precision=extra_options["attn_precision"],
            transformer_options=extra_options,
        )

    model = mini.model.clone()
    model.set_model_attn2_replace(own, "input", 1)
    model.set_model_attn2_replace(own, "middle", 0, 0)
    assert torch.equal(sample(apply(model=model)), sample(apply()))


def test_nothing_is_projected_and_nothing_new_is_made_while_sampling(mini, apply, sample, watch):
    patched = apply()
    counts: Counter = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda *_: counts.update(projections=1))
        for module in mini.adapter.patcher.model.modules()
    ]
    with watch() as calls:
        sample(patched, steps=3)
    for hook in hooks:
        hook.remove()
    assert counts["projections"] == 0
    keys = {id(call.projected[call.layer][0]) for call in calls}
    assert len(keys) == 10  # the same tensors in each of the three steps


def test_the_attention_of_both_branches_can_be_overridden(mini, apply, sample):
    """Sage and other attention packs set optimized_attention_override."""
    calls: Counter = Counter()

    def override(function, *args, **kwargs):
        calls["attention"] += 1
        return function(*args, **kwargs)

    counted = {}
    for name, model in (("without", mini.model.clone()), ("with", apply())):
        model.model_options["transformer_options"]["optimized_attention_override"] = override
        calls.clear()
        sample(model, steps=1)
        counted[name] = calls["attention"]
    assert counted == {"without": 20, "with": 30}


def test_follows_the_queries_type_and_attn_precision(pack, apply, monkeypatch):
    module = pack.module("nodes.attention_patch")
    seen = []

    def attention(q, k, v, heads, attn_precision=None, transformer_options=None):
        seen.append((q.dtype, k.dtype, v.dtype, attn_precision))
        return torch.zeros_like(q)

    monkeypatch.setattr(module, "optimized_attention", attention)
    patch = _attn2(apply())["input", 1, 0]
    q = torch.randn(2, 7, 64, dtype=torch.bfloat16)
    options = {
        "n_heads": 2,
        "attn_precision": torch.float32,
        "cond_or_uncond": [0, 1],
        "activations_shape": [2, 64, 1, 7],
        "animesketchnet_references": (patch.reference,),
    }
    assert patch(q, q, q, options).dtype == torch.bfloat16
    assert seen == [(torch.bfloat16,) * 3 + (torch.float32,)] * 2


def test_moving_the_model_away_frees_the_device(apply, sample):
    patched = apply()
    sample(patched)
    patch = _attn2(patched)["input", 1, 0]
    laid_out = patch.reference._arranged
    assert {key[0].type for key in laid_out} == {"cpu"}
    _, dtype, chunks, latents = next(iter(laid_out))
    patch.reference.arranged(chunks, latents, torch.device("meta"), dtype)  # stands for a GPU
    assert len(laid_out) == 2
    assert patch.to(torch.float16) is patch
    assert patch.to(torch.device("meta")) is patch
    assert len(laid_out) == 2
    assert patch.to(torch.device("cpu")) is patch
    assert {key[0].type for key in laid_out} == {"cpu"}


def test_separate_calls_for_each_conditioning_give_the_same(
    mini, apply, sample, monkeypatch, watch
):
    # One step: a second one multiplies the rounding in which batches of one and two differ.
    together = sample(apply(), steps=1)
    one_at_a_time = lambda shape, **_: 0 if shape[0] == 1 else float("inf")  # noqa: E731
    monkeypatch.setattr(mini.model.model, "memory_required", one_at_a_time)
    with watch() as calls:
        apart = sample(apply(), steps=1)
    assert {len(call.chunks) for call in calls} == {1}
    torch.testing.assert_close(apart, together, rtol=0, atol=2e-5)
