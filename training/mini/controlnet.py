"""ControlNet (Zhang et al. 2023, arXiv:2302.05543) for the mini world, a rival of the adapter.

A trainable copy of the UNet's encoder reads the lines of a picture and adds to the frozen UNet
what they say. It learns from pictures and their own lines, so that it draws where lines are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from training.evaluation.methods.controlnet import control_image
from training.models import Base
from training.objective import add_noise, loss_weights, noise_loss

from .autoencoder import rate
from .styles import PICTURE_SIZE
from .workspace import Progress, load_states, seeded

BATCH = 48  # as the adapter's, see configs/mini.toml
LEARNING_RATE = 1e-3
WARM_UP = 100
NO_CAPTION = 0.1
MIN_SNR_GAMMA = 5.0


def train_controlnet(
    base: Base,
    latents: Tensor,
    pictures: Tensor,
    captions: Sequence[list[str]],
    workspace: Path,
    steps: int,
    seed: int = 8,
) -> ControlNetModel:
    """Trains, or goes on training, a ControlNet on a frozen base.

    Args:
        base: the frozen base.
        latents: [n, 4, 16, 16] of unit variance.
        pictures: [n, 3, 128, 128] uint8, which the latents are of.
        captions: of each picture, one or more.
        workspace: folder of the checkpoint.
        steps: number of steps in all.
        seed: of order, noise, timesteps and dropped captions.

    Returns:
        The averaged ControlNet.
    """
    torch.manual_seed(seed)
    model = new_controlnet(base)
    for part in (base.unet, model):
        part.set_attn_processor(AttnProcessor())  # on the CPU its backward beats SDPA's by far
    average = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    weights = loss_weights(base.alphas_cumprod, MIN_SNR_GAMMA)  # [1000]
    no_text = base.encode_text([""])  # [1, 77, t]
    progress = Progress(workspace / "controlnet.pt", steps)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    bar = progress.loop(progress.restore(**parts), **parts)
    for step in bar:
        generator = seeded(seed, step)
        chosen = torch.randint(len(latents), (BATCH,), generator=generator).tolist()
        wording = torch.rand(BATCH, generator=generator).tolist()
        texts = [
            captions[k][int(share * len(captions[k]))]
            for k, share in zip(chosen, wording, strict=True)
        ]
        silent = torch.rand(BATCH, 1, 1, generator=generator) < NO_CAPTION
        text = torch.where(silent, no_text, base.encode_text(texts))
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator)
        noisy = add_noise(latents[chosen].float(), noise, base.alphas_cumprod[timesteps])
        with torch.autocast("cpu", torch.bfloat16):
            shown = pictures[chosen].movedim(1, -1) / 255  # [b, 128, 128, 3]
            lines = control_image(shown, "lineart", (PICTURE_SIZE, PICTURE_SIZE))
            residuals = model(noisy, timesteps, text, lines)
            predicted = base.unet(
                noisy.to(base.unet.dtype), timesteps, text.to(base.unet.dtype),
                down_block_additional_residuals=residuals.down_block_res_samples,
                mid_block_additional_residual=residuals.mid_block_res_sample,
            ).sample  # fmt: skip
        loss = (noise_loss(predicted, noise) * weights[timesteps]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(step, steps, WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        if step % 10 == 0:
            bar.show(loss=loss.item())
    return load_controlnet(base, workspace)


def new_controlnet(base: Base) -> ControlNetModel:
    """A ControlNet that starts as a copy of the base's encoder and adds nothing yet."""
    return ControlNetModel.from_unet(base.unet).float()


def load_controlnet(base: Base, workspace: Path) -> ControlNetModel:
    """The averaged ControlNet, as far as it is trained."""
    model = new_controlnet(base)
    average: Any = EMAModel(model.parameters())
    load_states(workspace / "controlnet.pt", average=average)
    average.copy_to(model.parameters())
    return model.eval()
