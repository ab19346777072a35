"""What to do when the memory for a piece of work is refused: do it in smaller pieces."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
_LOG = logging.getLogger("AnimeSketchNet")


def first_that_fits(work: Callable[[], T], smaller: Callable[[], T]) -> T:
    """Does the work, or the same in smaller pieces if it runs out of memory.

    What runs out of memory in pieces, too, ends as it was raised: by its type ComfyUI knows that it
    has to unload its models.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        _LOG.warning("Ran out of memory, going on in smaller pieces.")
    return smaller()  # out here, where the exception holds no tensors any more


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch was refused memory; on a processor it has no exception of its own for that."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or bool(_REFUSED.search(str(error)))


_REFUSED = re.compile("out of memory|memory: you tried to allocate")  # other devices, processor
