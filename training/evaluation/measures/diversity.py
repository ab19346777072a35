"""Do other noises give other pictures? How different those of one pair are from each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from animesketchnet_core.sketch_likeness import ink_map

from ..cases import Pair
from .measure import Column


def ink_layout(pictures: Tensor) -> Tensor:
    """Where the ink is, roughly: features that need no network.

    Their cosine is the correlation of two ink maps that were averaged over 16 x 16 fields.

    Args:
        pictures: [n, h, w, 3], float in [0, 1].

    Returns:
        [n, 257].
    """
    fields = F.adaptive_avg_pool2d(ink_map(pictures)[:, None], 16).flatten(1)  # [n, 256]
    centred = fields - fields.mean(1, keepdim=True)
    # Two bare sheets, of which nothing is left, are alike.
    return torch.cat([centred, torch.full((len(centred), 1), 1e-4)], dim=1)


class DiversityMeasure:
    """Compares the pictures that a method drew for one pair; each of them gets the same figures."""

    columns = (
        Column(
            "pairwise_distance",
            "Diversity",
            1,
            "Mean of 1 - cosine over all pairs of pictures for the same prompt and reference, "
            "0 (all alike) to 2.",
        ),
        Column(
            "vendi",
            "Vendi",
            1,
            "Vendi score of the pictures for the same prompt and reference (Friedman and Dieng "
            "2022): how many different ones there are, 1 to their number.",
            digits=2,
        ),
    )

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor] = ink_layout,
        recipe: str = "ink layout of 16 x 16",
    ) -> None:
        """Keeps the features.

        Args:
            embed: gives features [n, d] of pictures [n, h, w, 3].
            recipe: all that decides these features.
        """
        self._embed = embed
        self.recipe = f"diversity 1; {recipe}"

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Compares pictures [n, h, w, 3] with each other; NaN for one alone."""
        distance = vendi = math.nan
        if len(pictures) > 1:
            features = self._embed(pictures).cpu()
            distance, vendi = mean_pairwise_distance(features), vendi_score(features)
        return {
            "pairwise_distance": torch.full((len(pictures),), distance),
            "vendi": torch.full((len(pictures),), vendi),
        }


def mean_pairwise_distance(features: Tensor) -> float:
    """Mean of 1 - cosine over all pairs of different rows.

    Args:
        features: [n, d], n at least 2, no row of zeros.

    Returns:
        0 to 2.
    """
    count = len(features)
    kernel = _cosines(features)
    return float(1 - (kernel.sum() - kernel.trace()) / (count * (count - 1)))


def vendi_score(features: Tensor) -> float:
    """How many different items there are (Friedman and Dieng 2022, arXiv:2210.02410).

    exp of the entropy of the eigenvalues of K / n, with the cosine as the kernel K.

    Args:
        features: [n, d], no row of zeros.

    Returns:
        1 (all the same) to n (all orthogonal).
    """
    eigenvalues = torch.linalg.eigvalsh(_cosines(features) / len(features))
    return float(torch.special.entr(eigenvalues.clamp(min=0)).sum().exp())


def _cosines(features: Tensor) -> Tensor:
    unit = F.normalize(features.double(), dim=1)
    return unit @ unit.T
