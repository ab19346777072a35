"""What a step of sampling asks of the device: kernels, projections, waits, memory, FLOPs."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from sampling_world import IMAGE_TOKENS, World, layers_of, sampling, unet_alone
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class Operations(TorchDispatchMode):
    """Counts what reaches the device: kernels, linear projections, waits of the host for it."""

    READS = ("_local_scalar_dense", "equal", "nonzero")

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.counts["operations"] += not func.is_view
        self.counts["projections"] += name in ("mm", "addmm", "linear")
        self.counts["syncs"] += self._waits(name, args, result)
        return result

    def _waits(self, name: str, args: Any, result: Any) -> bool:
        if not any(isinstance(each, Tensor) and each.device == self.device for each in args):
            return False  # for values on the host nobody has to wait
        brought = isinstance(result, Tensor) and result.device.type == "cpu" != self.device.type
        return name in self.READS or brought


@contextmanager
def cuda_waits(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """Collects what PyTorch itself reports of the host waiting for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
            caught.clear()  # it says that it is a prototype
        try:
            yield caught
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def observed(world: World, model: Any, size: int, batch: int) -> Counter[str]:
    """Operations of one step, the last of three, and bytes held at its end."""
    seen: list[Counter[str]] = []

    def after(step: int) -> None:
        reported = sum("called a synchronizing CUDA" in str(each.message) for each in caught)
        seen.append(operations.counts + Counter(syncs_reported=reported))
        held["bytes"] = reachable_bytes(model, world.device)
        held["allocated"] = allocated(world.device)

    held: Counter[str] = Counter()
    operations = Operations(world.device)
    # Not in inference mode: there, operations are seen before they are taken apart into kernels.
    with cuda_waits(world.device) as caught, operations:
        sampling(world, model, size, batch, steps=3)(after)
    counts = seen[-1] - seen[-2]
    if world.device.type == "cuda":
        counts["syncs"] = counts["syncs_reported"]
    return counts + held


def reachable_bytes(model: Any, device: torch.device) -> int:
    """Memory of all tensors on a device that hang on a model's patches."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [model.model_options["transformer_options"]]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            if thing.device == device:
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, Mapping):
            waiting += thing.values()
        elif isinstance(thing, list | tuple | set):
            waiting += thing
        else:
            waiting += getattr(thing, "__dict__", {}).values()
    return sum(found.values())


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def branch_flops(world: World, size: int, batch: int) -> int:
    """Operations that one reference adds to a step: Q K'^T, its product with V', alpha, the sum."""
    total = 0
    for layer in layers_of(world):
        block, number, _ = layer.comfy
        level = {"input": number // 3, "middle": 3, "output": 3 - number // 3}[block]
        tokens = math.ceil(size / 8 / 2**level) ** 2
        total += tokens * layer.channels * (4 * IMAGE_TOKENS + 2)
    return 2 * batch * total


def unet_flops(world: World, size: int, batch: int) -> int:
    with FlopCounterMode(display=False) as counter:
        unet_alone(world, size, batch, steps=1)(lambda step: None)
    return counter.get_total_flops()
