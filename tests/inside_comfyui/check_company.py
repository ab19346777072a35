"""Other nodes in the same graph: ours and theirs both act, in either order."""

from __future__ import annotations

import importlib

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_hypernetwork import HypernetworkLoader
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_tomesd import TomePatchModel
from safetensors.torch import load_file, save_file

COMFY_NODES = importlib.import_module("nodes")  # ComfyUI's, not the pack's
LORA_LAYERS = ("attn2.to_q", "attn2.to_out.0", "attn2.to_k", "attn2.to_v", "attn1.to_q")


def _random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def files(mini, tmp_path_factory):
    """A LoRA of each layer, one of the text's keys and values, and a hypernetwork."""
    folder = tmp_path_factory.mktemp("company")
    for name, layers in (("all", LORA_LAYERS), ("text", LORA_LAYERS[2:4])):
        save_file(_lora(mini.model.model.diffusion_model, layers), folder / f"{name}.safetensors")
    network = {
        128: [{f"linear.{kind}": _random(*shape, seed=3) / 8 for kind, shape in _LINEAR}] * 2,
        "activation_func": "relu",
    }
    torch.save(network, folder / "network.pt")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("loras", "hypernetworks"):
            extensions = folder_paths.supported_pt_extensions
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], extensions))
        yield


_LINEAR = (("weight", (128, 128)), ("bias", (128,)))


def _lora(unet, layers, rank=3):
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith(layers):
            outputs, inputs = module.weight.shape
            key = f"lora_unet_{name.replace('.', '_')}"
            seed = len(tensors)
            tensors[f"{key}.lora_down.weight"] = _random(rank, inputs, seed=seed) / 8
            tensors[f"{key}.lora_up.weight"] = _random(outputs, rank, seed=seed + 1) / 8
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


def _model(output):
    """The MODEL of a node's output; HyperTile 0.3.75 gives it bare."""
    return getattr(output, "args", output)[0]


def _with_lora(model, name="all"):
    loader = COMFY_NODES.LoraLoaderModelOnly()
    return _model(loader.load_lora_model_only(model, f"{name}.safetensors", 1.0))


def _with_bypass_lora(model):
    path = folder_paths.get_full_path_or_raise("loras", "all.safetensors")
    return comfy.sd.load_bypass_lora_for_models(model, None, load_file(path), 1.0, 0.0)[0]


def _shrunk(model, after_skip=True):
    times = {"start_percent": 0.0, "end_percent": 0.6}  # of four steps, the first two
    methods = {"downscale_method": "bicubic", "upscale_method": "bicubic"}
    shrink = {"block_number": 2, "downscale_factor": 1.6, "downscale_after_skip": after_skip}
    return _model(PatchModelAddDownscale.execute(model, **shrink, **times, **methods))


NEIGHBOURS = {
    "LoRA": _with_lora,
    "Hypernetwork": lambda m: _model(HypernetworkLoader.execute(m, "network.pt", 1.0)),
    "FreeU": lambda m: _model(FreeU().patch(m, 1.3, 1.4, 0.9, 0.2)),
    "FreeU_V2": lambda m: _model(FreeU_V2().patch(m, 1.3, 1.8, 0.9, 0.2)),
    "HyperTile": lambda m: _model(HyperTile.execute(m, 32, 2, 1, False)),
    "ToMe": lambda m: _model(TomePatchModel.execute(m, 0.6)),
    "RescaleCFG": lambda m: _model(RescaleCFG().patch(m, 0.7)),
    "deep shrink": _shrunk,
    "deep shrink before the skip": lambda m: _shrunk(m, after_skip=False),
    "EasyCache": lambda m: _model(EasyCacheNode.execute(m, 3.0, 0.15, 0.95, False)),
    "LazyCache": lambda m: _model(LazyCacheNode.execute(m, 3.0, 0.15, 0.95, False)),
}
if hasattr(comfy.sd, "load_bypass_lora_for_models"):
    NEIGHBOURS["bypass LoRA"] = _with_bypass_lora


@pytest.fixture(scope="module")
def draw(sample):
    """Samples four steps; HyperTile and ToMe draw from torch's own generator."""

    def call(model, **options):
        torch.manual_seed(11)
        with torch.inference_mode():
            return sample(model, steps=4, **options)

    return call


@pytest.fixture(scope="module")
def ours_alone(apply, draw):
    return draw(apply())


def _close(one, other):
    """Pictures of rounding alone apart; their values go beyond 100."""
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


def _apart(one, other):
    return (one - other).abs().max() > 1


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_picture_is_that_of_both_in_either_order(mini, apply, draw, ours_alone, by_hand, name):
    add = NEIGHBOURS[name]
    with by_hand():
        expected = draw(add(mini.model))
    before, after = draw(apply(model=add(mini.model))), draw(add(apply()))
    _close(before, expected)
    assert torch.equal(after, before)
    assert _apart(expected, ours_alone)
    assert _apart(expected, draw(add(mini.model)))


