"""Is the picture a training picture over again? The nearest one to it, by any features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from animesketchnet_core.clip_input import flatten_onto_white
from training.copying import NearestPicture
from training.sources import DataError, Pictures

from ..cases import Pair
from .measure import Column

COPIED_FROM = 0.95  # share of the training pictures that are further from each other


class CopyingMeasure:
    """Compares pictures with all training pictures, as training/copying.py does.

    Attributes:
        yardstick: median similarity of a training picture to the nearest other one, -1 to 1.
        limit: what 95% of them stay below.
    """

    columns = (
        Column(
            "nearest_training",
            "Nearest training picture",
            0,
            "Cosine to the nearest training picture, the training set's mean taken off, -1 to 1; "
            "1 is a copy.",
        ),
        Column(
            "copied",
            "Copied",
            -1,
            "Whether it is nearer to a training picture than 95% of these are to each other.",
            percent=True,
            digits=1,
        ),
    )

    def __init__(
        self, embed: Callable[[Tensor], Tensor], training: Sequence[Path], recipe: str
    ) -> None:
        """Embeds the training pictures, one by one.

        Args:
            embed: gives features [n, d] of pictures [n, h, w, 3], float in [0, 1].
            training: their files.
            recipe: all that decides these features.

        Raises:
            DataError: there are fewer than two training pictures, or one cannot be read.
        """
        if len(training) < 2:
            raise DataError(
                "Copying is measured against at least two training pictures, as their distance is "
                f"the yardstick; got {len(training)}. Name the folder that the model learned from."
            )
        self._embed = embed
        files = Pictures()
        names = [str(path) for path in training]
        rows = [embed(flatten_onto_white(files.open(name))).float().cpu() for name in names]
        self._nearest = NearestPicture(torch.cat(rows))
        self.yardstick = self._nearest.yardstick
        self.limit = self._nearest.nearest_other.quantile(COPIED_FROM).item()
        contents = hashlib.sha256(b"".join(sorted(map(files.digest, names)))).hexdigest()
        self.recipe = f"copying 1; {recipe}; {len(names)} pictures {contents}"

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Finds the nearest training picture to each of [n, h, w, 3]; the pair plays no part."""
        similarity = self._nearest.similarity(self._embed(pictures).float().cpu())
        return {"nearest_training": similarity, "copied": (similarity > self.limit).float()}
