"""How training shows a picture: as it is, mirrored, in part, or with other lines.

A data set of a few hundred sketches is learnt by heart unless each is seen in several ways. Each
way is a view; views are chosen by the picture's content, so they can be cached like pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from animesketchnet_core import clip_input

from .config import ViewSettings

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class View:
    """One way of showing a picture; the defaults show it as it is.

    Attributes:
        picture: path of the file.
        flip: mirrored.
        zoom: the side of the picture divided by that of the part that is shown, 1 or more.
        place: where the part lies, (down, across), 0 to 1 of the room that it leaves.
        stroke: by how much lines are thicker (above 0) or thinner, as a share of the shorter side.
    """

    picture: str
    flip: bool = False
    zoom: float = 1.0
    place: tuple[float, float] = (0.5, 0.5)
    stroke: float = 0.0

    def key(self, digest: bytes) -> bytes:
        """Names the view by content: that of the picture, given by its digest, and the change."""
        if self == View(self.picture):
            return digest
        return hashlib.sha256(digest + repr(astuple(self)[1:]).encode()).digest()

    def show(self, picture: Tensor) -> Tensor:
        """Changes the picture.

        Args:
            picture: [1, height, width, 4] in [0, 1].

        Returns:
            The same layout; another size where only a part is shown.
        """
        if self.flip:
            picture = picture.flip(2)
        if self.zoom > 1:
            height, width = (max(1, round(side / self.zoom)) for side in picture.shape[1:3])
            top = round(self.place[0] * (picture.shape[1] - height))
            left = round(self.place[1] * (picture.shape[2] - width))
            picture = picture[:, top : top + height, left : left + width]
        if radius := round(abs(self.stroke) * min(picture.shape[1:3])):
            paper = clip_input.flatten_onto_white(picture).permute(0, 3, 1, 2)  # 1 3 h w
            side = 2 * radius + 1
            if self.stroke > 0:  # dark spreads
                paper = -F.max_pool2d(-paper, side, 1, radius)
            else:
                paper = F.max_pool2d(paper, side, 1, radius)
            opaque = torch.ones_like(paper[:, :1])
            picture = torch.cat([paper, opaque], dim=1).permute(0, 2, 3, 1)
        return picture


def view_of(
    picture: str,
    number: int,
    digest: bytes,
    settings: ViewSettings,
    *,
    sides_named: bool,
    reference: bool,
) -> View:
    """The view of a picture with a number; 0 is the picture as it is.

    Args:
        picture: path of the file.
        number: from 0, below settings.count.
        digest: of the file's content, from which the view follows.
        settings: what may be changed.
        sides_named: whether its caption says left or right, so that it must not be mirrored.
        reference: whether it is what CLIP sees, whose lines may be changed, and not the target.
    """
    if number == 0:
        return View(picture)
    chance = np.random.default_rng([int.from_bytes(digest[:8], "big"), number, int(reference)])
    flip, cut, down, across, stroke = chance.random(5).tolist()
    return View(
        picture,
        flip=settings.flip and not sides_named and flip < 0.5,
        zoom=1 / (1 - settings.crop * cut),
        place=(down, across),
        stroke=settings.stroke * (2 * stroke - 1) if reference else 0.0,
    )


def names_a_side(captions: Sequence[str]) -> bool:
    """Whether a caption says left or right."""
    return any(_SIDES.search(caption) for caption in captions)
