"""Means with intervals: pictures of one pair are not independent, so pairs are drawn again.

The interval is the percentile interval of the cluster bootstrap (Davison & Hinkley 1997, "Bootstrap
Methods and their Application", sections 5.3 and 3.8): pairs are drawn with replacement, with all
their pictures. Of few pairs it is too narrow: at a nominal 95% it covers about 84% with 5 pairs,
90% with 10 and 93% with 20 (normal means; tests/test_evaluation_statistics.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
Place = tuple[str, int]
"""(pair, seed): pictures of equal place began with the same noise."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and how sure it is.

    Attributes:
        mean: over pictures; NaN if there are none.
        low: the 95% interval's lower end; NaN with fewer than two pairs.
        high: its upper end.
        n: pictures that were counted.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def estimate(
    values_by_pair: Mapping[str, Sequence[float]], seed: int = 0, rounds: int = 2000
) -> Estimate:
    """Estimates a mean over pictures with its interval over pairs.

    Args:
        values_by_pair: figures of the pictures by pair, in any order; NaN ones are left out.
        seed: of the bootstrap.
        rounds: how often pairs are drawn again.
    """
    known = [
        [value for value in values if not math.isnan(value)]
        for _, values in sorted(values_by_pair.items())
    ]
    sums = np.array([sum(values) for values in known if values])
    counts = np.array([len(values) for values in known if values])
    if not len(sums):
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean, n = float(sums.sum() / counts.sum()), int(counts.sum())
    if len(sums) < 2:  # one pair tells nothing of others
        return Estimate(mean, math.nan, math.nan, n)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(rounds, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)  # [rounds]
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(mean, float(low), float(high), n)


def paired_difference(
    ours: Mapping[Place, float],
    theirs: Mapping[Place, float],
    seed: int = 0,
    rounds: int = 2000,
) -> Estimate:
    """Estimates by how much our pictures exceed theirs that began with the same noise.

    Args:
        ours: figures of our pictures by place.
        theirs: figures of their pictures; places that only one side has are left out.
        seed: of the bootstrap.
        rounds: how often pairs are drawn again.
    """
    differences: defaultdict[str, list[float]] = defaultdict(list)
    for place in sorted(ours.keys() & theirs.keys()):
        differences[place[0]].append(ours[place] - theirs[place])
    return estimate(differences, seed, rounds)


def median(values: Iterable[float]) -> float:
    """The middle of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def share_above(values: Iterable[float], threshold: float = 0.5) -> float:
    """Which share of the values that are not NaN lies above a threshold; NaN if there are none.

    A probability that saturates, as BLIP-2's of a match does, is told better by it than by a mean.
    """
    known = [value for value in values if not math.isnan(value)]
    return sum(value > threshold for value in known) / len(known) if known else math.nan
