"""Reads and writes the adapter's weight file.

Read are all IP-Adapters that read an image encoder (see `image_projection`). Written is the layout
of IP-Adapter-Plus (83 tensors and 49,087,488 parameters for SD v1.5), which ComfyUI_IPAdapter_plus
and diffusers load as it is, with our metadata in the safetensors header.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from .adapter import sizes_of
from .adapter_metadata import AdapterMetadata
from .files import write_atomically
from .image_features import where_to_get
from .unet_layers import UNetShape, cross_attention_layers
from .weight_container import UnreadableWeightsError, WeightContainer, open_weights
from .weight_kinds import (
    DOWNLOADS,
    SDXL_TOKEN_WIDTH,
    WHERE,
    WrongAdapterError,
    check_complete,
    check_kind,
)
from .weight_layouts import CanonicalKeys, canonical_keys

__all__ = [
    "AdapterMetadata",
    "WrongAdapterError",
    "check_adapter_file",
    "check_fits",
    "check_fits_encoder",
    "check_fits_unet",
    "read_adapter",
    "write_adapter",
]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_adapter(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], AdapterMetadata | None]:
    """Reads an adapter, in whichever layout and container it is stored.

    Args:
        path: a .safetensors or .bin file.

    Returns:
        The tensors under the original layout's keys, on the CPU in the file's type, and the
        metadata, None for files of other makers.

    Raises:
        FileNotFoundError: no such file.
        WrongAdapterError: the file is not an adapter that can be served.
    """
    path = Path(path)
    with _opened(path, path) as container:
        state_dict = _read_tensors(container)
        return state_dict, _read_metadata(container, state_dict)


def check_adapter_file(path: Path) -> None:
    """Refuses a file that is something else, without reading its weights.

    Raises:
        FileNotFoundError: no such file.
        WrongAdapterError: says what the file is and what is needed.
    """
    with _opened(path, path.name) as container:
        _checked_keys(container)


def write_adapter(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    metadata: AdapterMetadata,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes an adapter; the file appears complete or not at all.

    Args:
        path: where to; an existing file is replaced.
        state_dict: `AnimeSketchAdapter.state_dict()`.
        metadata: how it was trained.
        dtype: type of the stored weights.

    Raises:
        StorageError: the file cannot be written.
        WrongAdapterError: the tensors are not a whole adapter, or not finite in this type.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    check_complete(shapes)
    _check_num_tokens(metadata, state_dict)
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in state_dict.items()
    }
    for key, tensor in tensors.items():
        _check_finite(key, tensor)
    content = _serialise(tensors, metadata.to_strings())
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(content))


def check_fits(state_dict: Mapping[str, Tensor], shape: UNetShape, width: int) -> None:
    """Checks that an adapter fits a UNet and an image encoder.

    Args:
        state_dict: the adapter's tensors.
        shape: the UNet's shape.
        width: width of the image encoder's features, of the kind that the adapter reads.

    Raises:
        WrongAdapterError: it does not; says which of the two to exchange, and for what.
    """
    check_fits_unet(state_dict, shape)
    check_fits_encoder(state_dict, width)


def check_fits_unet(state_dict: Mapping[str, Tensor], shape: UNetShape) -> None:
    """Checks that an adapter has K', V' for each of a UNet's layers (see `check_fits`)."""
    projection, channels = sizes_of(_shapes_of(state_dict))
    wanted = {layer.index: layer.channels for layer in cross_attention_layers(shape)}
    if projection.output_dim != shape.cross_attention_dim or channels != wanted:
        found = f"{len(channels)} layers and tokens of width {projection.output_dim}"
        needed = f"{len(wanted)} layers and tokens of width {shape.cross_attention_dim}"
        raise WrongAdapterError(
            f"The adapter is made for {_family(projection.output_dim)} ({found}), but the MODEL is "
            f"{_family(shape.cross_attention_dim)} ({needed}; layer widths "
            f"{sorted(set(wanted.values()))}). Use {_model_for(projection.output_dim)}, or "
            f"{_adapter_for(shape.cross_attention_dim)}."
        )


