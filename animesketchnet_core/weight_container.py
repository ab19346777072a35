"""Opens a weight file, safetensors or pickle, without ever running what is in it.

The container is told by its first bytes, never by its name. Only shapes are read at first; tensors
follow one by one, so that a 3.6 GB training checkpoint costs no more memory than its adapter.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class UnreadableWeightsError(ValueError):
    """No weight file, a damaged one, or one that could run code; says which, and no more."""


@dataclass(frozen=True)
class WeightContainer:
    """An open weight file.

    Attributes:
        shapes: each tensor's shape by its key in the file; nested keys are joined by dots.
        read: gives a tensor by its key, on the CPU; it may lie in the mapped file, so copy it.
            Raises UnreadableWeightsError for a tensor that is not stored in full.
        metadata: the safetensors header's strings; empty for pickles.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    metadata: Mapping[str, str]


def open_weights(path: Path) -> WeightContainer:
    """Opens a .safetensors or a .bin / .pt / .ckpt file.

    Raises:
        FileNotFoundError: no such file.
        UnreadableWeightsError: a folder, no weight file, a damaged one, or one that holds code.
    """
    if path.is_dir():
        raise UnreadableWeightsError(
            "This is a folder; needed is the weight file itself (in a training checkpoint usually "
            "model.safetensors or pytorch_model.bin)."
        )
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:9] == b"{":  # 8 bytes of header length, then JSON
        return _open_safetensors(path)
    if head.startswith(_ZIP):
        return _open_pickle(path, zipped=True)
    if head.startswith(_PICKLE):  # torch.save before 1.6
        return _open_pickle(path, zipped=False)
    raise UnreadableWeightsError(f"This is {_other_content(head)}, not a weight file.")


_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_MOST_VALUES = 100_000
_DEEPEST_NESTING = 3


def _other_content(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.lstrip().startswith(b"<"):
        return "a web page (the download saved a login or error page)"
    if head.startswith(b"version https://"):
        return "a Git LFS pointer (run `git lfs pull` to fetch the real file)"
    return f"a file that starts with {head!r}"


def _open_safetensors(path: Path) -> WeightContainer:
    try:
        file = safe_open(path, framework="pt")
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UnreadableWeightsError(
            f"This safetensors file is damaged or incomplete ({error}); it has "
            f"{path.stat().st_size:,} bytes. Copy or download it again."
        ) from error
    return WeightContainer(shapes, file.get_tensor, file.metadata() or {})


def refuse_compressed(path: Path) -> None:
    """Refuses a zip file whose parts hold more than the file does: torch never writes such a one.

    Small ones can unpack to more than the memory holds, and mapped ones are read as they lie.

    Raises:
        UnreadableWeightsError: it is compressed, or its parts overlap.
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        claimed, size = sum(part.file_size for part in archive.infolist()), path.stat().st_size
    if claimed > size:
        raise UnreadableWeightsError(
            f"This zip file is compressed: its {size:,} bytes claim to hold {claimed:,}, which "
            "weight files never do. Get the .safetensors form of it."
        )


def _open_pickle(path: Path, *, zipped: bool) -> WeightContainer:
    if not pickles_are_safe(torch.__version__):
        raise UnreadableWeightsError(
            f"This is a pickle file, which torch {torch.__version__} cannot open without running "
            "code that may be in it (CVE-2025-32434). Get the .safetensors form of it, or update "
            "torch to 2.6 or newer."
        )
    try:
        if zipped:
            refuse_compressed(path)
        # By its path a file can be mapped, but torch judges a name that ends in .safetensors.
        with path.open("rb") as file:
            by_path = zipped and path.suffix != ".safetensors"
            source = path if by_path else file
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=by_path)
    except UnreadableWeightsError:
        raise
    except Exception as error:  # a hostile or damaged pickle can make the unpickler raise anything
        raise UnreadableWeightsError(
            "This pickle file is damaged, or holds more than tensors and could run code "
            f"({_first_line(error)}). Get the .safetensors form of it."
        ) from error
    tensors = dict(_tensors_in(content))
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return WeightContainer(shapes, lambda key: _stored_in_full(key, tensors[key]), {})


def pickles_are_safe(version: str) -> bool:
    """Whether this torch's `weights_only=True` runs no code: from 2.6 on (CVE-2025-32434).

    Args:
        version: such as "2.14.1+cpu".
    """
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= (2, 6)


def _tensors_in(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Lists the tensors of nested dicts, at most three deep; other values are passed over."""
    if isinstance(content, dict):
        for wrapper in ("state_dict", "module"):  # Lightning's and DeepSpeed's
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
    for count, (key, value) in enumerate(_walk(content, "", _DEEPEST_NESTING)):
        if count == _MOST_VALUES:  # dicts that share their children grow without end
            raise UnreadableWeightsError(f"This pickle holds over {_MOST_VALUES:,} values.")
        if isinstance(value, Tensor):
            yield key, value


def _walk(content: Any, prefix: str, levels: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict) or levels == 0:
        return
    for key, value in content.items():
        if not isinstance(key, (str, int)):  # the text of nested tuples can be without end
            continue
        yield f"{prefix}{key}", value
        yield from _walk(value, f"{prefix}{key}.", levels - 1)


def _stored_in_full(key: str, tensor: Tensor) -> Tensor:
    """Refuses a tensor that claims more values than the file holds, or of an exotic layout."""
    ordinary = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not ordinary or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise UnreadableWeightsError(f"{key} is not an ordinary tensor stored in full.")
    return tensor.detach()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
