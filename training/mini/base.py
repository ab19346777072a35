"""The mini world's base: a UNet and a text encoder in SD v1.5's form, which draw from captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.objective import loss_weights

from .autoencoder import rate
from .workspace import Progress, seeded

UNET_CONFIG = {
    "sample_size": 16,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 128,
    "attention_head_dim": (2, 4, 6),  # diffusers' name for the number of heads: 32 wide each
}
SCHEDULER_CONFIG = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
BATCH = 64
LEARNING_RATE = 1e-3
WARM_UP = 100
MIN_SNR_GAMMA = 5.0
HIGH_NOISE_WEIGHT = 10.0  # at most
NO_CAPTION = 0.1  # share of pictures drawn without one, for classifier-free guidance


class Base(nn.Module):
    """The UNet and its text encoder, trained together."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET_CONFIG)
        self.unet.set_attn_processor(AttnProcessor())  # on the CPU its backward beats SDPA's by far
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The noise in latents [b, 4, 16, 16] at timesteps [b], given tokens [b, 77]."""
        text = self.text_encoder(ids).last_hidden_state  # b 77 128
        return self.unet(noisy, timesteps, text).sample


def train_base(
    base: Base,
    latents: Tensor,
    captions: Tensor,
    no_caption: Tensor,
    workspace: Path,
    steps: int,
    seed: int = 4,
) -> Base:
    """Trains, or goes on training, the base.

    Args:
        base: as it starts: its text encoder from the image-text encoder's.
        latents: [n, 4, 16, 16] of unit variance.
        captions: [n, c, 77] tokens of each picture's captions.
        no_caption: [77] tokens of the empty caption.
        workspace: folder of the checkpoint.
        steps: number of steps in all.
        seed: of order, noise and timesteps.

    Returns:
        The averaged base.
    """
    average = EMAModel(base.parameters(), decay=0.9985, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(
        base.parameters(), weight_decay=0.01, betas=(0.9, 0.99), fused=True
    )
    alphas_cumprod = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod
    # Without more weight at high noise, faces looked left or right by chance.
    weights = loss_weights(alphas_cumprod, MIN_SNR_GAMMA, HIGH_NOISE_WEIGHT)  # [1000]
    noises: Any = DDIMScheduler(**SCHEDULER_CONFIG)  # its types ask for IntTensor timesteps
    progress = Progress(workspace / "base.pt", steps)
    parts = {"base": base, "average": average, "optimizer": optimizer}
    bar = progress.loop(progress.restore(**parts), **parts)
    recent = 0.0
    for step in bar:
        generator = seeded(seed, step)
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        wording = torch.randint(captions.shape[1], (BATCH,), generator=generator)
        silent = torch.rand(BATCH, generator=generator) < NO_CAPTION
        ids = torch.where(silent[:, None], no_caption, captions[chosen, wording])
        # One timestep from each of 64 equal parts of the schedule: less variance than free draws.
        strata = torch.arange(BATCH) + torch.rand(BATCH, generator=generator)
        timesteps = (strata * 1000 / BATCH).long().clamp(max=999)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator)
        noisy = noises.add_noise(latents[chosen].float(), noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = base(noisy, timesteps, ids).float()
        loss = (
            F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3)) * weights[timesteps]
        ).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(step, steps, WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
        average.step(base.parameters())
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 10 == 0:
            bar.show(loss=recent)
    average.copy_to(base.parameters())
    return base.eval()
