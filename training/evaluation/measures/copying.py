"""Is the picture a training picture over again? The nearest one to it, by any features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from animesketchnet_core.clip_input import flatten_onto_white
from training.copying import NearestPicture
from training.sources import DataError, Pictures

from ..cases import Pair
from .measure import Column

AT_ONCE = 32  # training pictures that are embedded together, where they are of one size
COPIED_FROM = 0.95  # share of the training pictures that are further from each other


class CopyingMeasure:
    """Compares pictures with all training pictures, as training/copying.py does.

    Attributes:
        recipe: the pictures and their features.
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
        """Names the training pictures; they are embedded when there is something to compare.

        Args:
            embed: gives features [n, d] of pictures [n, h, w, 3], float in [0, 1].
            training: their files.
            recipe: all that decides these features.

        Raises:
            DataError: there are fewer than two training pictures.
        """
        if len(training) < 2:
            raise DataError(
                "Copying is measured against at least two training pictures, as their distance is "
                f"the yardstick; got {len(training)}. Name the folder that the model learned from."
            )
        self._embed = embed
        self._files = Pictures()
        self._names = [str(path) for path in training]
        contents = b"".join(sorted(map(self._files.digest, self._names)))
        digest = hashlib.sha256(contents).hexdigest()
        self.recipe = f"copying 1; {recipe}; {len(self._names)} pictures {digest}"

    @property
    def yardstick(self) -> float:
        """Median similarity of a training picture to the nearest other one, -1 to 1."""
        return self._nearest.yardstick

    @property
    def limit(self) -> float:
        """What 95% of these similarities stay below."""
        return self._nearest.nearest_other.quantile(COPIED_FROM).item()

    @cached_property
    def _nearest(self) -> NearestPicture:
        rows = []
        with tqdm(total=len(self._names), desc="embedding training pictures") as bar:
            for start in range(0, len(self._names), AT_ONCE):
                names = self._names[start : start + AT_ONCE]
                opened = [flatten_onto_white(self._files.open(name)) for name in names]
                alike = len({picture.shape for picture in opened}) == 1
                parts = [torch.cat(opened)] if alike else opened
                rows += [self._embed(part).float().cpu() for part in parts]
                bar.update(len(names))
        return NearestPicture(torch.cat(rows))

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Finds the nearest training picture to each of [n, h, w, 3]; the pair plays no part.

        Raises:
            DataError: a training picture cannot be read.
        """
        similarity = self._nearest.similarity(self._embed(pictures).float().cpu())
        return {"nearest_training": similarity, "copied": (similarity > self.limit).float()}
