"""Runs any ONNX network that turns a colour picture into a drawing, tile by tile.

TorchScript files are not read: torch deprecated them, and they are programs, not weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from animesketchnet_core.clip_input import unit_range
from training.loading import ModelError

from ..config import SketchSettings
from ..images import PictureError
from ..onnx_session import open_session
from .tiles import Network

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_NEEDED = "sketch.weights wants an ONNX network whose parts this version of onnxruntime knows."


def open_onnx(
    path: Path, settings: SketchSettings, device: torch.device, threads: int = 0
) -> Network:
    """Opens a network as something that draws tiles.

    Args:
        path: the file; its input is float [1, 3, h, w], its first output [1, 1 or 3, h, w].
        settings: the tile, and what black and white are in input and output.
        device: a GPU is used if onnxruntime was built for it.
        threads: on a processor; 0 for onnxruntime's choice.

    Raises:
        ModelError: it is damaged, takes something else, or wants another tile; when it is run:
            it gives something else.
        PictureError: when it is run: it gives values that are not finite.
    """
    session = open_session(path, _NEEDED, device, threads)
    given = _checked_input(session, path)
    fixed = [side for side in given.shape[2:] if isinstance(side, int)]
    if any(side != settings.tile for side in fixed):
        raise ModelError(
            f"{path} takes pictures of {given.shape[3]} x {given.shape[2]} pixels only, and "
            f"sketch.tile is {settings.tile}. Set sketch.tile to the network's size, and "
            "sketch.overlap, sketch.margin and sketch.multiple to fit it."
        )
    kind = np.float16 if given.type == "tensor(float16)" else np.float32
    black_in, white_in = settings.input_values
    black_out, white_out = settings.output_values

    def draw(tile: Tensor) -> Tensor:
        planes = unit_range(tile).movedim(-1, 0)[None] * (white_in - black_in) + black_in
        drawing = session.run(None, {given.name: planes.numpy().astype(kind)})[0]
        _check_drawing(np.asarray(drawing), tile, path)
        grey = torch.from_numpy(np.asarray(drawing, dtype=np.float32))[0].mean(0)  # [t, t]
        return (grey - black_out).div_(white_out - black_out).clamp_(0, 1)

    return draw


def _checked_input(session: InferenceSession, path: Path) -> Any:
    """The network's one input.

    Raises:
        ModelError: it has several, or another than a picture.
    """
    inputs = session.get_inputs()
    fits = len(inputs) == 1 and inputs[0].type in ("tensor(float)", "tensor(float16)")
    if not fits or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in (3, None):
        found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        raise ModelError(
            f"sketch.weights is {path}, whose input is {found}; needed is one of float [1, 3, "
            "height, width]."
        )
    return inputs[0]


def _check_drawing(drawing: np.ndarray, tile: Tensor, path: Path) -> None:
    """Refuses a drawing of another shape than the tile's, or one that is not finite."""
    size = tuple(tile.shape[:2])
    if drawing.ndim != 4 or drawing.shape[1] not in (1, 3) or drawing.shape[2:] != size:
        raise ModelError(
            f"{path} gives {list(drawing.shape)} for a picture of {list(size)}; needed is "
            f"[1, 1 or 3, {size[0]}, {size[1]}]."
        )
    if not np.isfinite(drawing).all():
        raise PictureError(
            f"{path} gives values that are not finite for this picture. Check sketch.input_values, "
            "which says what black and white are for it."
        )
