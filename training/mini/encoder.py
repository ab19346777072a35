"""The mini world's image-text encoder: a small CLIP, trained on pictures and their exact captions.

Beside CLIP's contrast both towers learn to answer every question about the picture, and the vision
tower to redraw each patch. Contrast alone learns slowly what seldom decides between the captions of
a batch: after 1,300 steps its text tower had all but ignored the direction of the face.

Its vision tower is what the adapter reads, at the penultimate layer; its text tower is where the
base's text encoder starts from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from animesketchnet_core.clip_input import pixel_values

from .autoencoder import rate
from .questions import QUESTIONS
from .workspace import Progress, load_states, seeded

WIDTH = 128  # of the text, and of the shared embedding
TEXT_CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "projection_dim": WIDTH,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
VISION_CONFIG = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "image_size": 112,
    "patch_size": 14,
    "projection_dim": WIDTH,
    "hidden_act": "gelu",
}
IMAGE_SIZE = VISION_CONFIG["image_size"]
BATCH = 64
LEARNING_RATE = 1e-3
WARM_UP = 100
REDRAWING_WEIGHT = 1.0
NAMING_WEIGHT = 2.0


class SketchCLIP(nn.Module):
    """CLIP, and linear maps that train it: they redraw each patch, and answer QUESTIONS.

    Pictures answer from the mean of the penultimate layer, which the adapter reads; captions from
    their pooled state. Captions do not name eyes, noses or mouths; having to redraw them keeps
    them in the features.
    """

    def __init__(self) -> None:
        super().__init__()
        config: Any = CLIPConfig(
            text_config=TEXT_CONFIG, vision_config=VISION_CONFIG, projection_dim=WIDTH
        )
        text, vision = config.text_config, config.vision_config
        self.clip = CLIPModel._from_config(
            config,
            attn_implementation="eager",  # on the CPU its backward beats SDPA's by far
        )
        self.redraw = nn.Linear(vision.hidden_size, 3 * vision.patch_size**2)
        self.name_picture = nn.Linear(vision.hidden_size, sum(QUESTIONS.values()))
        self.name_caption = nn.Linear(text.hidden_size, sum(QUESTIONS.values()))

    def loss(self, pixels: Tensor, ids: Tensor, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The contrastive, the redrawing and the naming loss.

        Args:
            pixels: [b, 3, 112, 112].
            ids: tokens of the captions [b, 77].
            answers: indices [b, len(QUESTIONS)].
        """
        vision = self.clip.vision_model(pixels, output_hidden_states=True)
        images = F.normalize(self.clip.visual_projection(vision.pooler_output), dim=-1)
        captions = self.clip.text_model(ids).pooler_output  # b 128
        texts = F.normalize(self.clip.text_projection(captions), dim=-1)
        logits = self.clip.logit_scale.exp().clamp(max=100) * images @ texts.T  # b b
        # Pictures that share a caption are each other's match.
        same = (ids[:, None] == ids[None]).all(-1).float()
        match = same / same.sum(1, keepdim=True)
        contrastive = F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)
        patch = VISION_CONFIG["patch_size"]
        patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2)  # b 64 588
        features = vision.hidden_states[-2][:, 1:]  # b 64 192
        redrawing = F.l1_loss(self.redraw(features), patches)
        naming = naming_loss(self.name_picture(features.mean(1)), answers)
        naming = naming + naming_loss(self.name_caption(captions), answers)
        return contrastive / 2, redrawing, naming


def naming_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """The cross-entropy of all questions together.

    Args:
        logits: those of one question after those of another [b, sum of QUESTIONS].
        answers: indices [b, len(QUESTIONS)].
    """
    parts = logits.float().split(list(QUESTIONS.values()), dim=1)
    return torch.stack([F.cross_entropy(part, answers[:, k]) for k, part in enumerate(parts)]).sum()


def train_encoder(
    model: SketchCLIP,
    pictures: Tensor,
    ids: Tensor,
    answers: Tensor,
    workspace: Path,
    steps: int,
    seed: int = 3,
) -> SketchCLIP:
    """Trains, or goes on training, the image-text encoder.

    Args:
        model: as it starts.
        pictures: [n, 3, 128, 128] uint8.
        ids: [n, 77] tokens of captions that name everything.
        answers: [n, len(QUESTIONS)] indices.
        workspace: folder of the checkpoint.
        steps: number of steps in all.
        seed: of order and framing.

    Returns:
        The averaged encoder.
    """
    # Attention is causal and the end token is read: what follows the longest caption is padding.
    ids = ids[:, : int((ids != TEXT_CONFIG["pad_token_id"]).sum(1).max()) + 1]
    average = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True)
    # Muon (torch 2.9) turns the layers' matrices, AdamW all else: where AdamW alone named 50% of
    # the hair variants after 400 steps, the two named 66%.
    layers = [model.clip.vision_model.encoder, model.clip.text_model.encoder]
    matrices = [weight for part in layers for weight in part.parameters() if weight.ndim == 2]
    turned = set(matrices)
    others = [weight for weight in model.parameters() if weight not in turned]
    optimizers = {
        "muon": torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(others, weight_decay=0.05, betas=(0.9, 0.98), fused=True),
    }
    progress = Progress(workspace / "encoder.pt", steps)
    parts = {"model": model, "average": average, **optimizers}
    bar = progress.loop(progress.restore(**parts), **parts)
    for step in bar:
        chosen = torch.randint(len(pictures), (BATCH,), generator=seeded(seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            pixels = frame(pictures[chosen], seed, step)
            contrastive, redrawing, naming = model.loss(pixels, ids[chosen], answers[chosen])
        (contrastive + REDRAWING_WEIGHT * redrawing + NAMING_WEIGHT * naming).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate(step, steps, WARM_UP)
            optimizer.step()
            optimizer.zero_grad()
        average.step(model.parameters())
        if step % 20 == 0:
            bar.show(
                contrastive=contrastive.item(), redrawing=redrawing.item(), naming=naming.item()
            )
    return load_encoder(workspace)


def load_encoder(workspace: Path) -> SketchCLIP:
    """The averaged image-text encoder, as far as it is trained."""
    model = SketchCLIP()
    average = EMAModel(model.parameters())
    load_states(workspace / "encoder.pt", average=average)
    average.copy_to(model.parameters())
    return model.eval()


def frame(pictures: Tensor, seed: int, step: int) -> Tensor:
    """CLIP's input of pictures that are shifted and scaled a little, as users' sketches are.

    Args:
        pictures: [b, 3, 128, 128] uint8.
        seed: of the framing.
        step: of the framing.

    Returns:
        [b, 3, 112, 112] normalised for CLIP.
    """
    chance = torch.rand(len(pictures), 3, generator=seeded(seed, step, 1))
    scale = 1.0 + 0.3 * (chance[:, 0] - 0.35)  # 0.9 to 1.2: above 1 shows the picture smaller
    theta = torch.zeros(len(pictures), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = (chance[:, 1:] - 0.5) * 0.16
    size = [len(pictures), 3, IMAGE_SIZE, IMAGE_SIZE]
    grid = F.affine_grid(theta, size, align_corners=False)
    framed = F.grid_sample(
        pictures.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return pixel_values(framed.permute(0, 2, 3, 1))
