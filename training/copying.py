"""Does the model repeat its training pictures? The nearest one to each picture that it draws.

Compared are features of whole pictures, from which the training set's own mean is taken: what all
sketches share says nothing about copying. The measure has no absolute zero, so it comes with a
yardstick, how near training pictures are to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import Encoded
from .views import View

MOST = 2000  # training pictures that previews are compared with, evenly spread
CHUNK = 64


class NearestPicture:
    """The training pictures' places in a space of features.

    Attributes:
        nearest_other: similarity of each training picture to the nearest other one, [n], -1 to 1.
    """

    def __init__(self, features: Tensor) -> None:
        """Places the training pictures.

        Args:
            features: one row for each, [n, e].
        """
        self._centre = features.mean(0)
        self._places = F.normalize(features - self._centre, dim=1)
        self.nearest_other = self._among()

    @classmethod
    def of_views(cls, encoded: Encoded, views: Sequence[View]) -> NearestPicture:
        """Places at most `MOST` views of training pictures by means of their CLIP features."""
        chosen = views[:: -(-len(views) // MOST)]
        parts = [
            pooled(encoded.features(chosen[k : k + CHUNK])) for k in range(0, len(chosen), CHUNK)
        ]
        return cls(torch.cat(parts))

    @property
    def yardstick(self) -> float:
        """Median similarity of a training picture to the nearest other one, -1 to 1."""
        return self.nearest_other.median().item()

    def similarity(self, features: Tensor) -> Tensor:
        """How near each picture is to the nearest training picture.

        Args:
            features: of pictures, [b, e].

        Returns:
            Cosines [b]; 1 is a copy.
        """
        places = F.normalize(features - self._centre, dim=1)
        return (places @ self._places.T).max(1).values

    def _among(self) -> Tensor:
        if len(self._places) < 2:  # none is near another, so whatever is drawn may be
            return torch.ones(len(self._places))
        nearest = []
        for first in range(0, len(self._places), CHUNK):
            similarity = self._places[first : first + CHUNK] @ self._places.T
            itself = torch.arange(first, first + len(similarity))
            similarity[torch.arange(len(similarity)), itself] = -1
            nearest.append(similarity.max(1).values)
        return torch.cat(nearest)


def pooled(features: Tensor) -> Tensor:
    """One row for a picture, float32 on the CPU.

    Args:
        features: penultimate CLIP features [b, n, e], or image embeddings [b, e].

    Returns:
        Means over the patches, or the embeddings as they are; [b, e].
    """
    features = features.float().cpu()
    return features.mean(1) if features.ndim == 3 else features