def check_fits_encoder(state_dict: Mapping[str, Tensor], width: int) -> None:
    """Checks that an adapter reads an image encoder's features (see `check_fits`)."""
    projection, _ = sizes_of(_shapes_of(state_dict))
    reads, wanted = projection.reads, projection.embedding_dim
    if wanted != width:
        raise WrongAdapterError(
            f"The adapter reads the {reads.value} of {reads.encoder(wanted)} (width {wanted}), but "
            f"the CLIP_VISION gives {reads.value} of width {width} ({reads.encoder(width)}). "
            f"{where_to_get(reads.encoder(wanted))}"
        )


@contextmanager
def _opened(path: Path, name: str | Path) -> Iterator[WeightContainer]:
    """Opens a file; what is wrong with it, now or as it is read, is told under its name."""
    try:
        yield open_weights(path)
    except UnreadableWeightsError as error:
        raise WrongAdapterError(f"{name}: {error} {WHERE}") from error
    except WrongAdapterError as error:
        raise WrongAdapterError(f"{name}: {error}") from error


def _checked_keys(container: WeightContainer) -> CanonicalKeys:
    """Finds a whole adapter's tensors by the file's keys and shapes alone."""
    keys = canonical_keys(container.shapes)
    shapes = {
        name: _joined_shape([container.shapes[source] for source in sources])
        for name, sources in keys.sources.items()
    }
    check_kind(container.shapes, keys, shapes)
    check_complete(shapes)
    return keys


def _read_tensors(container: WeightContainer) -> dict[str, Tensor]:
    state_dict = {  # cat copies, so that nothing stays tied to the mapped file
        name: torch.cat([container.read(source) for source in sources])
        for name, sources in _checked_keys(container).sources.items()
    }
    for name, tensor in state_dict.items():
        _check_finite(name, tensor)
    return state_dict


def _joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of tensors joined along the first axis; the first one's where they do not fit."""
    first = shapes[0]
    if len(shapes) == 1 or not first or any(shape[1:] != first[1:] for shape in shapes):
        return first
    return (sum(shape[0] for shape in shapes), *first[1:])


def _check_finite(key: str, tensor: Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        raise WrongAdapterError(
            f"{key} is stored as {tensor.dtype}; needed is float16, bfloat16 or float32. {WHERE}"
        )
    if not tensor.isfinite().all():
        raise WrongAdapterError(
            f"{key} holds NaN or infinite values as {tensor.dtype}: the training run broke, or its "
            f"weights outgrew the type. Use an earlier checkpoint. {WHERE}"
        )


def _read_metadata(
    container: WeightContainer, state_dict: Mapping[str, Tensor]
) -> AdapterMetadata | None:
    try:
        metadata = AdapterMetadata.from_strings(container.metadata)
    except ValueError as error:
        raise WrongAdapterError(f"The header cannot be read: {error}.") from error
    if metadata is not None:
        _check_num_tokens(metadata, state_dict)
    return metadata


def _check_num_tokens(metadata: AdapterMetadata, state_dict: Mapping[str, Tensor]) -> None:
    projection, _ = sizes_of(_shapes_of(state_dict))
    if projection.num_tokens not in (metadata.num_tokens, None):
        raise WrongAdapterError(
            f"The metadata says {metadata.num_tokens} tokens, the image projection makes "
            f"{projection.num_tokens}."
        )


def _serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Makes the bytes of a safetensors file, the same ones each time.

    The library writes the metadata in random order, so that equal weights would not have equal
    hashes; its header (8 bytes of length, JSON padded to 8) is written anew in a fixed order.
    """
    content = save(tensors, metadata)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, memoryview(content)[8 + length :]])


def _shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state_dict.items()}


def _family(token_width: int) -> str:
    families = {128: "the mini model", 768: "SD v1.5", 1024: "SD v2", 2048: "SDXL"}
    return families.get(token_width, "another UNet")


def _model_for(token_width: int) -> str:
    if token_width == SDXL_TOKEN_WIDTH:
        return "an SDXL MODEL (Illustrious, NoobAI and Pony are such)"
    return f"a MODEL of the adapter's family ({_family(token_width)})"


def _adapter_for(token_width: int) -> str:
    if token_width not in DOWNLOADS:
        return "another adapter"
    return (
        f"an adapter for {_family(token_width)} such as {DOWNLOADS[token_width]}, saved in "
        "ComfyUI/models/ipadapter"
    )