MOVING = ("HyperTile", "ToMe", "deep shrink", "deep shrink before the skip", "EasyCache")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", MOVING)
def test_where_grids_and_steps_change_mask_and_curve_still_hold(
    pack, mini, apply, draw, by_hand, name
):
    add, size = NEIGHBOURS[name], (18, 26)
    mask = torch.rand(1, 23, 31, generator=torch.Generator().manual_seed(5)).round()
    curve = pack.module("animesketchnet_core.alpha_curve").AlphaCurve.from_text("0.6:0.2, 0.6:1")
    turn = float(mini.model.get_model_object("model_sampling").percent_to_sigma(0.6))
    with by_hand(lambda sigma: 0.2 if sigma > turn else 1.0, mask):
        expected = draw(add(mini.model), size=size)
    ours = {"alpha": 1.0, "curve": curve, "mask": mask}
    before = draw(apply(model=add(mini.model), **ours), size=size)
    _close(before, expected)
    assert torch.equal(draw(add(apply(**ours)), size=size), before)
    for other in ({**ours, "curve": None}, {**ours, "mask": None}):
        assert _apart(expected, draw(add(apply(**other)), size=size))


def test_deep_shrink_moves_the_token_grid_during_the_sampling(apply, draw, watch):
    with watch() as calls:
        draw(_shrunk(apply(mask=torch.ones(1, 8, 8))), size=(18, 26))
    grids = [call.grid for call in calls if call.block == ("input", 3, 0)]
    assert len(set(grids[:2])) == len(set(grids[2:])) == 1
    assert grids[0] not in calls[0].branch.masks  # so it is laid when it appears
    assert grids[2] in calls[0].branch.masks


def test_easy_cache_leaves_out_steps(apply, draw, watch):
    with watch() as calls:
        draw(NEIGHBOURS["EasyCache"](apply()))
    steps = len(calls) // 10
    assert len(calls) == 10 * steps
    assert steps < 4


@pytest.mark.usefixtures("files", "clones")
def test_a_lora_of_the_texts_keys_leaves_the_sketchs_alone(mini, apply, draw, by_hand, watch):
    with by_hand():
        expected = draw(_with_lora(mini.model, "text"))
    with watch() as plain:
        without = draw(apply())
    with watch() as calls:
        result = draw(_with_lora(apply(), "text"))
    _close(result, expected)
    assert _apart(result, without)
    for call, other in zip(calls, plain, strict=True):
        for index, tensors in call.projected.items():
            for ours, theirs in zip(tensors, other.projected[index], strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("files")
def test_a_lora_and_a_sketch_share_a_model_that_stays_as_it_was(mini, apply, draw, ours_alone):
    plain = draw(mini.model)
    draw(_with_lora(apply()))
    assert torch.equal(draw(apply()), ours_alone)
    assert torch.equal(draw(mini.model), plain)


@pytest.fixture(scope="session")
def control_net(mini):
    """A ControlNet of the mini UNet's sizes with random weights: its outputs are not zero."""
    config = mini.model.model.model_config.unet_config
    operations = comfy.ops.manual_cast
    network = comfy.cldm.cldm.ControlNet(**config | {"hint_channels": 3, "operations": operations})
    for number, (name, weights) in enumerate(network.state_dict().items()):
        drawn = _random(*weights.shape, seed=number)
        if weights.ndim > 1:
            weights.copy_(drawn * weights[0].numel() ** -0.5)
        else:
            weights.copy_(0.05 * drawn + float(name.endswith("weight")))
    return comfy.controlnet.ControlNet(network.eval(), load_device=mini.model.load_device)


def _controlled(prompts, control_net):
    node, hint = COMFY_NODES.ControlNetApplyAdvanced(), torch.rand(1, 128, 128, 3).round()
    positive, negative = node.apply_controlnet(*prompts, control_net, hint, 0.3, 0.0, 1.0)
    return {"positive": positive, "negative": negative}


def test_a_control_net_acts_beside_and_sees_no_sketch(
    mini, apply, draw, ours_alone, by_hand, watch, control_net
):
    torch.manual_seed(5)
    prompts = _controlled((mini.positive, mini.negative), control_net)
    runs = []
    hook = control_net.control_model.register_forward_hook(lambda *_: runs.append(1))
    with by_hand():  # in the UNet alone
        expected = draw(mini.model, **prompts)
    runs.clear()
    with watch() as calls:
        result = draw(apply(), **prompts)
    hook.remove()
    _close(result, expected)
    assert len(runs) == 4
    assert len(calls) == 4 * 10
    assert _apart(result, ours_alone)
    assert _apart(result, draw(mini.model, **prompts))


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_tied_prompt_keeps_its_sketch_through_a_control_net(
    mini, apply, draw, by_hand, control_net, order
):
    torch.manual_seed(5)
    negative = mini.negative
    if order == "before":
        prompts = _controlled((mini.positive, negative), control_net)
        model, prompts["positive"] = apply(prompt=prompts["positive"])
    else:
        model, tied = apply(prompt=mini.positive)
        prompts = _controlled((tied, negative), control_net)
    with by_hand():
        expected = draw(mini.model, **prompts)
    _close(draw(model, **prompts), expected)
