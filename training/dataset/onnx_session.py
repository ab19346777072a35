"""Opens ONNX networks with onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from training.loading import ModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = torch.device("cpu")


def open_session(
    path: Path, needed: str, device: torch.device = CPU, threads: int = 0
) -> InferenceSession:
    """Opens a network.

    Args:
        path: of the file.
        needed: a sentence for its error: which setting wants which network.
        device: a GPU is used if onnxruntime was built for it.
        threads: on a processor; 0 for onnxruntime's choice.

    Raises:
        ModelError: it is damaged, no ONNX network, or has parts that this onnxruntime lacks.
    """
    import onnxruntime  # takes half a second
    from onnxruntime.capi import (
        onnxruntime_pybind11_state as errors,  # pyright: ignore[reportAttributeAccessIssue]
    )

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    there = onnxruntime.get_available_providers()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except (
        errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf,
        errors.NoModel, errors.NotImplemented, errors.RuntimeException,
    ) as error:  # fmt: skip
        raise ModelError(f"onnxruntime cannot open {path} ({error}). {needed}") from error
