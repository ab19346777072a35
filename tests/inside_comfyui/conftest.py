"""Loads the pack into ComfyUI's own modules, the way ComfyUI does, and builds its mini models."""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
NAME = "/ComfyUI/custom_nodes/AnimeSketchNet"  # ComfyUI names a pack's module by its path

if not Path("comfy/samplers.py").is_file():
    raise pytest.UsageError("Run this through tests/test_nodes_inside.py: it sets the folder.")

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = not torch.cuda.is_available()

import comfy.context_windows  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402

torch.set_num_threads(1)


def load_pack() -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pack() -> SimpleNamespace:
    """The node classes by id, and `module(name)` for the pack's own modules."""
    extension = asyncio.run(load_pack().comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    by_id = {node.GET_SCHEMA().node_id: node for node in classes}
    return SimpleNamespace(
        nodes=by_id, module=lambda name: importlib.import_module(f"{NAME}.{name}")
    )


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """ComfyUI runs every node in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def mini(pack: SimpleNamespace) -> SimpleNamespace:
    """The mini models, a sketch encoded with them, and two prompts."""
    with torch.inference_mode():
        loaded = pack.nodes["AnimeSketchNetMiniLoader"].execute().args
        model, clip, vae, clip_vision, adapter = loaded
        encode = pack.nodes["AnimeSketchNetEncode"].execute
        prompts = [
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in ("anime sketch of a girl", "blurry")
        ]
        sketch = encode(adapter, clip_vision, random_picture(seed=1)).args[0]
    return SimpleNamespace(
        model=model,
        clip=clip,
        vae=vae,
        clip_vision=clip_vision,
        adapter=adapter,
        sketch=sketch,
        encode=lambda image: encode(adapter, clip_vision, image).args[0],
        positive=prompts[0],
        negative=prompts[1],
    )


def random_picture(seed: int) -> torch.Tensor:
    return torch.rand(1, 61, 43, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def picture() -> Callable[..., torch.Tensor]:
    """Makes an IMAGE [1, 61, 43, 3] of noise."""
    return random_picture


@pytest.fixture(scope="session")
def apply(pack: SimpleNamespace, mini: SimpleNamespace) -> Callable[..., Any]:
    """The Apply node, with the mini model and sketch unless told otherwise."""

    def call(
        model: Any = None,
        sketch: Any = None,
        alpha: float = 0.5,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        **optional: Any,
    ) -> Any:
        execute = pack.nodes["AnimeSketchNetApply"].execute
        with torch.inference_mode():
            output = execute(
                model or mini.model,
                sketch or mini.sketch,
                alpha,
                start_percent,
                end_percent,
                **optional,
            )
        return output.args if "prompt" in optional else output.args[0]

    return call


@pytest.fixture(scope="session")
def sample(mini: SimpleNamespace) -> Callable[..., torch.Tensor]:
    """Samples latents with a model: two DDIM steps unless told otherwise."""

    def call(
        model: Any,
        *,
        steps: int = 2,
        cfg: float = 5.0,
        batch: int = 1,
        size: tuple[int, int] = (16, 16),
        positive: Any = None,
        negative: Any = None,
    ) -> torch.Tensor:
        noise = torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(7))
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            "ddim",
            "ddim_uniform",
            positive or mini.positive,
            negative or mini.negative,
            torch.zeros_like(noise),
            seed=7,
            disable_pbar=True,
        )

    return call


@contextmanager
def watched_calls(pack: SimpleNamespace) -> Iterator[list[SimpleNamespace]]:
    """Records every call of a SketchPatch while the block runs."""
    patch_class = pack.module("nodes.attention_patch").SketchPatch
    original = patch_class.__call__
    calls: list[SimpleNamespace] = []

    def recording(self, q, k, v, extra_options):
        shared = pack.module("nodes.unet_call").call_of(extra_options, q)
        branch = shared.branches.get(self.reference.key)
        calls.append(
            SimpleNamespace(
                layer=self.layer,
                reference=self.reference,
                block=(*extra_options["block"], extra_options["block_index"]),
                chunks=list(extra_options["cond_or_uncond"]),
                uuids=list(extra_options.get("uuids", ())),
                branch=branch,
                grid=tuple(extra_options.get("activations_shape", ())[2:]),
                tokens=q.shape[1],
                dtype=q.dtype,
                projected=branch and branch.projections,
            )
        )
        return original(self, q, k, v, extra_options)

    patch_class.__call__ = recording
    try:
        yield calls
    finally:
        patch_class.__call__ = original


@pytest.fixture
def watch(pack: SimpleNamespace) -> Callable[[], Any]:
    return lambda: watched_calls(pack)


@contextmanager
def sketch_by_hand(
    pack: SimpleNamespace,
    model: Any,
    sketch: Any,
    alpha: float | Callable[[float], float],
    mask: torch.Tensor | None = None,
) -> Iterator[None]:
    """Adds the sketch to a UNet by hooks alone, without the Apply node, its patches or wrappers.

    What the pack draws beside other nodes can be held against this: a sketch that is lost, added
    twice or given to the wrong prompt differs, and so does a node that is lost beside ours.
    """
    unet = model.model.diffusion_model
    names = pack.module("animesketchnet_core.unet_layers")
    shape = names.UNetShape.from_comfy(model.model.model_config.unet_config)
    adapter = sketch.adapter.patcher.model
    shown, hidden = (adapter.keys_values(x) for x in (sketch.tokens, sketch.unconditional))
    now: dict[str, Any] = {}

    def before_out(index: int, heads: int, text: torch.Tensor) -> torch.Tensor:
        options, q = now["options"], now["q"]
        chunks = options["cond_or_uncond"]
        rows = [(shown if chunk == 0 else hidden)[index] for chunk in chunks]
        each = len(q) // len(chunks)
        k, v = (torch.cat(x).to(q).repeat_interleave(each, 0) for x in zip(*rows, strict=True))
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        branch = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        factor = alpha if isinstance(alpha, float) else alpha(float(options["sigmas"][0]))
        if mask is not None:
            grid = options["activations_shape"][-2:]
            laid = F.interpolate(mask[None], size=grid, mode="bilinear", antialias=True)
            factor = factor * laid.to(text).flatten().view(-1, 1)
        return text + factor * branch

    def options_of(_: Any, __: Any, keywords: dict[str, Any]) -> None:
        now["options"] = keywords["transformer_options"]

    hooks = [unet.register_forward_pre_hook(options_of, with_kwargs=True)]
    for layer in names.cross_attention_layers(shape):
        block, number, depth = layer.comfy
        parts = unet.middle_block if block == "middle" else getattr(unet, f"{block}_blocks")[number]
        transformer = next(part for part in parts if hasattr(part, "transformer_blocks"))
        attention = transformer.transformer_blocks[depth].attn2
        add = functools.partial(before_out, layer.index, attention.heads)
        hooks += [
            attention.to_q.register_forward_hook(lambda _, __, q: now.update(q=q)),
            attention.to_out.register_forward_pre_hook(lambda _, args, add=add: (add(*args),)),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="session")
def by_hand(pack: SimpleNamespace, mini: SimpleNamespace) -> Callable[..., Any]:
    """`sketch_by_hand`, with the mini model and sketch unless told otherwise."""
    return lambda alpha=0.5, mask=None, model=None, sketch=None: sketch_by_hand(
        pack, model or mini.model, sketch or mini.sketch, alpha, mask
    )


@pytest.fixture(params=["deep", "shallow"])
def clones(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test under both ways in which ComfyUI versions clone a model's options."""
    if not hasattr(comfy.model_patcher, "copy"):  # a newer one, which is shallow by itself
        if request.param == "deep":
            pytest.skip("This ComfyUI copies no longer deeply.")
        return
    function = copy.deepcopy if request.param == "deep" else copy_dicts_and_lists
    stub = SimpleNamespace(deepcopy=function, copy=copy.copy)
    monkeypatch.setattr(comfy.model_patcher, "copy", stub)


def copy_dicts_and_lists(value: Any) -> Any:
    """What ComfyUI does from 2026 on: new dicts and lists, the same leaves."""
    if isinstance(value, Mapping):
        return {key: copy_dicts_and_lists(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_dicts_and_lists(item) for item in value]
    return value


@pytest.fixture
def context_windows() -> SimpleNamespace:
    """Windows of two latents over a batch of four: `handler`, and the `latents` of each window."""
    handler = comfy.context_windows.IndexListContextHandler(
        comfy.context_windows.get_matching_context_schedule("standard_static"),
        comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=2,
        context_overlap=0,
        dim=0,
    )
    anchored = getattr(handler, "causal_window_fix", False)  # newer: the latent before comes first
    return SimpleNamespace(handler=handler, latents=([0, 1], [1, 2, 3] if anchored else [2, 3]))
