"""Finds how much of a batch a GPU's memory holds at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .settings import ConfigError


def largest_fit(attempt: Callable[[int], None], most: int) -> int:
    """How many samples a GPU computes at once.

    Args:
        attempt: computes so many, and raises torch.OutOfMemoryError where they are too many.
        most: as many as are wanted.

    Raises:
        ConfigError: it does not even hold one.
    """
    size = most
    while True:
        try:
            attempt(size)
            return size
        except torch.OutOfMemoryError:
            if size == 1:
                raise ConfigError(
                    "The GPU's memory does not hold one sample. Lower data.resolution, or set "
                    'run.checkpointing = "all".'
                ) from None
            size = (size + 1) // 2
        torch.cuda.empty_cache()  # after the error has let go of its tensors
