"""The ComfyUI of sampling.py: SD v1.5 with random weights, both packs, runs of a sampler."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from narrow import HEAD, heads, width
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
OURS, PEER = "AnimeSketchNet", "IPAdapter_plus"
PATCHES, TEXT_TOKENS, IMAGE_TOKENS = 257, 77, 16  # of ViT-H/14, a prompt, a sketch
ALPHA = 0.5
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

Run = Callable[[Callable[[int], None]], None]
"""Samples once; says after each step which it was, from 0 on."""


@dataclass(frozen=True)
class World:
    """What all measurements share: the sizes, the UNet, an adapter with a reference, the packs."""

    options: argparse.Namespace
    shape: Any
    model: Any
    sketch: Any
    features: Tensor
    peer: ModuleType | None

    @property
    def device(self) -> torch.device:
        return self.model.load_device


def start_comfyui(options: argparse.Namespace) -> None:
    """Imports what ComfyUI has imported before any pack."""
    sys.path.insert(0, str(options.comfyui))
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = options.device == "cpu"
    args.use_pytorch_cross_attention = options.pytorch_attention
    setattr(args, f"{options.dtype}_unet", True)  # the peer asks ComfyUI, not the model
    importlib.import_module("nodes")


def module_name(pack: str) -> str:
    """ComfyUI names a pack's module by its path."""
    return f"/ComfyUI/custom_nodes/{pack}"


def load_pack(pack: str, folder: Path) -> ModuleType:
    """Imports a pack and lists its nodes, as ComfyUI does."""
    name = module_name(pack)
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "comfy_entrypoint"):
        for node in asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list()):
            node.GET_SCHEMA()
    return module


def unet_config(narrow: int) -> dict[str, Any]:
    """SD v1.5 as ComfyUI's model_detection describes it, an Nth as wide."""
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": width(320, narrow, 32),
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "use_spatial_transformer": True,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "context_dim": width(768, narrow, 64),
        "num_heads": heads(8, narrow),
        "num_head_channels": -1,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "adm_in_channels": None,
        "legacy": False,
    }


def random_model(narrow: int) -> Any:
    """A MODEL of SD v1.5's shape."""
    management = importlib.import_module("comfy.model_management")
    patcher = importlib.import_module("comfy.model_patcher")
    supported = importlib.import_module("comfy.supported_models")
    kind = type("SD15", (supported.SD15,), {"unet_config": {}, "unet_extra_config": {}})
    config = kind(unet_config(narrow))
    device, offload = management.get_torch_device(), management.unet_offload_device()
    dtype = management.unet_dtype()
    cast = management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    model = config.get_model({}, "", device=offload)
    draw_weights(model.diffusion_model)
    kind = getattr(patcher, "CoreModelPatcher", patcher.ModelPatcher)
    return kind(model, load_device=device, offload_device=offload)


def draw_weights(module: torch.nn.Module) -> None:
    """Fills a module with weights that keep the size of what passes through."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.7 * parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(0 if name.endswith("bias") else 1)


def make_world(options: argparse.Namespace) -> World:
    start_comfyui(options)
    load_pack(OURS, ROOT)
    peer = load_pack(PEER, options.peer) if options.peer else None
    torch.manual_seed(0)
    model = random_model(options.narrow)
    shape = ours("animesketchnet_core.unet_layers").UNetShape.from_comfy(
        model.model.model_config.unet_config
    )
    sizes = ours("animesketchnet_core.resampler").ResamplerConfig(
        dim=shape.cross_attention_dim,
        embedding_dim=width(1280, options.narrow, HEAD),
        output_dim=shape.cross_attention_dim,
    )
    adapter = ours("animesketchnet_core.adapter").AnimeSketchAdapter.from_unet(shape, sizes)
    links = ours("nodes.links")
    dtype = DTYPES[options.dtype]
    weights = {key: value.detach().to(dtype) for key, value in adapter.state_dict().items()}
    loaded = links.LoadedAdapter.from_tensors(weights, None, "random")
    features = torch.randn(1, PATCHES, sizes.embedding_dim)
    tokens = [
        loaded.ready().tokens(each.to(loaded.patcher.load_device)).cpu()
        for each in (features, torch.zeros_like(features))
    ]
    sketch = links.EncodedSketch(loaded, *tokens)
    return World(options, shape, model, sketch, features, peer)


def ours(name: str) -> ModuleType:
    return importlib.import_module(f"{module_name(OURS)}.{name}")


def layers_of(world: World) -> tuple[Any, ...]:
    """The UNet's cross-attention layers."""
    return ours("animesketchnet_core.unet_layers").cross_attention_layers(world.shape)


def half_mask(world: World) -> Tensor | None:
    """White on the left half."""
    return torch.tensor([[[1.0, 0.0]]]).repeat_interleave(32, 2) if world.options.mask else None


def with_ours(world: World, references: int) -> Any:
    """The model after our Apply node, once for each reference."""
    apply, model = ours("nodes.apply").ApplyAnimeSketchNet.execute, world.model
    for _ in range(references):
        model = apply(model, world.sketch, ALPHA, 0.0, 1.0, mask=half_mask(world)).args[0]
    return model


def with_peer(world: World, references: int) -> Any:
    """The model after the peer's node for encoded images, once for each reference."""
    assert world.peer is not None
    node, model = world.peer.NODE_CLASS_MAPPINGS["IPAdapterEmbeds"](), world.model
    weights = world.sketch.adapter.patcher.model.state_dict()
    parts = {
        part: {k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
    mask, none = half_mask(world), torch.zeros_like(world.features)
    for _ in range(references):
        arguments = (parts, world.features, ALPHA, "linear", 0.0, 1.0, none, mask)
        model = node.apply_ipadapter(model, *arguments)[0]
    return model


def sampling(world: World, model: Any, size: int, batch: int, steps: int) -> Run:
    """Sampling by Euler's method with a prompt and a negative prompt."""
    sample = importlib.import_module("comfy.sample").sample
    noise = torch.randn(batch, 4, size // 8, size // 8)
    texts = torch.randn(2, 1, TEXT_TOKENS, world.shape.cross_attention_dim)
    prompts = [[[text, {}]] for text in texts]

    def run(after: Callable[[int], None]) -> None:
        drawn = sample(
            model, noise, steps, 7.0, "euler", "normal", *prompts, torch.zeros_like(noise),
            callback=lambda step, *_: after(step), disable_pbar=True, seed=0,
        )  # fmt: skip
        if not drawn.isfinite().all():
            raise ValueError("The random UNet's latents are not finite: try --dtype fp32.")

    return run


def unet_alone(world: World, size: int, batch: int, steps: int) -> Run:
    """The UNet's own computation of the same steps, without a sampler around it."""
    base = world.model.model
    rows, dtype = 2 * batch, base.manual_cast_dtype or base.get_dtype()
    made = {"device": world.device, "dtype": dtype}
    latents = torch.randn(rows, 4, size // 8, size // 8, **made)
    text = torch.randn(rows, TEXT_TOKENS, world.shape.cross_attention_dim, **made)
    times = torch.linspace(1, 999, rows, device=world.device)

    def run(after: Callable[[int], None]) -> None:
        for step in range(steps):
            base.diffusion_model(latents, times, context=text, transformer_options={})
            after(step)

    return run
