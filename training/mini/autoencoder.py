"""The mini world's autoencoder: SD's AutoencoderKL, narrow, trained on line art from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from .workspace import Progress, seeded

SCALING_FACTOR = 0.18215  # SD v1.5's: latents of unit variance are encodings times this
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,  # ComfyUI's classes know no other number
    "sample_size": 128,
    "scaling_factor": SCALING_FACTOR,
}
LEARNING_RATE = 1e-3
WARM_UP = 100
# In place of a KL term, which switches channels off: each channel is held at unit variance, and the
# decoder sees it with this much noise, so that near latents draw alike.
NOISE = 0.05
SPREAD_WEIGHT = 0.02
CROP, CROPS = 64, 24  # training begins with parts of pictures: more lines for the time
WHOLE_SHARE = 0.75  # the last share of the steps sees whole pictures, 6 at a time


def new_autoencoder(seed: int = 2) -> AutoencoderKL:
    """An untrained autoencoder."""
    torch.manual_seed(seed)
    return AutoencoderKL(**CONFIG)


def train_autoencoder(
    model: AutoencoderKL, pictures: Tensor, workspace: Path, steps: int, seed: int = 2
) -> AutoencoderKL:
    """Trains, or goes on training, the autoencoder.

    Args:
        model: as it starts.
        pictures: [n, 3, 128, 128] uint8.
        workspace: folder of the checkpoint.
        steps: number of steps in all.
        seed: of order and crops.

    Returns:
        The averaged autoencoder, rescaled so that its latents have unit variance.
    """
    _train(
        model,
        list(model.parameters()),
        pictures,
        Progress(workspace / "autoencoder.pt", steps),
        seed,
    )
    return rescale(model.eval(), pictures[:: max(1, len(pictures) // 400)])


def train_decoder(
    model: AutoencoderKL, pictures: Tensor, workspace: Path, steps: int, seed: int = 12
) -> AutoencoderKL:
    """Trains the decoder alone, for crisper pictures of the latents that the base has learned.

    As Stability AI did for SD v1 (sd-vae-ft-mse); latents, base and adapter stay as they are.

    Args:
        model: a trained autoencoder, whose encoder is kept.
        pictures: [n, 3, 128, 128] uint8.
        workspace: folder of the checkpoint.
        steps: number of steps in all.
        seed: of order and crops.

    Returns:
        The autoencoder with the averaged decoder.
    """
    model.requires_grad_(False)
    trained = [*model.decoder.requires_grad_(True).parameters()]
    _train(model, trained, pictures, Progress(workspace / "decoder.pt", steps), seed)
    return model.eval()


def _train(
    model: AutoencoderKL,
    trained: list[nn.Parameter],
    pictures: Tensor,
    progress: Progress,
    seed: int,
) -> None:
    """Trains some of the model's weights and leaves their average in the model."""
    model.set_attn_processor(AttnProcessor())  # on the CPU its backward beats SDPA's by far
    average = EMAModel(trained, decay=0.998, use_ema_warmup=True)
    optimizer = torch.optim.AdamW(trained, weight_decay=0.01, betas=(0.9, 0.95), fused=True)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    bar = progress.loop(progress.restore(**parts), **parts)
    for step in bar:
        batch = draw_batch(pictures, step, progress.steps, seed)
        with torch.autocast("cpu", torch.bfloat16):
            latents = posterior(model, batch).mean.float()
            noise = torch.randn(latents.shape, generator=seeded(seed, step, 1))
            drawn = draw(model, latents + noise * (NOISE / SCALING_FACTOR))
        spread = latents.std((0, 2, 3)) * SCALING_FACTOR  # of each channel, 1 is asked
        loss = line_loss(drawn, batch) + SPREAD_WEIGHT * (spread - 1).square().sum()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(step, progress.steps, WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
        average.step(trained)
        if step % 20 == 0:
            bar.show(loss=loss.item(), l1=F.l1_loss(drawn, batch).item())
    average.copy_to(trained)


def rate(step: int, steps: int, warm_up: int) -> float:
    """The share of the learning rate at a step: linear warm-up, then cosine down to 2%."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))


def draw_batch(pictures: Tensor, step: int, steps: int, seed: int) -> Tensor:
    """The pictures of one step in [-1, 1]: [24, 3, 64, 64] crops, at last [6, 3, 128, 128]."""
    generator = seeded(seed, step)
    whole = step >= steps * (1 - WHOLE_SHARE)
    count = CROPS * CROP**2 // 128**2 if whole else CROPS
    chosen = torch.randint(len(pictures), (count,), generator=generator)
    batch = pictures[chosen]
    if not whole:
        corners = torch.randint(128 - CROP + 1, (count, 2), generator=generator).tolist()
        batch = torch.stack(
            [p[:, y : y + CROP, x : x + CROP] for p, (y, x) in zip(batch, corners, strict=True)]
        )
    return batch.float() / 127.5 - 1


def line_loss(drawn: Tensor, target: Tensor) -> Tensor:
    """L1 of the picture, and of its details at three sizes, which keeps lines crisp."""
    loss = F.l1_loss(drawn, target)
    for _ in range(3):
        smaller_drawn, smaller_target = F.avg_pool2d(drawn, 2), F.avg_pool2d(target, 2)
        drawn_detail, target_detail = (
            picture - F.interpolate(smaller, scale_factor=2, mode="bilinear")
            for picture, smaller in ((drawn, smaller_drawn), (target, smaller_target))
        )
        loss = loss + F.l1_loss(drawn_detail, target_detail)
        drawn, target = smaller_drawn, smaller_target
    return loss


def posterior(model: AutoencoderKL, pictures: Tensor) -> Any:
    """The distribution of the pictures' latents (diffusers types what encode returns wrongly)."""
    return cast(Any, model.encode(pictures)).latent_dist


def draw(model: AutoencoderKL, latents: Tensor) -> Tensor:
    """The pictures of unscaled latents, [-1, 1] float32 (diffusers types decode wrongly too)."""
    return cast(Any, model).decode(latents).sample.float()


@torch.inference_mode()
def encode(model: AutoencoderKL, pictures: Tensor, batch: int = 16) -> Tensor:
    """The latents that a diffusion model sees (means, scaled): [n, 4, 16, 16] float32."""
    latents = []
    for part in tqdm(
        pictures.split(batch), desc="latents", mininterval=10, disable=len(pictures) < 1000
    ):
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(posterior(model, part.float() / 127.5 - 1).mean.float())
    return torch.cat(latents) * SCALING_FACTOR


@torch.inference_mode()
def decode(model: AutoencoderKL, latents: Tensor, batch: int = 32) -> Tensor:
    """The pictures of latents: [n, 3, 128, 128] in [0, 1]."""
    pictures = []
    for part in latents.split(batch):
        with torch.autocast("cpu", torch.bfloat16):
            pictures.append(draw(model, part / SCALING_FACTOR))
    return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1)


@torch.inference_mode()
def rescale(model: AutoencoderKL, pictures: Tensor) -> AutoencoderKL:
    """Folds each channel's mean and deviation into the 1 x 1 convolutions round the latents.

    SD's scaling factor then gives latents of zero mean and unit variance, as its users expect. The
    base learns from the means, so the posterior's spread, which trainers draw from, is taken out.
    """
    latents = encode(model, pictures) / SCALING_FACTOR
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * SCALING_FACTOR
    layers = cast(Any, model)  # diffusers types both as optional
    quant, post = layers.quant_conv, layers.post_quant_conv
    quant.bias[:4] = (quant.bias[:4] - mean) / deviation
    quant.weight[:4] /= deviation[:, None, None, None]
    quant.bias[4:], quant.weight[4:] = -30, 0  # the log of the variance; -30 is its lower bound
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= deviation[None, :, None, None]
    return model
