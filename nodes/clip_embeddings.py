"""Pictures and prompts as CLIP compares them: embeddings in the space that both share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..animesketchnet_core.clip_input import fit_sketch, pixel_values
from ..animesketchnet_core.image_features import ImageFeatures
from .encode import encode

WHOLE_CLIP = (
    "Connect Load CLIP (type stable_diffusion) and Load CLIP Vision with the same, whole CLIP: "
    "https://huggingface.co/openai/clip-vit-large-patch14/resolve/main/model.safetensors, put into "
    "ComfyUI/models/text_encoders and ComfyUI/models/clip_vision."
)


def deal_out(sketch: Tensor, count: int) -> Tensor:
    """One reference for each of `count` pictures, as Apply deals them out to latents."""
    return sketch[torch.arange(count) % len(sketch)]


def embed_pictures(clip_vision: Any, pictures: Tensor) -> Tensor:
    """Embeds pictures as CLIP would see them as references, whole and on white.

    Args:
        clip_vision: ComfyUI's CLIP_VISION.
        pictures: [n, h, w, c], float in [0, 1].

    Returns:
        Image embeddings [n, e], float32 on the CPU.
    """
    pixels = pixel_values(fit_sketch(pictures, clip_vision.image_size))
    return encode(clip_vision, pixels, ImageFeatures.IMAGE_EMBEDDING).cpu()


def embed_prompt(clip: Any, prompt: str, width: int) -> tuple[Tensor, int]:
    """Embeds a prompt: the pooled text, projected into the space of image embeddings.

    Weights such as (hat:1.3) count as 1, for CLIP scores know none.

    Args:
        clip: ComfyUI's CLIP.
        prompt: only its first 75 tokens (and start and end) are read.
        width: of the image embeddings that it is to be compared with.

    Returns:
        The embedding [1, width], float32 on the CPU, and how many tokens were not read.

    Raises:
        ValueError: it is no CLIP, of another size, or without its projection.
    """
    windows = clip.tokenize(prompt)
    first = {key: [[(entry[0], 1.0) for entry in rows[0]]] for key, rows in windows.items()}
    _, pooled = clip.encode_from_tokens(first, return_pooled="unprojected")
    name, tower = _tower(clip, pooled)
    projection = tower.transformer.text_projection
    _check_projection(projection.weight, width)
    embedding = projection(pooled.float().to(clip.patcher.load_device)).float().cpu()
    special = set(tower.special_tokens.values())  # start, end and padding of each window
    lost = [entry[0] for window in windows[name][1:] for entry in window]
    return embedding, sum(torch.is_tensor(token) or token not in special for token in lost)


def _tower(clip: Any, pooled: Tensor | None) -> tuple[str, Any]:
    """Finds the text encoder that `pooled` [1, e] came from; ComfyUI names its tokens by it."""
    wanted = None if pooled is None else pooled.shape[-1]
    for name, tower in clip.cond_stage_model.named_children():
        projection = getattr(getattr(tower, "transformer", None), "text_projection", None)
        if isinstance(projection, nn.Linear) and projection.in_features == wanted:
            return name.removeprefix("clip_"), tower
    raise ValueError(
        "Score Picture, input clip: this is not the text half of one CLIP, which alone can be "
        f"compared with pictures. {WHOLE_CLIP}"
    )


def _check_projection(weight: Tensor, width: int) -> None:
    """Refuses a projection [to, from] into another space, and one that no file has filled."""
    if len(weight) != width:
        raise ValueError(
            f"Score Picture: the embeddings of clip are {len(weight)} wide, those of clip_vision "
            f"{width}, so they are halves of different CLIPs. {WHOLE_CLIP}"
        )
    # Without one in the file, ComfyUI leaves the identity there, or what the memory held before:
    # zeros, other numbers. CLIP starts from rows and columns of norm 1 (openai/CLIP, model.py).
    weight = weight.float()
    norms = torch.cat([weight.norm(dim=0), weight.norm(dim=1)])
    usual = ((norms > 0.01) & (norms < 100)).all()  # False for NaN, too
    if not usual or torch.equal(weight, torch.eye(width).to(weight)):
        raise ValueError(
            "Score Picture, input clip: its text projection is missing, without which texts "
            "cannot be compared with pictures. Stable Diffusion checkpoints and the usual "
            f"clip_l.safetensors drop it. {WHOLE_CLIP}"
        )
