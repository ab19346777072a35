"""Stage `adjust`: the paper's histogram step (section 3.1.1), reproducible.

"We adjusted image parameters based on histogram analysis to enhance features, preserve texture, and
reduce noise." In order:

1. the paper's grain is measured, and taken away if there is any (bilateral or non-local means);
2. a faint sketch, whose ink is near its paper, gets CLAHE;
3. levels and an exponent make paper white, ink dark, and bring the ink into a band (`levels`);
4. specks go; sharpening if wanted.

Each step is done where it is needed, and the chosen values go into the ledger. Nothing moves, and
a sketch that was adjusted is hardly changed again. Pictures stay 8-bit and steps work in strips:
all of it takes up to 12 bytes a pixel, 1.3 GB at 10240 x 10240.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from animesketchnet_core.sketch_extraction import lightness
from animesketchnet_core.specks import FAINTEST, speck_mask

from .config import AdjustSettings
from .images import Pixels, to_grey
from .ledger import Decision, Outcome, Picture
from .sketching.levels import Levels, contrast, count_tones, coverage, find_levels
from .stages import Examine
from .stages import run as run_stage
from .work import Work


@dataclass(frozen=True)
class Adjustment:
    """What was done to a sketch, and why.

    Attributes:
        noise: standard deviation of the paper's grain, in levels.
        denoised: whether it was taken away.
        contrast: lightness of the paper minus that of the ink, 0 to 1; None: nothing is drawn.
        equalised: whether CLAHE was used.
        levels: the curve.
        specks: share of the pixels that were specks.
        before: coverage at first.
        after: coverage at last.
    """

    noise: float
    denoised: bool
    contrast: float | None
    equalised: bool
    levels: Levels
    specks: float
    before: float
    after: float


class AdjustStage:
    """Adjusts one sketch at a time."""

    name = "adjust"
    reads: tuple[str, ...] = ("sketch",)

    def settings(self, work: Work) -> AdjustSettings:
        """All of them."""
        return work.config.adjust

    @contextmanager
    def open(self, work: Work) -> Iterator[Examine]:
        """Nothing is loaded."""
        yield lambda picture: self._examine(work, picture)

    def _examine(self, work: Work, picture: Picture) -> Outcome:
        settings = work.config.adjust
        sketch, done = adjust(to_grey(work.read(picture, "sketch")), settings)
        form = work.write(picture, "adjusted", sketch, **_details(done))
        return Outcome([_decision(done, settings)], forms={"adjusted": form})


def run(work: Work) -> Counter[str]:
    """Adjusts all sketches that need it; returns how many got which verdict."""
    return run_stage(AdjustStage(), work)


def adjust(sketch: Pixels, settings: AdjustSettings) -> tuple[Pixels, Adjustment]:
    """Adjusts a sketch, uint8 [h, w], dark on light; returns it on white, and what was done."""
    before = coverage(count_tones(sketch))
    noise = measure_noise(sketch)
    noisy = settings.denoise != "none" and noise >= settings.least_noise
    if noisy:
        sketch = denoise(sketch, settings.denoise, noise)
    found = contrast(count_tones(sketch), settings)
    faint = found is not None and found < settings.flat
    if faint:
        sketch = cv2.createCLAHE(settings.clahe_clip, _CLAHE_GRID).apply(sketch).astype(np.uint8)
    levels = find_levels(count_tones(sketch), settings)
    if levels.changes:
        sketch = cv2.LUT(sketch, levels.curve()).astype(np.uint8)
    sketch, specks = without_specks(sketch, settings.specks * min(sketch.shape) / 1000)
    if settings.unsharp:
        sketch = sharpen(sketch, settings.unsharp)
    after = coverage(count_tones(sketch))
    return sketch, Adjustment(noise, noisy, found, faint, levels, specks, before, after)


def measure_noise(sketch: Pixels) -> float:
    """Standard deviation of a sketch's grain, in levels.

    Immerkaer, "Fast Noise Variance Estimation" (1996), with the median in place of the mean: lines,
    which are less than half of a sketch, then do not count. A clean sketch gives 0.
    """
    counts = np.zeros(_LARGEST + 1, dtype=np.int64)
    for strip in _padded_strips(sketch, 1):
        response = np.abs(cv2.filter2D(strip, cv2.CV_16S, _LAPLACIANS)[1:-1, 1:-1])
        counts += np.bincount(response.ravel(), minlength=_LARGEST + 1)
    median = float(np.searchsorted(counts.cumsum(), counts.sum() / 2))
    return median / 0.6745 / 6


def denoise(sketch: Pixels, how: str, noise: float) -> Pixels:
    """Smooths what differs by no more than the noise, so that lines stay.

    Args:
        sketch: uint8 [h, w].
        how: "bilateral" or "nlmeans".
        noise: its standard deviation, in levels.
    """
    if how == "bilateral":
        return _in_strips(sketch, 5, lambda strip: cv2.bilateralFilter(strip, 9, 4 * noise, 2.5))
    return _in_strips(
        sketch, 14, lambda strip: cv2.fastNlMeansDenoising(strip, None, 1.2 * noise, 7, 21)
    )


def without_specks(sketch: Pixels, size: float) -> tuple[Pixels, float]:
    """Paints over ink that is at most `size` pixels high and wide and touches nothing.

    Returns:
        The sketch and the share of its pixels that changed.
    """
    if size < 1:
        return sketch, 0.0
    tones = torch.arange(256, dtype=torch.uint8)
    faintest = int((lightness(tones[:, None]) < 1 - FAINTEST).sum())  # tones below it are ink
    specks = speck_mask(torch.from_numpy(sketch < faintest), size).numpy()
    sketch = sketch.copy()
    sketch[specks] = 255
    return sketch, float(specks.mean())


def sharpen(sketch: Pixels, amount: float) -> Pixels:
    """Unsharp masking with a Gaussian of a pixel, which leaves paper white."""

    def step(strip: Pixels) -> Pixels:
        soft = cv2.GaussianBlur(strip, (0, 0), 1.0)
        return cv2.addWeighted(strip, 1 + amount, soft, -amount, 0).astype(np.uint8)

    return _in_strips(sketch, 5, step)


def _decision(done: Adjustment, settings: AdjustSettings) -> Decision:
    low, high = settings.least_coverage, settings.most_coverage
    details = {"band": [low, high]}
    if low <= done.after <= high:
        return Decision("ink", "keep", "", done.after, None, details)
    bound, word = (low, "little") if done.after < low else (high, "much")
    reason = f"too {word} ink: {done.after:.1%}; an exponent of {done.levels.gamma:g} is no help"
    return Decision("ink", "review", reason, done.after, bound, details)


def _details(done: Adjustment) -> dict[str, object]:
    """The chosen values, rounded so that a person can read them."""
    return {
        "noise": round(done.noise, 3),
        "denoised": done.denoised,
        "contrast": None if done.contrast is None else round(done.contrast, 4),
        "clahe": done.equalised,
        "black": done.levels.black,
        "white": done.levels.white,
        "gamma": done.levels.gamma,
        "specks": round(done.specks, 6),
        "coverage_before": round(done.before, 5),
        "coverage": round(done.after, 5),
    }


_CLAHE_GRID = (8, 8)  # OpenCV's own default
_LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
_LARGEST = 255 * 8  # what they give at most
_STRIP = 512  # rows


def _in_strips(sketch: Pixels, reach: int, step: Callable[[Pixels], object]) -> Pixels:
    """Changes a picture strip by strip, as if it were done at once."""
    changed = np.empty_like(sketch)
    for number, strip in enumerate(_padded_strips(sketch, reach)):
        done = np.asarray(step(strip), dtype=np.uint8)[reach:-reach, reach:-reach]
        changed[number * _STRIP : number * _STRIP + len(done)] = done
    return changed


def _padded_strips(sketch: Pixels, reach: int) -> Iterator[Pixels]:
    """Cuts a picture into strips with `reach` pixels more on each side, mirrored at the border."""
    height = len(sketch)
    for top in range(0, height, _STRIP):
        first, last = top - reach, min(top + _STRIP, height) + reach
        inside = sketch[max(0, first) : min(height, last)]
        above, below = max(0, -first), max(0, last - height)
        yield np.pad(inside, ((above, below), (reach, reach)), mode="symmetric")
