"""The machine: its name, what work costs on it, and what it can do at best."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch


def name(device: torch.device | str = "cpu") -> str:
    """Processor or GPU, threads and versions."""
    gpu = torch.device(device).type == "cuda"
    called = torch.cuda.get_device_name() if gpu else _processor()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{called}, {torch.get_num_threads()} threads, {versions}"


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", known.read_text(), re.M) if known.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def seconds(work: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Of processors, which other programs leave alone; where there is a GPU, by the clock."""
    if torch.device(device).type != "cuda":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def bytes_taken(work: Callable[[], object]) -> int:
    """The most memory that this process held during the work, beyond what it held before; Linux."""
    before = forget_peak_bytes()
    work()
    return max(0, peak_bytes() - before)


def forget_peak_bytes() -> int:
    """Begins a new peak at what this process holds now, and returns that; Linux."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def peak_bytes() -> int:
    """The most that this process has held since then."""
    return _status("VmHWM:")


def _status(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) * 1024


def flops_a_second(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, side: int = 2048
) -> float:
    """The best of a few products of matrices: the bound of what multiplies."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(5))


def bytes_a_second(device: torch.device | str = "cpu", size: int = 1 << 28) -> float:
    """The best of a few copies, read and written: the bound of what only passes over memory."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(seconds(lambda: target.copy_(source), device) for _ in range(5))
