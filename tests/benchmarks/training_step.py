"""Times a training step: ours, the UNet's own part of it, and the reference trainer's.

    python tests/benchmarks/training_step.py --reference PATH-TO-IP-ADAPTER      # on a GPU
    python tests/benchmarks/training_step.py --reference PATH --narrow 5 --size 256 --batch 1 2 4

Random weights of SD v1.5's and ViT-H's shapes; with --narrow N all four networks are an Nth as
wide, so that their shares stay about the same on a machine too slow for them. The reference is
tutorial_train_plus.py of tencent-ailab/IP-Adapter, at its own defaults: every encoder runs in every
step, and the UNet stays float32 under autocast. All are timed in turn, in one process; on a CPU in
seconds of processor.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import findings
import machine
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from narrow import HEAD, heads, width
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import UNetShape
from training.ema import RunningAverage
from training.objective import noise_loss
from training.unet import AdaptedUNet

BOUND = "UNet alone"
TOKENS, PICTURE = 257, 224  # of ViT-H/14


class Networks:
    """The four frozen networks, an Nth as wide as the real ones."""

    def __init__(self, narrow: int, device: str) -> None:
        torch.manual_seed(0)
        channels = [width(full, narrow, 32) for full in (320, 640, 1280, 1280)]
        text, image = width(768, narrow, 96), width(1280, narrow, HEAD)
        self.unet = UNet2DConditionModel(
            block_out_channels=channels,
            cross_attention_dim=text,
            attention_head_dim=heads(8, narrow),
        )
        self.vae = AutoencoderKL(
            block_out_channels=[width(full, narrow, 32) for full in (128, 256, 512, 512)],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=text,
                intermediate_size=4 * text,
                num_hidden_layers=12,
                num_attention_heads=text // 64,
            )
        )
        self.image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=image,
                intermediate_size=4 * image,
                num_hidden_layers=32,
                num_attention_heads=image // HEAD,
                patch_size=14,
                image_size=PICTURE,
            )
        )
        self.resampler = ResamplerConfig(
            dim=text, heads=max(1, text // 64), embedding_dim=image, output_dim=text
        )
        for network in (self.unet, self.vae, self.text_encoder, self.image_encoder):
            torch.nn.Module.to(network, device).requires_grad_(False).eval()


def ours(nets: Networks, batch: int, side: int, precision: torch.dtype) -> Callable[[], None]:
    """One step of training/train.py on cached encodings."""
    device = nets.unet.device
    unet = torch.nn.Module.to(nets.unet, precision)
    shape = UNetShape.from_diffusers(unet.config)
    adapter = AnimeSketchAdapter.from_unet(shape, nets.resampler, dtype=torch.float32).to(device)
    model, average = AdaptedUNet(unet, adapter), RunningAverage(adapter, 0.999)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4, fused=True)
    features = torch.randn(batch, TOKENS, nets.resampler.embedding_dim, device=device)
    text = torch.randn(batch, 77, nets.resampler.output_dim, device=device)
    noise = torch.randn(batch, 4, side, side, device=device)
    timesteps = torch.arange(batch, device=device) * (1000 // batch)

    def step() -> None:
        predicted = model(noise, timesteps, text, features, torch.ones(batch), precision)
        noise_loss(predicted, noise).mean().backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(adapter, 1)

    return step


def bound(nets: Networks, batch: int, side: int, precision: torch.dtype) -> Callable[[], None]:
    """The UNet's forward and activation-backward pass alone."""
    device = nets.unet.device
    unet = torch.nn.Module.to(nets.unet, precision)
    text = torch.randn(batch, 77, nets.resampler.output_dim, device=device, dtype=precision)
    latents = torch.randn(batch, 4, side, side, device=device, dtype=precision)
    timesteps = torch.arange(batch, device=device) * (1000 // batch)

    def step() -> None:
        given = latents.clone().requires_grad_()
        unet(given, timesteps, text).sample.float().square().mean().backward()

    return step


def reference(
    nets: Networks, batch: int, side: int, precision: torch.dtype, checkout: Path
) -> Callable[[], None]:
    """One step of tutorial_train_plus.py, with its own modules."""
    sys.path.insert(0, str(checkout))
    package = types.ModuleType("ip_adapter")  # its own imports pipelines that new diffusers lack
    package.__path__ = [str(checkout / "ip_adapter")]
    sys.modules["ip_adapter"] = package
    from ip_adapter.attention_processor import (  # type: ignore[import-not-found]
        AttnProcessor2_0,
        IPAttnProcessor2_0,
    )
    from ip_adapter.resampler import Resampler  # type: ignore[import-not-found]
    from tutorial_train_plus import IPAdapter  # type: ignore[import-not-found]

    device, sizes = nets.unet.device, nets.resampler
    unet: Any = nets.unet.float()
    resampler = Resampler(
        dim=sizes.dim, depth=4, dim_head=64, heads=sizes.heads, num_queries=16,
        embedding_dim=sizes.embedding_dim, output_dim=sizes.output_dim, ff_mult=4,
    )  # fmt: skip
    processors = {}
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            processors[name] = AttnProcessor2_0()
            continue
        width = unet.get_submodule(f"{name.removesuffix('.processor')}.to_q").out_features
        processors[name] = IPAttnProcessor2_0(width, sizes.output_dim, num_tokens=16)
    unet.set_attn_processor(processors)
    modules = torch.nn.ModuleList(unet.attn_processors.values())
    model = IPAdapter(unet, resampler, modules).to(device)
    resampler.requires_grad_(True)
    modules.requires_grad_(True)
    trained = [*resampler.parameters(), *modules.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-2)
    for network in (nets.vae, nets.text_encoder, nets.image_encoder):
        torch.nn.Module.to(network, precision)
    scheduler: Any = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    pictures = torch.randn(batch, 3, 8 * side, 8 * side, device=device, dtype=precision)
    sketches = torch.randn(batch, 3, PICTURE, PICTURE, device=device, dtype=precision)
    ids = torch.randint(0, 1000, (batch, 77), device=device)

    def step() -> None:
        with torch.no_grad():
            latents = nets.vae.encode(pictures).latent_dist.sample() * 0.18215  # type: ignore[union-attr]
            hidden = nets.image_encoder(sketches, output_hidden_states=True).hidden_states[-2]
            text = nets.text_encoder(ids)[0]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (batch,), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            predicted = model(noisy, timesteps, text, hidden)
        F.mse_loss(predicted.float(), noise.float()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@dataclass(frozen=True)
class Cost:
    """Of one kind of step."""

    name: str
    size: int
    batch: int
    seconds: float  # the median
    ratio: float  # to the UNet alone, the median of the rounds


def measure(options: argparse.Namespace, size: int, batch: int) -> list[Cost]:
    """Times the steps in turn, after one each that does not count."""
    precision = torch.bfloat16 if options.precision == "bf16" else torch.float32
    arguments = (batch, size // 8, precision)

    def networks() -> Networks:
        return Networks(options.narrow, options.device)

    steps = {BOUND: bound(networks(), *arguments), "ours": ours(networks(), *arguments)}
    if options.reference:
        steps["reference"] = reference(networks(), *arguments, options.reference)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            seconds = machine.seconds(step, options.device)
            if number:
                taken[name].append(seconds)
    return [
        Cost(
            name,
            size,
            batch,
            statistics.median(seconds),
            statistics.median(a / b for a, b in zip(seconds, taken[BOUND], strict=True)),
        )
        for name, seconds in taken.items()
    ]


def report(options: argparse.Namespace, costs: Sequence[Cost]) -> None:
    alike = {(c.size, c.batch, c.name): c for c in costs}
    rows = []
    for cost in costs:
        mine = alike[cost.size, cost.batch, "ours"].seconds
        rows.append((cost.size, cost.batch, cost.name, f"{cost.seconds:.3f}",
                     f"{cost.batch / cost.seconds:.2f}", f"{cost.ratio:.2f}",
                     f"{cost.seconds / mine:.2f}"))  # fmt: skip
    over = "batch" if len(options.batch) > len(options.size) else "size"
    series = {
        name: [(getattr(c, over), c.seconds) for c in costs if c.name == name]
        for name in dict.fromkeys(c.name for c in costs)
    }
    parts = [
        f"{machine.name(options.device)}; {options.precision}, widths / {options.narrow}, "
        f"{options.rounds} rounds; on a CPU seconds of processor",
        findings.table(
            ("px", "batch", "step", "seconds", "samples a second", f"times the {BOUND}",
             "times ours"), rows
        ),
    ]  # fmt: skip
    if len(series[BOUND]) > 1:
        powers = ", ".join(f"{name} {findings.growth(line)}" for name, line in series.items())
        parts.append(f"A step's time grows with this power of the {over}: {powers}.")
    findings.publish(
        options.output,
        "A step of training",
        parts,
        lambda axes: findings.lines(axes, series, over, "seconds"),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = findings.parser(__doc__)
    parser.add_argument("--reference", type=Path, metavar="PATH", help="a checkout of IP-Adapter")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="sides in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--narrow", type=int, default=1, help="divide every width by this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    options = parser.parse_args(argv)
    costs = []
    for size, batch in itertools.product(options.size, options.batch):
        costs += measure(options, size, batch)
    report(options, costs)


if __name__ == "__main__":
    main()
