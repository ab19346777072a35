"""The processes that train together; `accelerate launch` starts them, without it there is one.

Each takes its share of every batch. Since all chance is a function of the sample's position in the
stream (draws.py), a run is the same run however many processes share it, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

PATIENCE = timedelta(hours=12)  # until a process that waits for another gives up


class Workers:
    """This process's place among all.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
        device: where it computes.
    """

    def __init__(self, device: str) -> None:
        """Joins the others.

        Args:
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...; among several
                processes each takes the GPU of its own number.
        """
        self.rank, self.count = 0, int(os.environ.get("WORLD_SIZE", "1"))
        has_gpu = torch.cuda.is_available()
        name = ("cuda" if has_gpu else "cpu") if device == "auto" else device
        self.device = torch.device(name)
        if self.count == 1:
            return
        from accelerate import PartialState  # takes a second, and is needed here only

        state = PartialState(cpu=self.device.type == "cpu", timeout=PATIENCE)
        self.rank = state.process_index
        if self.device.type != "cpu":  # accelerate numbers even that, and torch.load stumbles
            self.device = torch.device(str(state.device))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a sequence, in order; the parts differ by one item at most."""
        bounds = [len(items) * rank // self.count for rank in (self.rank, self.rank + 1)]
        return items[bounds[0] : bounds[1]]

    def sum(self, values: Tensor) -> Tensor:
        """Adds up the processes' tensors, which must have one shape."""
        if self.count > 1:
            values = values.to(self.device).clone()
            distributed.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """What each process gives, in order of their numbers; all must ask."""
        if self.count == 1:
            return [value]
        values: list[T] = [value] * self.count
        distributed.all_gather_object(values, value)
        return values

    def heard(self, word: str | None) -> str | None:
        """What one of the processes has to say to all, the first of them; all must ask."""
        return next((word for word in self.gather(word) if word is not None), None)

    def least(self, number: int) -> int:
        """The least of the processes' numbers."""
        if self.count == 1:
            return number
        value = torch.tensor(number, device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MIN)
        return int(value)

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            distributed.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Makes the processes average the gradients of a model's trained weights."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model)

    @contextmanager
    def gathering(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Adds gradients up here, and averages them over the processes in the last part."""
        if self.count == 1 or last:
            yield
            return
        with model.no_sync():  # type: ignore[operator]
            yield

    def print(self, text: str) -> None:
        """Prints once."""
        if self.first:
            print(text)

    def part(self) -> None:
        """Leaves the others; nothing more can be shared."""
        if self.count > 1:
            distributed.destroy_process_group()
