"""How well pictures match texts and other pictures, from the embeddings that CLIP makes of them.

All are cosines of embeddings that are paired row by row; a single text or reference goes with every
picture. Figures of different CLIP models cannot be compared: name the model beside them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """CLIP score as torchmetrics' `CLIPScore` has it: 100 x cosine, 0 where that is negative.

    The AnimeSketchNet paper's 30.66 is of this form; Hessel's would be 0.77.

    Args:
        images: image embeddings [n, e].
        texts: text embeddings [n, e], or [1, e] for all.

    Returns:
        [n], 0 to 100; 20 to 35 is usual for a picture that shows what the text says.

    Raises:
        ValueError: the embeddings have different widths, or cannot be paired.
    """
    return 100 * _cosine(images, texts, "texts").clamp(min=0)


def clip_score_hessel(images: Tensor, texts: Tensor) -> Tensor:
    """CLIPScore of Hessel et al. 2021 (arXiv:2104.08718, equation 1): 2.5 x cosine, not below 0.

    The paper puts "A photo depicts " before each text; that is up to whoever embeds it.

    Args:
        images: image embeddings [n, e].
        texts: text embeddings [n, e], or [1, e] for all.

    Returns:
        [n], 0 to 2.5.

    Raises:
        ValueError: the embeddings have different widths, or cannot be paired.
    """
    return 2.5 * _cosine(images, texts, "texts").clamp(min=0)


def clip_image_similarity(images: Tensor, references: Tensor) -> Tensor:
    """How alike CLIP finds two pictures, known as CLIP-I: the cosine of their image embeddings.

    Args:
        images: image embeddings [n, e].
        references: image embeddings [n, e], or [1, e] for all.

    Returns:
        [n], -1 to 1; 1 is the same picture to CLIP.

    Raises:
        ValueError: the embeddings have different widths, or cannot be paired.
    """
    return _cosine(images, references, "references")


def _cosine(images: Tensor, others: Tensor, name: str) -> Tensor:
    paired = images.ndim == others.ndim == 2 and images.shape[1] == others.shape[1]
    if not paired or len(others) not in (1, len(images)):
        raise ValueError(
            f"Image embeddings {list(images.shape)} and {name} {list(others.shape)} cannot be "
            "compared: expected [n, e] and [n, e] or [1, e], from the same CLIP model."
        )
    return F.cosine_similarity(images.float(), others.float())
