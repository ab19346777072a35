"""Do pictures follow prompt and reference? What CLIP says: CLIP score, Hessel's form, CLIP-I.

The paper's table 1 has the CLIP score with ViT-B/32. What another CLIP gives cannot be compared
with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from animesketchnet_core.contact_sheet import to_image
from animesketchnet_core.scores import clip_image_similarity, clip_score, clip_score_hessel
from training.models import fingerprint
from training.networks import check_sight

from ..cases import Pair
from .clip_network import ClipNetwork, open_clip_network
from .measure import Column

BATCH = 32  # pictures at once
PREFIX = "A photo depicts "  # Hessel et al., arXiv:2104.08718, section 3
VERSION = 1  # of what is below; another one measures anew


class ClipMeasure:
    """CLIP's similarities of pictures with their prompt and their reference.

    Attributes:
        recipe: the weights and how they are used.
        columns: what it gives.
    """

    columns: tuple[Column, ...] = (
        Column(
            "clip_score", "CLIP Score", 1,
            "100 x cosine of CLIP's embeddings of picture and prompt, no prefix, 0 to 100 "
            "(torchmetrics' CLIPScore; the paper's table 1, with ViT-B/32).",
            digits=2,
        ),
        Column(
            "clip_score_hessel", "CLIPScore (Hessel)", 1,
            f'2.5 x cosine of picture and "{PREFIX}" + prompt, 0 to 2.5 (arXiv:2104.08718).',
            digits=4,
        ),
        Column(
            "clip_i", "CLIP-I", 1,
            "Cosine of CLIP's embeddings of picture and reference, -1 to 1; 1 is the same picture "
            "to CLIP.",
            digits=4,
        ),
    )  # fmt: skip

    def __init__(self, network: ClipNetwork, device: torch.device) -> None:
        """Takes an open network; `open_clip_measure` opens one."""
        self._network = network
        self._device = device
        self.recipe = (
            f"clip {VERSION}, {network.description}, weights {fingerprint(network.model)}, float32"
        )

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Compares pictures [n, h, w, 3] with their pair; `clip_i` is NaN without a reference."""
        images = self.embed(pictures)
        alike = torch.full((len(images),), math.nan)
        if pair.reference is not None:
            alike = clip_image_similarity(images, self.embed(pair.reference_picture()))
        return {
            "clip_score": clip_score(images, self.embed_text(pair.prompt)),
            "clip_score_hessel": clip_score_hessel(images, self.embed_text(PREFIX + pair.prompt)),
            "clip_i": alike,
        }

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """Image embeddings, as the model gives them.

        Args:
            pictures: [n, h, w, 3] in [0, 1], on the CPU; of non-square ones the middle is seen.

        Returns:
            float32 [n, e] on the CPU, not normalised.
        """
        found = []
        for part in pictures.split(BATCH):
            pixels = torch.stack([self._network.prepare(to_image(picture)) for picture in part])
            with torch.autocast(self._device.type, enabled=False):
                found.append(self._network.see(pixels.to(self._device)).float().cpu())
        return torch.cat(found)

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """A text's embedding, float32 [1, e] on the CPU, not normalised."""
        tokens = self._network.tokens(text).to(self._device)
        with torch.autocast(self._device.type, enabled=False):
            return self._network.read(tokens).float().cpu()

    def truncated(self, prompt: str) -> int:
        """Counts the tokens at a prompt's end that CLIP does not read: it has places for 75.

        Hessel's prefix takes three of them.
        """
        return max(0, len(self._network.tokenize(prompt)) - self._network.places)


def open_clip_measure(source: str, setting: str, device: torch.device) -> ClipMeasure:
    """Opens CLIP and tries it.

    Args:
        source: a transformers folder of CLIPModel, or "ViT-B-32-quickgelu:FILE", open_clip's name
            and weight file.
        setting: that gave it, for messages.
        device: where it computes.

    Raises:
        ModelError: there is none, it is damaged, or not what it is said to be.
    """
    measure = ClipMeasure(open_clip_network(source, setting, device), device)
    tones = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 8, 8, 3)
    check_sight(lambda n: measure.embed(tones[n : n + 1]), setting, source)
    check_sight(
        lambda n: measure.embed_text(("a girl", "two dogs")[n]), setting, source, "sentence"
    )
    return measure
