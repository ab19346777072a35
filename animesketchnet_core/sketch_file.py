"""Encoded sketches as files: image tokens in safetensors, and which adapter they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import write_safetensors

_PREFIX = "animesketchnet_sketch."
_FORMAT = "1"


class SketchFileError(ValueError):
    """A file that holds no encoded sketches, or those of another adapter."""


@dataclass(frozen=True, eq=False)
class SketchFile:
    """Sketches as image tokens.

    Attributes:
        tokens: image tokens of each sketch, [n, m, t].
        unconditional: image tokens of "no sketch", [1, m, t].
        adapter: fingerprint of the adapter that made them (`adapter_fingerprint`).
        adapter_name: that adapter's name, for messages.
    """

    tokens: Tensor
    unconditional: Tensor
    adapter: str
    adapter_name: str

    def write(self, path: Path) -> None:
        """Writes the file; it appears complete or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        tensors = {
            name: getattr(self, name).float().cpu().contiguous()
            for name in ("tokens", "unconditional")
        }
        metadata = {
            _PREFIX + "format": _FORMAT,
            _PREFIX + "adapter": self.adapter,
            _PREFIX + "adapter_name": self.adapter_name,
        }
        write_safetensors(path, tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> SketchFile:
        """Reads a file.

        Raises:
            FileNotFoundError: no such file.
            SketchFileError: it holds something else, or is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get(_PREFIX + "format") != _FORMAT:
                    raise SketchFileError(
                        f"{path.name} is no file of encoded sketches that this version reads. "
                        "Needed is one that Save Sketch has written."
                    )
                tokens, unconditional = file.get_tensor("tokens"), file.get_tensor("unconditional")
        except SafetensorError as error:
            raise SketchFileError(
                f"{path.name} is damaged or no safetensors file ({error}). Encode the sketch "
                "again and save it with Save Sketch."
            ) from error
        _check(path.name, tokens, unconditional)
        return cls(
            tokens.float(),
            unconditional.float(),
            metadata.get(_PREFIX + "adapter", ""),
            metadata.get(_PREFIX + "adapter_name", "an unknown adapter"),
        )


def adapter_fingerprint(state_dict: Mapping[str, Tensor]) -> str:
    """A hash of what makes image tokens: two adapters share it if their sketches are exchangeable.

    Args:
        state_dict: the adapter's tensors.
    """
    digest = hashlib.sha256()
    for key in sorted(key for key in state_dict if key.startswith("image_proj.")):
        tensor = state_dict[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key}{list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check(name: str, tokens: Tensor, unconditional: Tensor) -> None:
    fits = tokens.ndim == unconditional.ndim == 3 and tokens.shape[1:] == unconditional.shape[1:]
    floats = tokens.is_floating_point() and unconditional.is_floating_point()
    if not fits or not floats or not len(tokens) or len(unconditional) != 1:
        raise SketchFileError(
            f"{name} has tokens {list(tokens.shape)} and unconditional tokens "
            f"{list(unconditional.shape)}; needed are [sketches, tokens, width] and "
            "[1, tokens, width], floats. Save the sketch again with Save Sketch."
        )
    if not all(tensor.float().isfinite().all() for tensor in (tokens, unconditional)):
        raise SketchFileError(f"{name} holds NaN or infinite values. Save the sketch again.")
