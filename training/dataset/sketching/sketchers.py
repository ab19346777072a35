"""The ways to sketch a colour picture, each opened once and used for many pictures.

Pictures stay 8-bit; a network is given strips or tiles of them, and its rows are rounded to 8 bits
as they come. A sketcher therefore takes 4 bytes a pixel for picture and sketch, and beside them
what `memory_needed` says for Anime2Sketch, a row of tiles for "tiles" and "onnx", or 20 bytes a
pixel for "lines" and "ink".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from animesketchnet_core.anime2sketch_file import (
    WrongSketcherError,
    check_anime2sketch,
    read_anime2sketch,
)
from animesketchnet_core.anime2sketch_strips import sketch_strips
from animesketchnet_core.ink import draw_ink
from animesketchnet_core.sketch_extraction import draw_lines
from training.loading import ModelError

from ..config import SketchSettings
from ..images import Pixels
from .onnx_network import open_onnx
from .tiles import Network, Tiling, blend_tiles

Sketcher = Callable[[Pixels], Pixels]
"""Sketches a picture: uint8 [h, w, 3] to uint8 [h, w], dark on white (if all goes well)."""


def open_sketcher(settings: SketchSettings, device: torch.device, threads: int = 0) -> Sketcher:
    """Loads what a method needs.

    Args:
        settings: the method and its own.
        device: where the work is done.
        threads: of an ONNX network on a processor; 0 for its own choice.

    Raises:
        ModelError: the weights are not given, missing, damaged or something else; or a network of
            this kind cannot be run in such tiles.
    """
    if settings.method == "lines":
        return lines_sketcher(settings, device)
    if settings.method == "ink":
        return _whole(
            lambda picture: draw_ink(picture, settings.line_width, settings.detail), device
        )
    if settings.method == "anime2sketch":
        return _anime2sketch(settings, device)
    network = open_onnx(_weights(settings, _ONNX), settings, device, threads)
    return _tiled(network, tiling_of(settings))


def check_weights(settings: SketchSettings) -> None:
    """Refuses what `open_sketcher` would refuse for its file, without loading it.

    Raises:
        ModelError: the weights are not given, missing, or something else.
    """
    if settings.method == "onnx":
        _weights(settings, _ONNX)
    elif settings.method == "anime2sketch":
        path = _weights(settings, _NET_G)
        try:
            check_anime2sketch(path)
        except WrongSketcherError as error:
            raise ModelError(f"sketch.weights is {path}. {error}") from error


def lines_sketcher(settings: SketchSettings, device: torch.device) -> Sketcher:
    """The one that needs no weights, which also replaces others' faulty sketches."""
    return _whole(lambda picture: draw_lines(picture, settings.line_width, settings.detail), device)


def tiling_of(settings: SketchSettings) -> Tiling:
    """How pictures are cut.

    Raises:
        ModelError: the numbers leave gaps between tiles.
    """
    try:
        return Tiling(settings.tile, settings.overlap, settings.margin, multiple=settings.multiple)
    except ValueError as error:
        raise ModelError(f"The sketch settings do not fit together: {error}") from error


def uses_tiles(settings: SketchSettings) -> bool:
    """Whether a picture is sketched in tiles that may show seams."""
    return settings.method == "onnx" or (
        settings.method == "anime2sketch" and settings.tiling == "tiles"
    )


def _whole(draw: Callable[[Tensor], Tensor], device: torch.device) -> Sketcher:
    def sketch(picture: Pixels) -> Pixels:
        with torch.no_grad():
            return _collect([draw(torch.from_numpy(picture).to(device))], picture)

    return sketch


def _tiled(network: Network, tiling: Tiling) -> Sketcher:
    def sketch(picture: Pixels) -> Pixels:
        return _collect(blend_tiles(network, torch.from_numpy(picture), tiling), picture)

    return sketch


def _anime2sketch(settings: SketchSettings, device: torch.device) -> Sketcher:
    path = _weights(settings, _NET_G)
    try:
        net = read_anime2sketch(path, device=device)
    except WrongSketcherError as error:
        raise ModelError(f"sketch.weights is {path}. {error}") from error
    memory = int(settings.memory_gb * 1e9)

    def strips(picture: Tensor) -> Iterable[Tensor]:
        return sketch_strips(net, picture, memory=memory, device=device)

    if settings.tiling == "tiles":
        return _tiled(lambda tile: torch.cat(list(strips(tile))), tiling_of(settings))
    return lambda picture: _collect(strips(torch.from_numpy(picture)), picture)


def _collect(strips: Iterable[Tensor], picture: Pixels) -> Pixels:
    """Rounds rows [y, w] to 8 bits as they come, up to the picture's height."""
    drawing = np.empty(picture.shape[:2], dtype=np.uint8)
    top = 0
    for strip in strips:
        rows = strip.mul(255).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()
        drawing[top : top + len(rows)] = rows
        top += len(rows)
    return drawing


def _weights(settings: SketchSettings, needed: str) -> Path:
    """The file that the settings name.

    Raises:
        ModelError: none is named, or it is not there.
    """
    problem = f"there is no file {settings.weights}" if settings.weights else "it is empty"
    path = Path(settings.weights)
    if not settings.weights or not path.is_file():
        raise ModelError(
            f'sketch.method "{settings.method}" needs sketch.weights, and {problem}. {needed} '
            'The method "lines" needs no weights.'
        )
    return path


_NET_G = (
    "Set it to the path of netG.pth, Anime2Sketch's `default` generator (218 MB): "
    "https://huggingface.co/lllyasviel/Annotators/resolve/main/netG.pth. ComfyUI users have it in "
    "models/animesketchnet_sketchers, or in "
    "custom_nodes/comfyui_controlnet_aux/ckpts/lllyasviel/Annotators."
)
_ONNX = (
    "Set it to the path of an ONNX network that takes float [1, 3, height, width] and gives "
    "[1, 1 or 3, height, width]."
)
