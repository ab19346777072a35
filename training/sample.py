"""DDIM sampling with classifier-free guidance over text and sketch together.

    z_{t-1} = sqrt(a_{t-1}) (z_t - sqrt(1 - a_t) eps) / sqrt(a_t) + sqrt(1 - a_{t-1}) eps

Song et al. 2020 (arXiv:2010.02502), eq. 12 with sigma = 0, with Stable Diffusion v1's timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter

from .models import Base
from .unet import Sketch, install

# (noisy [n, 4, h, w], timesteps [n], text [n, 77, t]) to what is added to the UNet's skip
# connections, and to its middle block.
Residuals = Callable[[Tensor, Tensor, Tensor], tuple[tuple[Tensor, ...], Tensor]]


@torch.no_grad()
def ddim_sample(
    base: Base,
    adapter: AnimeSketchAdapter | None,
    text: Sequence[str] | Tensor,
    features: Tensor | None,
    no_features: Tensor | None,
    alpha: float | Tensor,
    noise: Tensor,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    batch: int = 64,
    control: Callable[[slice], Residuals] | None = None,
) -> Tensor:
    """Draws pictures, as latents; `base.decode_latents` makes them visible.

    The UNet computes in its weights' type (`base.to(device, torch.bfloat16)` is fastest where the
    processor has bfloat16 units); the latents stay float32.

    Args:
        base: the frozen model.
        adapter: K', V' and Resampler; None draws from the text alone.
        text: b prompts, or their embeddings [b, 77, t].
        features: the references' penultimate CLIP features [b, n, e].
        no_features: the same of "no sketch" [1, n, e], for guidance.
        alpha: strength of the sketch, one number or [b]; 0.0 leaves the adapter out.
        noise: the start [b, 4, h, w]; equal noise gives equal pictures, whatever the batch.
        steps: DDIM steps.
        guidance: 1 follows the conditions as they are, more exaggerates them.
        batch: pictures that are drawn at once.
        control: a ControlNet's part: of the b pictures it gets those that are drawn at once. With
            guidance both halves, "no text" and text, go through what it returns.

    Returns:
        float32 latents [b, 4, h, w], scaled as the UNet sees them.
    """
    embedded = text if isinstance(text, Tensor) else base.encode_text(text)
    strength = torch.as_tensor(alpha, dtype=torch.float32).expand(len(noise))  # [b]
    silent = adapter is None or not strength.any()
    parts = []
    for start in range(0, len(noise), batch):
        chosen = slice(start, start + batch)
        conditions = _text_pair(base, embedded[chosen], guidance)
        sketch = None
        if not silent:
            if adapter is None or features is None or no_features is None:
                raise ValueError("alpha is not 0, so features and no_features are needed.")
            sketch = _sketch(
                base, adapter, features[chosen], no_features, strength[chosen], guidance
            )
        residuals = None if control is None else control(chosen)
        parts.append(_denoise(base, conditions, sketch, residuals, noise[chosen], steps, guidance))
    return torch.cat(parts)


def ddim_timesteps(steps: int, total: int = 1000) -> list[int]:
    """Lists Stable Diffusion v1's DDIM timesteps, noisiest first ("leading", steps_offset 1)."""
    if not 1 <= steps < total:
        raise ValueError(f"DDIM needs 1 to {total - 1} steps, got {steps}.")
    stride = total // steps
    return [stride * i + 1 for i in reversed(range(steps))]


def _denoise(
    base: Base,
    text: Tensor,
    sketch: Sketch | None,
    residuals: Residuals | None,
    noise: Tensor,
    steps: int,
    guidance: float,
) -> Tensor:
    alphas, dtype = base.alphas_cumprod, base.unet.dtype
    latents = noise.to(base.device, torch.float32)
    copies = len(text) // len(latents)  # 2 with guidance: unconditional, then conditional
    stride = len(alphas) // steps
    for t in ddim_timesteps(steps, len(alphas)):
        now, then = alphas[t], alphas[max(t - stride, 0)]  # set_alpha_to_one is False in SD v1
        both = latents.repeat(copies, 1, 1, 1).to(dtype)
        timestep = torch.full((len(both),), t, device=latents.device)
        down, middle = (None, None) if residuals is None else residuals(both, timestep, text)
        predicted = base.unet(
            both,
            timestep,
            text,
            cross_attention_kwargs=None if sketch is None else sketch.kwargs(),
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].float()
        if copies == 2:
            without, given = predicted.chunk(2)
            predicted = without + guidance * (given - without)
        clean = (latents - (1 - now).sqrt() * predicted) / now.sqrt()
        latents = then.sqrt() * clean + (1 - then).sqrt() * predicted
    return latents


def _text_pair(base: Base, text: Tensor, guidance: float) -> Tensor:
    """Joins "no text" and text for one UNet call: [2 b, 77, t], or [b, 77, t] without guidance."""
    text = text.to(base.device, base.unet.dtype)
    if guidance == 1:
        return text
    no_text = base.encode_text([""]).to(text).expand_as(text)
    return torch.cat([no_text, text])


def _sketch(
    base: Base,
    adapter: AnimeSketchAdapter,
    features: Tensor,
    no_features: Tensor,
    alpha: Tensor,
    guidance: float,
) -> Sketch:
    """Computes K', V' once for all steps, and makes the UNet able to take them."""
    device = base.device
    tokens = adapter.tokens(features.to(device).float())  # [b, m, t]
    if guidance != 1:
        no_tokens = adapter.tokens(no_features.to(device).float())
        tokens = torch.cat([no_tokens.expand_as(tokens), tokens])
        alpha = alpha.repeat(2)
    dtype = base.unet.dtype
    keys_values = {
        index: (key.to(dtype), value.to(dtype))
        for index, (key, value) in adapter.keys_values(tokens).items()
    }
    install(base.unet)
    return Sketch(keys_values, alpha.to(device, dtype).view(-1, 1, 1))
