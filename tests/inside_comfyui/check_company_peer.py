"""IPAdapter_plus in the same graph, on a narrow UNet of SD v1.5's layout with random weights.

Its checkout stays outside (it is GPL); IPADAPTER_PLUS_PATH names the folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections import Counter
from types import SimpleNamespace

import comfy.clip_vision
import pytest
import torch

FOLDER = os.environ.get("IPADAPTER_PLUS_PATH", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="IPADAPTER_PLUS_PATH does not name a folder with IPAdapter_plus"
)


def _filled(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weights in module.state_dict().items():
        if weights.is_floating_point():
            drawn = torch.randn(weights.shape, generator=generator)
            one = weights.ndim == 1 and name.endswith("weight")
            scale = 0.05 if weights.ndim < 2 else 0.7 * weights[0].numel() ** -0.5
            weights.copy_(scale * drawn + float(one))
    return module


@pytest.fixture(scope="module")
def theirs():
    """The other pack, imported as ComfyUI does."""
    name = "/ComfyUI/custom_nodes/ComfyUI_IPAdapter_plus"
    path = os.path.join(FOLDER, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = ("IPAdapterPlus", "CrossAttentionPatch", "image_proj_models")
    return SimpleNamespace(
        nodes=module.NODE_CLASS_MAPPINGS, **{f: sys.modules[f"{name}.{f}"] for f in files}
    )


@pytest.fixture(scope="module")
def narrow(mini):
    """SD v1.5's blocks and 16 layers, a tenth as wide."""
    mini_config = mini.model.model.model_config
    sizes = {"model_channels": 32, "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2] * 4}
    depths = {
        "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3,
    }
    config = type(mini_config)({**mini_config.unet_config, **sizes, **depths})
    config.set_inference_dtype(torch.float32, None)
    with torch.inference_mode():
        model = config.get_model({}, "", device=mini.model.offload_device)
        _filled(model.diffusion_model, seed=1)
    devices = {name: getattr(mini.model, name) for name in ("load_device", "offload_device")}
    return type(mini.model)(model, **devices)


def _adapter(pack, mini, narrow, seed):
    core = pack.module("animesketchnet_core.adapter")
    shape = pack.module("animesketchnet_core.unet_layers").UNetShape
    config = narrow.model.model_config.unet_config
    projection = mini.adapter.patcher.model.image_proj.config
    adapter = core.AnimeSketchAdapter.from_unet(shape.from_comfy(config), projection)
    return _filled(adapter, seed).state_dict()


@pytest.fixture(scope="module")
def ours(pack, mini, narrow, apply):
    """Applies our node to the narrow UNet."""
    links = pack.module("nodes.links")
    with torch.inference_mode():
        tensors = _adapter(pack, mini, narrow, seed=2)
        adapter = links.LoadedAdapter.from_tensors(tensors, None, "narrow")
        sketch = links.EncodedSketch(adapter, mini.sketch.tokens, mini.sketch.unconditional)

    def call(model, **options):
        return apply(model=model, sketch=sketch, **options)

    call.sketch = sketch
    return call


@pytest.fixture(scope="module")
def ipadapter(pack, mini, narrow, theirs, tmp_path_factory, picture):
    """Applies their node, with random weights of the kind Plus."""
    vision = {"model_type": "clip_vision_model"}
    vision |= {"hidden_size": 64, "intermediate_size": 64, "projection_dim": 64}
    vision |= {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_act": "gelu"}
    vision |= {"image_size": 224, "patch_size": 56, "num_channels": 3}
    path = tmp_path_factory.mktemp("vision") / "config.json"
    path.write_text(json.dumps(vision))
    with torch.inference_mode():
        clip_vision = comfy.clip_vision.ClipVisionModel(str(path))
        _filled(clip_vision.model, seed=3)
        resampler = theirs.image_proj_models.Resampler(
            dim=128, depth=4, dim_head=64, heads=12, num_queries=16, embedding_dim=64,
            output_dim=128, ff_mult=4,
        )  # fmt: skip
        prefix = "ip_adapter."
        layers = {
            key.removeprefix(prefix): tensor
            for key, tensor in _adapter(pack, mini, narrow, seed=4).items()
            if key.startswith(prefix)
        }
        weights = {"image_proj": _filled(resampler, 5).state_dict(), "ip_adapter": layers}
    image = picture(seed=6)[:, :43]

    def call(model, weight=1.0, **options):
        node = theirs.nodes["IPAdapterAdvanced"]()
        options |= {"image": image, "clip_vision": clip_vision, "weight": weight}
        return node.apply_ipadapter(model, weights, **options)[0]

    return call


def _close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)  # values go beyond 100


def _apart(one, other):
    return (one - other).abs().max() > 1


def test_the_picture_is_that_of_both_in_either_order(
    narrow, ours, ipadapter, sample, by_hand, clones
):
    with by_hand(model=narrow, sketch=ours.sketch):
        expected = sample(ipadapter(narrow))
    before, after = sample(ours(ipadapter(narrow))), sample(ipadapter(ours(narrow)))
    _close(before, expected)
    _close(after, expected)
    for alone in (narrow, ours(narrow), ipadapter(narrow)):
        assert _apart(sample(alone), expected)


@pytest.mark.parametrize("order", ["before", "after"])
def test_ours_acts_in_all_layers_and_theirs_where_it_did(
    narrow, ours, ipadapter, theirs, sample, watch, monkeypatch, order
):
    replace = theirs.CrossAttentionPatch.Attn2Replace
    original, seen = replace.__call__, Counter()

    def counted(self, q, k, v, extra_options):
        seen[extra_options["block"]] += len(self.callback)
        return original(self, q, k, v, extra_options)

    monkeypatch.setattr(replace, "__call__", counted)
    sample(ipadapter(narrow), steps=1)
    alone = Counter(seen)
    seen.clear()
    model = ours(ipadapter(narrow)) if order == "before" else ipadapter(ours(narrow))
    with watch() as calls:
        sample(model, steps=1)
    assert len(alone) >= 15  # version of February 2025: the middle block is not reached
    assert seen == alone
    assert Counter(call.block for call in calls).most_common()[0][1] == 1
    assert len(calls) == 16


def test_running_either_node_again_changes_nothing(narrow, ours, ipadapter, sample):
    sketched, adapted = ours(narrow), ipadapter(narrow)
    first = sample(sketched)
    again = [sample(ipadapter(sketched)) for _ in range(3)]
    assert torch.equal(again[0], again[2])
    assert torch.equal(sample(sketched), first)
    again = [sample(ours(adapted)) for _ in range(3)]
    assert torch.equal(again[0], again[2])


def test_a_sketch_between_two_of_theirs_loses_neither(narrow, ours, ipadapter, sample, by_hand):
    with by_hand(model=narrow, sketch=ours.sketch):
        expected = sample(ipadapter(ipadapter(narrow), 0.6))
    _close(sample(ipadapter(ours(ipadapter(narrow)), 0.6)), expected)
    assert _apart(expected, sample(ipadapter(ours(narrow), 0.6)))


def test_both_masks_hold(narrow, ours, ipadapter, sample, by_hand):
    left, upper = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[..., :8] = upper[:, :8] = 1
    with by_hand(model=narrow, sketch=ours.sketch, mask=left):
        expected = sample(ipadapter(narrow, attn_mask=upper))
    _close(sample(ipadapter(ours(narrow, mask=left), attn_mask=upper)), expected)
    assert _apart(expected, sample(ipadapter(ours(narrow), attn_mask=upper)))
