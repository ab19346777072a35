"""Is the picture a sketch at all? Ink, bare paper and colour, without a network."""

from __future__ import annotations

from torch import Tensor

from animesketchnet_core.sketch_likeness import sketch_likeness

from ..cases import Pair
from .measure import Column


class SketchLikenessMeasure:
    """Says how much a picture is a sketch, whatever it shows."""

    columns = (
        Column(
            "sketch_likeness",
            "Sketch",
            1,
            "Whether it is a sketch, 0 to 1, above 0.5 it is: no colours, bare light paper, and "
            "something drawn on it; the weakest of these.",
        ),
        Column(
            "ink_ratio",
            "Ink",
            0,
            "Mean darkness against the picture's own paper, 0 to 1.",
            percent=True,
            digits=1,
        ),
        Column(
            "paper_share",
            "Bare paper",
            0,
            "Part of the picture that is bare paper, 0 to 1.",
            percent=True,
            digits=1,
        ),
        Column(
            "chroma",
            "Chroma",
            0,
            "How far its colours lie from the usual one, in CIE Lab; up to 3 in a drawing in "
            "black and white.",
            digits=1,
        ),
    )
    recipe = "sketch likeness 1"

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Measures pictures [n, h, w, 3]; the pair plays no part."""
        figures = sketch_likeness(pictures)
        return {
            "sketch_likeness": figures.likeness,
            "ink_ratio": figures.ink_ratio,
            "paper_share": figures.paper_share,
            "chroma": figures.chroma,
        }
