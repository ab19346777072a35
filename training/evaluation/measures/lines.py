"""Are the picture's lines those of the reference: where they are, how wide, how much ink in all.

None of it needs a network. Only `edge_f1` asks where the lines are. A method that takes the drawing
style from the reference, and the composition from the prompt, should NOT reach a high one: copying
the reference wins it. Ink and stroke width tell of the style, wherever the lines run.

Shapes: n pictures, h and w their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from animesketchnet_core.clip_input import fit_sketch
from animesketchnet_core.sketch_likeness import ink_map

from ..cases import Pair
from .measure import Column

Mask = NDArray[np.bool_]
Floats = NDArray[np.floating]


class LineMeasure:
    """Compares a picture's lines with those of its reference, which is fitted to its size."""

    columns = (
        Column(
            "edge_precision",
            "Edge precision",
            0,
            "Part of the picture's thinned lines that lie on the reference's, within 2 pixels of "
            "512, 0 to 1.",
        ),
        Column(
            "edge_recall",
            "Edge recall",
            0,
            "Part of the reference's thinned lines that the picture has, within 2 pixels of 512, "
            "0 to 1.",
        ),
        Column(
            "edge_f1",
            "Edge F1",
            0,
            "Harmonic mean of the two. It asks for the reference's composition: a copy has 1, and "
            "a method that takes only the style should not come near.",
        ),
        Column(
            "ink_difference",
            "Ink difference",
            -1,
            "How much more or less ink the picture has than its reference: difference of their "
            "mean darkness against their own paper, 0 to 1.",
        ),
        Column(
            "stroke_distance",
            "Stroke width",
            -1,
            "Wasserstein-1 distance between the stroke widths of picture and reference, in per "
            "mille of the picture's shorter side.",
            digits=2,
        ),
    )
    recipe = "lines 1"

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Measures pictures [n, h, w, 3] against the pair's reference; NaN without one."""
        keys = [column.key for column in self.columns]
        if pair.reference is None:
            return {key: torch.full((len(pictures),), torch.nan) for key in keys}
        height, width = pictures.shape[1:3]
        reference = Lines.of(fitted_ink(pair.reference_picture(), height, width).numpy())
        rows = [_compare(Lines.of(ink), reference) for ink in ink_map(pictures).numpy()]
        return {key: torch.tensor([row[key] for row in rows]) for key in keys}


@dataclass(frozen=True)
class Lines:
    """A picture's lines.

    Attributes:
        ink_ratio: mean darkness, 0 to 1.
        thinned: where the middle of a line is, [h, w].
        widths: of the strokes in pixels, one for each pixel of `thinned`. Twice the distance to
            the paper, so a pixel more than the width where that is odd.
    """

    ink_ratio: float
    thinned: Mask
    widths: Floats

    @classmethod
    def of(cls, ink: Floats) -> Lines:
        """Finds the lines of an ink map [h, w], 0 (paper) to 1 (black).

        What is ink is Otsu's choice (IEEE Transactions on Systems, Man, and Cybernetics 9, 1979),
        but never what is hardly darker than the paper.
        """
        from scipy.ndimage import distance_transform_edt
        from skimage.filters import threshold_otsu
        from skimage.morphology import skeletonize

        # Otsu's method divides grain, too, where there is nothing else.
        drawn = ink > max(float(threshold_otsu(ink)), _FAINTEST)
        thinned = skeletonize(drawn)
        # Beyond the border is no paper that a stroke could end at.
        depths = np.asarray(distance_transform_edt(np.pad(drawn, 1, mode="edge")))[1:-1, 1:-1]
        return cls(float(ink.mean()), thinned, 2 * depths[thinned])


_FAINTEST = 0.1
_TOLERANCE = 2 / 512  # of the shorter side


def edge_scores(picture: Mask, reference: Mask) -> tuple[float, float, float]:
    """How well thinned lines lie on each other.

    A pixel is matched if the other drawing has one within 2 pixels of 512, and within the next
    pixel, diagonals too, in small pictures: thinning is no more exact than that.

    Args:
        picture: [h, w].
        reference: of the same size.

    Returns:
        Precision, recall and F1, 0 to 1. A bare picture has 0, 0, 0; NaN where the reference has
        no lines.
    """
    if not reference.any():
        return math.nan, math.nan, math.nan
    tolerance = max(_TOLERANCE * min(picture.shape), 2**0.5)
    precision = _share_near(picture, reference, tolerance)
    recall = _share_near(reference, picture, tolerance)
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


def stroke_distance(picture: Lines, reference: Lines) -> float:
    """Wasserstein-1 distance of two drawings' stroke widths, in per mille of the shorter side.

    Returns:
        0 for the same widths; NaN where one of the two has no lines.
    """
    from scipy.stats import wasserstein_distance

    if not len(picture.widths) or not len(reference.widths):
        return math.nan
    distance = float(wasserstein_distance(picture.widths, reference.widths))
    return 1000 * distance / min(picture.thinned.shape)


def fitted_ink(reference: Tensor, height: int, width: int) -> Tensor:
    """The ink of a whole reference, on a sheet of another size.

    Args:
        reference: [1, a, b, 3], float in [0, 1].
        height: of the sheet, in pixels.
        width: of the sheet.

    Returns:
        [height, width], 0 (paper) to 1 (black), with bare paper around it.
    """
    sheet = 1 - ink_map(reference)[..., None]  # [1, a, b, 1]: its own paper is white now
    a, b = sheet.shape[1:3]
    side = round(max(a, b) * min(height / a, width / b))
    square = fit_sketch(sheet, side)[0, ..., 0]
    top, left = (height - side) // 2, (width - side) // 2
    # Negative margins cut off what fit_sketch has added.
    return 1 - F.pad(square, (left, width - side - left, top, height - side - top), value=1.0)


def _compare(picture: Lines, reference: Lines) -> dict[str, float]:
    precision, recall, f1 = edge_scores(picture.thinned, reference.thinned)
    return {
        "edge_precision": precision,
        "edge_recall": recall,
        "edge_f1": f1,
        "ink_difference": abs(picture.ink_ratio - reference.ink_ratio),
        "stroke_distance": stroke_distance(picture, reference),
    }


def _share_near(lines: Mask, others: Mask, tolerance: float) -> float:
    """Part of the lines' pixels with one of the others within the tolerance."""
    from scipy.ndimage import distance_transform_edt

    if not lines.any() or not others.any():
        return 0.0
    return float((np.asarray(distance_transform_edt(~others))[lines] <= tolerance).mean())
