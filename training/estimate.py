"""What a run would train, keep and take, worked out before it begins (`--dry-run`).

Operations and kept activations are counted by torch on the model's shapes, without computing
anything; the speed of this machine is that of a matrix product.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from animesketchnet_core.adapter import AnimeSketchAdapter

from .config import TrainConfig
from .data import Dataset
from .models import PRECISIONS, Base, ImageEncoder
from .unet import AdaptedUNet, checkpoint_blocks

# The share of a matrix product's speed that a UNet is taken to reach: its forward passes reach 44
# of an RTX 3090's 71 TFLOP/s (diffusers' torch 2.0 benchmarks, batch 16). Not measured in training.
EFFICIENCY = 0.6

# Torch counts the fused kernels of GPUs, but torch 2.4 does not know their outputs' shapes; of the
# CPU's, which is alike, it does. Given are shapes: of the output's gradient, query, key and value.
_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
ATTENTION: dict[Any, Any] = {
    _FUSED: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _FUSED_BACKWARD: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
}


@dataclass(frozen=True)
class Cost:
    """Of one training step with one sample.

    Attributes:
        flops: floating point operations, forward and backward.
        activation_bytes: what is kept for the backward pass.
    """

    flops: int
    activation_bytes: int


def step_cost(config: TrainConfig, base: Base, encoder: ImageEncoder) -> Cost:
    """Counts what one sample costs, on shapes alone."""
    # torch 2.4's checkpointing asks for the module of the device, and "meta" has none.
    torch.__dict__.setdefault("meta", torch.cpu)
    side = config.data.resolution // base.latent_scale
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(base.unet.config)
        unet.requires_grad_(False)
        nn.Module.to(unet, PRECISIONS[config.run.precision])  # ModelMixin.to warns at each cast
        projection = config.image_projection(encoder.width, base.shape.cross_attention_dim)
        adapter = AnimeSketchAdapter.from_unet(base.shape, projection, dtype=torch.float32)
        checkpoint_blocks(unet, config.run.checkpointing)
        model = AdaptedUNet(unet, adapter)
        text = base.text_encoder.config
        latents = torch.zeros(1, int(unet.config["in_channels"]), side, side)
        tokens = torch.zeros(1, text.max_position_embeddings, text.hidden_size)
        features = torch.zeros(1, *encoder.shape)
        weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = model(latents, torch.zeros(1).long(), tokens, features, 1.0).sum()
            loss.backward()
    return Cost(counter.get_total_flops(), sum(kept.values()))


def speed(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Operations a second in a product of large matrices."""
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    float((one @ other)[0, 0])  # warm-up
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        float((one @ other)[0, 0])  # waits for the GPU
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begun)


def estimate(
    config: TrainConfig,
    dataset: Dataset,
    base: Base,
    encoder: ImageEncoder,
    adapter: AnimeSketchAdapter,
    cache_bytes: int,
    operations_per_second: float,
) -> str:
    """Tells in words what the run would train, keep and take."""
    run = config.run
    cost = step_cost(config, base, encoder)
    trained = sum(parameter.numel() for parameter in adapter.parameters())
    frozen = sum(parameter.numel() for parameter in base.unet.parameters())
    copies = 5 if config.optimizer.ema_decay else 4  # weights, gradient, Adam's two, the average
    fixed = frozen * (4 if run.precision == "fp32" else 2) + trained * 4 * copies
    fixed += cache_bytes if config.cache.keep == "device" else 0
    size = run.micro_batch or run.batch_size
    flops = cost.flops * run.batch_size * run.max_steps
    hours = flops / (EFFICIENCY * operations_per_second) / 3600
    layers = len(list(adapter.ip_adapter.children()))
    epochs = run.batch_size * run.max_steps / dataset.stream.epoch_length
    return "\n".join(
        [
            f"trained     {trained:,} parameters: the image projection, and K', V' of {layers} "
            "layers",
            f"data        {len(dataset):,} pictures, each shown about {epochs:,.1f} times",
            f"caches      {_gigabytes(cache_bytes)}",
            f"memory      {_gigabytes(fixed)} for all that stays, and "
            f"{_gigabytes(cost.activation_bytes)} for each of {size} samples at once: "
            f"{_gigabytes(fixed + size * cost.activation_bytes)} in all",
            f"operations  {cost.flops / 1e12:.3f} TFLOP for a sample, "
            f"{cost.flops * run.batch_size / 1e12:.3f} for a step of {run.batch_size}",
            f"time        about {hours:,.1f} hours for {run.max_steps:,} steps on one device like "
            f"this, at {EFFICIENCY:.0%} of the {operations_per_second / 1e12:.1f} TFLOP/s that a "
            "matrix product reaches here",
        ]
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
