"""Times the cross-attention layers of a ComfyUI UNet by themselves, from to_q to to_out.

What a pack adds to a step is a hundredth of it, and steps differ by more than that; but all that it
adds to a layer lies between those two projections, patched or not.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn


class LayerClock:
    """Sums the time of all attn2 layers; on a CPU the processor's own, on a GPU the GPU's.

    Hangs on the UNet until `remove`.
    """

    def __init__(self, unet: nn.Module, device: torch.device) -> None:
        self.device = device
        self._moments: list[Any] = []  # seconds, or events of the GPU
        layers: list[Any] = [block.attn2 for block in unet.modules() if hasattr(block, "attn2")]
        first = [layer.to_q.register_forward_pre_hook(self._moment) for layer in layers]
        last = [layer.to_out.register_forward_hook(self._moment) for layer in layers]
        self._hooks = first + last

    def _moment(self, *_: object) -> None:
        if self.device.type != "cuda":
            self._moments.append(time.process_time())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._moments.append(event)

    def start(self) -> None:
        """Forgets what has run so far."""
        self._moments.clear()

    def seconds(self) -> float:
        """What the layers have taken since the start; the GPU must have finished them."""
        pairs = zip(self._moments[::2], self._moments[1::2], strict=True)
        if self.device.type == "cuda":
            return sum(begun.elapsed_time(ended) for begun, ended in pairs) / 1e3
        return sum(ended - begun for begun, ended in pairs)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
