"""The noise that a picture starts from: the same for every method, ComfyUI's sampler included.

ComfyUI draws a sampler's noise as `torch.manual_seed(seed)` and one `torch.randn` on the CPU
(comfy/sample.py, `prepare_noise`). Here it is drawn likewise, so that a KSampler with this seed, an
empty latent and a batch of one starts from these very numbers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .cases import Case


def noise_seed(case: Case) -> int:
    """Hashes the case's pair and seed to an integer from 0 to 2^48 - 1.

    Small enough for every program that holds numbers as floats, as ComfyUI's page does.
    """
    return int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:6], "big")


def noise(case: Case, channels: int, height: int, width: int) -> Tensor:
    """Draws a case's noise.

    Args:
        case: its pair's id and its seed alone decide.
        channels: of the latents, 4 for Stable Diffusion v1 and 16 for 3.
        height: of the latents.
        width: of the latents.

    Returns:
        Standard normal float32 [1, channels, height, width], on the CPU.
    """
    generator = torch.Generator().manual_seed(noise_seed(case))
    return torch.randn(1, channels, height, width, generator=generator)
