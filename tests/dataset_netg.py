"""Weights in the layout of Anime2Sketch's netG.pth: 32 tensors under their real names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from animesketchnet_core.anime2sketch import Anime2Sketch
from animesketchnet_core.anime2sketch_file import original_keys


def write_netg(path: Path, base_width: int = 4, seed: int = 0, *, edges: bool = False) -> Path:
    """Writes random ones, whose drawings have contrast; the real base width is 64 (218 MB).

    With `edges` the net's first and last layer draw how steep the picture is, dark on white.
    """
    generator = torch.Generator().manual_seed(seed)
    net = Anime2Sketch(base_width=base_width, device="meta")
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    scale = 0.3 / base_width**0.5  # as wide a net adds up as many more
    keys = original_keys()
    tensors = {
        key: torch.randn(shapes[name], generator=generator) * scale for name, key in keys.items()
    }
    if edges:
        smooth, slope = torch.tensor([1.0, 3, 3, 1]) / 8, torch.tensor([-1.0, -1, 1, 1]) / 2
        down = torch.outer(smooth, slope).expand(3, -1, -1) / 3
        tensors[keys["down.0.weight"]][:4] = torch.stack([down, -down, down.mT, -down.mT])
        tensors[keys["down.0.bias"]].zero_()
        up = tensors[keys["up.0.weight"]].zero_()  # [2 base_width, 1, 4, 4]
        up[:4] = -32 * torch.outer(smooth, smooth)
        tensors[keys["up.0.bias"]].fill_(4)
    torch.save(tensors, path) if path.suffix == ".pth" else save_file(tensors, path)
    return path
