"""Does the model repeat its training pictures? The nearest one to each picture that it draws.

Compared are means of CLIP's penultimate features, from which the training set's own mean is taken:
what all sketches share says nothing about copying. The measure has no absolute zero, so it comes
with a yardstick, how near training pictures are to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import Encoded
from .views import View

MOST = 2000  # training pictures that are compared with, evenly spread
CHUNK = 64


class NearestPicture:
    """The training pictures' places in CLIP's space.

    Attributes:
        yardstick: mean similarity of a training picture to the nearest other one, -1 to 1.
    """

    def __init__(self, encoded: Encoded, views: Sequence[View]) -> None:
        stride = -(-len(views) // MOST)
        chosen = views[::stride]
        parts = [
            _pooled(encoded.features(chosen[k : k + CHUNK])) for k in range(0, len(chosen), CHUNK)
        ]
        pooled = torch.cat(parts)  # [n, e]
        self._centre = pooled.mean(0)
        self._places = F.normalize(pooled - self._centre, dim=1)
        among = (self._places @ self._places.T).fill_diagonal_(-1)
        self.yardstick = among.max(1).values.mean().item() if len(chosen) > 1 else 1.0

    def similarity(self, features: Tensor) -> Tensor:
        """How near each picture is to the nearest training picture.

        Args:
            features: what the adapter reads of pictures, [b, n, e] or [b, e].

        Returns:
            Cosines [b]; 1 is a copy.
        """
        places = F.normalize(_pooled(features) - self._centre, dim=1)
        return (places @ self._places.T).max(1).values


def _pooled(features: Tensor) -> Tensor:
    """A vector for each picture [b, e]: the mean of its patches, or its embedding."""
    features = features.float().cpu()
    return features.mean(1) if features.ndim == 3 else features
