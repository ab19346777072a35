"""Keeps tensors of one shape in files: each written once, whole, verified when it is opened."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from animesketchnet_core.files import write_safetensors

from .files import make_folder


class Store:
    """Tensors of one shape under 32-byte keys, in files that are written once, whole, and mapped.

    Stored as float16. A file that is damaged is deleted when the store is opened, and its items
    are made again.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.folder = folder
        self.shape = shape
        self._chunks: list[Tensor] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._mapped: set[Path] = set()
        make_folder(folder)
        self.refresh()

    def refresh(self) -> None:
        """Maps the chunks that were written since, by other processes too."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._mapped:
                self._map(path)

    @property
    def item_bytes(self) -> int:
        """Size of one item."""
        return 2 * torch.Size(self.shape).numel()

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Lists the keys that the store lacks, each once, in the given order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def add(self, keys: Sequence[bytes], values: Tensor) -> None:
        """Writes a chunk.

        Args:
            keys: n keys.
            values: [n, *shape], finite and within float16's range.
        """
        values = values.detach().to("cpu", torch.float16).contiguous()
        if not values.isfinite().all():
            raise ValueError(
                f"An encoder gave NaN, infinite or too large values for {self.folder.name}; run "
                'it in another precision (cache.precision = "fp32").'
            )
        tensors = {"keys": _pack(keys), "values": values}
        metadata = {"crc32": str(_crc32(**tensors))}
        path = self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:24]}.safetensors"
        write_safetensors(path, tensors, metadata)
        self._map(path)

    def hold(self, device: torch.device) -> None:
        """Copies what is stored into the CPU's memory or the GPU's."""
        self._chunks = [torch.empty_like(c, device=device).copy_(c) for c in self._chunks]

    def get(self, keys: Iterable[bytes]) -> Tensor:
        """Collects items: float16 [n, *shape], where they are held; on the CPU if they are not."""
        places = [self._places[key] for key in keys]
        return torch.stack([self._chunks[chunk][row] for chunk, row in places])

    def _map(self, path: Path) -> None:
        """Maps a chunk's file into memory, if it is whole."""
        try:
            with safe_open(path, "pt") as file:
                keys, values = file.get_tensor("keys"), file.get_tensor("values")
                whole = file.metadata()["crc32"] == str(_crc32(keys, values))
        except (SafetensorError, OSError, KeyError, TypeError):
            whole, keys, values = False, torch.empty(0), torch.empty(0)
        types = keys.dtype, values.dtype
        if not whole or types != (torch.uint8, torch.float16) or not self._fit(keys, values):
            with suppress(OSError):  # another process was first, or the disk is read-only
                path.unlink()
            return
        self._mapped.add(path)
        for row, key in enumerate(keys):
            self._places[key.numpy().tobytes()] = (len(self._chunks), row)
        self._chunks.append(values)

    def _fit(self, keys: Tensor, values: Tensor) -> bool:
        count = keys.shape[:1]
        return keys.shape == (*count, 32) and values.shape == (*count, *self.shape)


def _pack(keys: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), 32)


def _crc32(keys: Tensor, values: Tensor) -> int:
    checksum = 0
    for tensor in (keys, values):
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(content, checksum)  # type: ignore[arg-type]
    return checksum
