"""Models in other types, compiled, partly loaded, in separate calls."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_extras.nodes_model_advanced import ModelComputeDtype
from comfy_extras.nodes_torch_compile import TorchCompileModel


def _close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)  # values go beyond 100


def _apart(one, other):
    return (one - other).abs().max() > 1


MASK = torch.rand(1, 23, 31, generator=torch.Generator().manual_seed(5)).round()


@pytest.fixture
def curve(pack):
    return pack.module("animesketchnet_core.alpha_curve").AlphaCurve(((0.0, 1.0), (1.0, 0.2)))


@pytest.fixture(params=["alpha", "mask", "curve", "layers", "negative_sketch", "prompt"])
def inputs(request, pack, mini, picture, curve):
    """The Apply node's optional inputs, one at a time."""
    layers = pack.module("animesketchnet_core.layer_alphas").LayerAlphas.from_text("down:0.2, up:1")
    return {
        "alpha": {"alpha": 0.8},
        "mask": {"mask": MASK},
        "curve": {"curve": curve},
        "layers": {"layers": layers},
        "negative_sketch": {"negative_sketch": mini.encode(picture(seed=2))},
        "prompt": {"prompt": mini.negative},  # so the negative prompt gets the sketch
    }[request.param]


@pytest.fixture
def draw(apply, sample):
    """Samples two latents in three steps with the given inputs."""

    def call(inputs, **options):
        applied = apply(**inputs, **options)
        model, tied = applied if "prompt" in inputs else (applied, None)
        return sample(model, steps=3, batch=2, negative=tied)

    return call


def test_separate_calls_draw_the_same(mini, draw, watch, inputs, monkeypatch):
    together = draw(inputs)
    one_at_a_time = lambda shape, **_: 0 if shape[0] == 2 else float("inf")  # noqa: E731
    monkeypatch.setattr(mini.model.model, "memory_required", one_at_a_time)
    with watch() as calls:
        apart = draw(inputs)
    assert {len(call.chunks) for call in calls} == {1}
    _close(apart, together)
    assert _apart(together, draw({}))


def test_a_partly_loaded_model_draws_the_same(mini, draw, inputs, monkeypatch):
    whole = draw(inputs)
    assert not mini.model.model.model_lowvram
    load = type(mini.model).load

    def partly(self, device_to=None, **_):
        load(self, device_to, lowvram_model_memory=self.model_size() // 2)

    comfy.model_management.unload_all_models()
    with monkeypatch.context() as patch:
        patch.setattr(type(mini.model), "load", partly)
        result = draw(inputs)
        assert mini.model.model.model_lowvram
    comfy.model_management.unload_all_models()
    _close(result, whole)


TYPES = {
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "bf16 in fp32": (torch.bfloat16, torch.float32),
    "fp8 in bf16": (torch.float8_e4m3fn, torch.bfloat16),
    "fp32 in bf16": (torch.float32, torch.bfloat16),
}


def _in_type(pack, mini, monkeypatch, weights, compute):
    if weights == torch.float32:
        return ModelComputeDtype().patch(mini.model, "bf16")[0]
    management = comfy.model_management
    with monkeypatch.context() as patch:
        patch.setattr(management, "unet_dtype", lambda *_, **__: weights)
        patch.setattr(management, "unet_manual_cast", lambda *_, **__: compute)
        folder = pack.module("nodes.mini_loader").mini_folder()
        return pack.module("nodes.mini_models").load_unet(folder)


@pytest.mark.parametrize("name", TYPES)
def test_a_sketch_is_as_exact_as_the_models_type(
    pack, mini, apply, sample, by_hand, watch, monkeypatch, name
):
    weights, compute = TYPES[name]
    low = _in_type(pack, mini, monkeypatch, weights, compute)
    curve = pack.module("animesketchnet_core.alpha_curve").AlphaCurve(((0.0, 0.7),))
    ours = {"alpha": 1.0, "mask": MASK, "curve": curve}
    plain, exact = sample(mini.model), sample(apply(**ours))
    with watch() as calls:
        result = sample(apply(model=low, **ours))
    with by_hand(0.7, MASK, model=low):
        expected = sample(low)
    error = lambda one, other: float((one - other).abs().mean())  # noqa: E731
    without = error(sample(low), plain)  # the type's own, 0.03 to 0.7; the sketch changes 3.5
    assert error(result, exact) < 2 * without
    assert error(result, expected) < 2 * without
    assert error(exact, plain) > 4 * without
    for call in calls:
        assert call.dtype == (compute or weights)
        assert {x.dtype for x in call.projected[call.layer]} == {call.dtype}


def _on_torch(model):
    """The attention that GPUs use; on the CPU ComfyUI's own asks for free memory, which breaks."""
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda _, *args, **options: attention_pytorch(*args, **options)
    )
    return model


def test_compiled_there_is_one_graph_for_all_layers_and_steps(apply, sample, watch, curve):
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    patched = _on_torch(apply(model=apply(alpha=0.3), alpha=1.0, curve=curve, mask=MASK))
    with watch() as calls:
        expected = sample(patched, steps=4)
    torch._dynamo.reset()
    result = sample(TorchCompileModel.execute(patched, counting).args[0], steps=4)
    torch._dynamo.reset()
    _close(result, expected)
    assert len(graphs) == 1
    changing = [call for call in calls if call.layer == 1 and call.reference.mask is not None]
    assert len({float(call.branch.alphas[1]) for call in changing}) == 4


def test_the_branch_is_laid_out_where_and_as_the_queries_are(apply):
    options = _on_torch(apply(mask=MASK)).model_options["transformer_options"]
    patch = options["patches_replace"]["attn2"]["middle", 0, 0]
    q = torch.empty(2 * 3, 6, 192, device="meta", dtype=torch.float16)  # stands for MPS, DirectML
    options |= {"n_heads": 6, "cond_or_uncond": [1, 0], "activations_shape": [6, 192, 2, 3]}
    out = patch(q, q, q, options)
    assert (out.device.type, out.dtype) == ("meta", torch.float16)
    assert {(key[0].type, key[1]) for key in patch.reference._arranged} == {("meta", q.dtype)}
