"""Chance as a function: what is drawn for a sample depends on the seed and its position alone.

A run is one endless stream of samples, numbered 0, 1, 2, ...; step s with batch size b takes
positions s * b to s * b + b - 1. Every draw comes from the counter-based generator Philox
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by seed and purpose and
counted by position. So no generator's state must be saved to resume, and neither the batch size
nor a sample's neighbours nor the machine that computes it change what is drawn.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """Keeps the streams apart, so that a new kind of draw changes no old one."""

    ORDER = 0
    REFERENCE = 1
    CAPTION = 2
    TIMESTEP = 3
    DROP = 4
    ALPHA = 5
    NOISE = 6
    LATENT = 7  # the sample from the autoencoder's posterior
    PREVIEW = 8
    SHARE = 9  # which rows an epoch shows, where it shows a fraction of them
    HELD_OUT = 10
    VIEW = 11
    SIZE = 12  # of the pictures of a step
    TEACHER = 13
    TAUGHT = 14


def generator(seed: int, purpose: Purpose, position: int) -> np.random.Generator:
    """Makes the generator of one purpose at one position."""
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, 0, position, 0], dtype=np.uint64)  # the low words count within a draw
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def uniform(seed: int, purpose: Purpose, position: int) -> float:
    """Draws a number in [0, 1)."""
    return float(generator(seed, purpose, position).random())


def integer(seed: int, purpose: Purpose, position: int, below: int) -> int:
    """Draws an integer in [0, below)."""
    return int(generator(seed, purpose, position).integers(below))


def normal(seed: int, purpose: Purpose, positions: list[int], shape: tuple[int, ...]) -> Tensor:
    """Draws standard normal numbers.

    Returns:
        float32 [len(positions), *shape], on the CPU.
    """
    rows = [
        generator(seed, purpose, position).standard_normal(shape, dtype=np.float32)
        for position in positions
    ]
    return torch.from_numpy(np.stack(rows))


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Shuffles the data for one epoch: a permutation of 0 .. length - 1."""
    return generator(seed, Purpose.ORDER, epoch).permutation(length)
