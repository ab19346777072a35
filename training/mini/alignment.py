"""The mini world's CLIP, which says how well a picture goes with a text: for measuring only.

The picture's side is the embedded image encoder. The text encoder was trained to guide the UNet
since, so it gets a projection of its own, from its pooled state into the image embeddings' space,
trained on pictures and their captions while all else is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm, trange
from transformers import CLIPModel

from animesketchnet_core.clip_input import pixel_values
from animesketchnet_core.files import write_safetensors
from animesketchnet_core.mini import MINI_FOLDER, TEXT_PROJECTION, load_text_projection
from training.evaluation.measures.clip import ClipMeasure
from training.evaluation.measures.clip_network import from_model
from training.models import clip_tokenizer

from .bundle import read_image_encoder
from .encoder import IMAGE_SIZE, SketchCLIP
from .workspace import seeded

BATCH = 256
LEARNING_RATE = 3e-3
ENCODED_AT_ONCE = 100


def load_clip(bundle: Path) -> CLIPModel:
    """Puts the mini world's CLIP together, with a random text projection."""
    torch.manual_seed(9)
    model = SketchCLIP()
    read_image_encoder(model, bundle)
    return model.clip.eval().requires_grad_(False)


def open_mini_clip(device: torch.device) -> ClipMeasure:
    """CLIP score and CLIP-I of the mini world; not to be compared with those of ViT-B/32."""
    clip: Any = load_clip(MINI_FOLDER)
    clip.text_projection.weight.copy_(load_text_projection())
    network = from_model("the mini world's", clip.to(device), clip_tokenizer())
    return ClipMeasure(network, device)


def train_text_projection(
    bundle: Path, pictures: Tensor, captions: Sequence[list[str]], steps: int, seed: int = 9
) -> None:
    """Trains the projection of texts into the pictures' space, and writes it into the bundle.

    Args:
        bundle: folder of the mini models.
        pictures: [n, 3, 128, 128] uint8.
        captions: of each picture, equally many; each step draws one.
        steps: of 256 pictures each.
        seed: of the order.
    """
    clip = load_clip(bundle)
    images, texts = _embed(clip, pictures), _read(clip, captions)  # [n, e], [n, c, t]
    projection = clip.text_projection.requires_grad_(True)
    scale = torch.tensor(2.66, requires_grad=True)  # CLIP's own start: exp is 14.3
    optimizer = torch.optim.AdamW([projection.weight, scale], lr=LEARNING_RATE, fused=True)
    with tqdm(range(steps), desc="alignment") as bar:
        for step in bar:
            generator = seeded(seed, step)
            chosen = torch.randint(len(images), (BATCH,), generator=generator)
            wording = torch.randint(texts.shape[1], (BATCH,), generator=generator)
            said = F.normalize(projection(texts[chosen, wording]), dim=1)
            loss = _contrastive(images[chosen], said, scale)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    weights = {"weight": projection.weight.detach().half().contiguous()}
    write_safetensors(bundle / TEXT_PROJECTION, weights)


def _contrastive(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss of unit vectors [b, e]; equal texts are each other's match."""
    logits = scale.exp().clamp(max=100) * images @ texts.T  # [b, b]
    same = (texts @ texts.T > 0.9999).float()
    match = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


@torch.no_grad()
def _embed(clip: CLIPModel, pictures: Tensor) -> Tensor:
    """Unit embeddings of the pictures [n, e]."""
    found = []
    for part in tqdm(pictures.split(ENCODED_AT_ONCE), desc="pictures"):
        fitted = F.interpolate(part.float() / 255, IMAGE_SIZE, mode="bicubic", antialias=True)
        pixels = pixel_values(fitted.clamp(0, 1).permute(0, 2, 3, 1))
        vision = clip.vision_model(pixels).pooler_output
        found.append(F.normalize(clip.visual_projection(vision), dim=1))
    return torch.cat(found)


@torch.no_grad()
def _read(clip: CLIPModel, captions: Sequence[list[str]]) -> Tensor:
    """The captions' pooled states [n, c, t]."""
    tokenizer, found = clip_tokenizer(), []
    words = [caption for several in captions for caption in several]
    for start in trange(0, len(words), ENCODED_AT_ONCE, desc="captions"):
        part = words[start : start + ENCODED_AT_ONCE]
        ids = tokenizer(part, return_tensors="pt", padding=True).input_ids
        found.append(clip.text_model(ids).pooler_output)
    return torch.cat(found).unflatten(0, (len(captions), -1))
