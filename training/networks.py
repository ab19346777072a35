"""Opens networks that see, write and judge, from local folders of transformers' layout.

`from_pretrained` fills weights that a folder lacks with chance and says so in a log line only; here
it is an error. Nothing is fetched, and no file is read that could run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .loading import ModelError

SMALL = 1 << 20  # bytes up to which a file is hashed; weights are told by name and size


def open_network(
    kind: Any,
    folder: Path,
    setting: str,
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    pickles: bool = False,
    unused: tuple[str, ...] = (),
) -> Any:
    """Loads a network of transformers, complete or not at all.

    Args:
        kind: its class.
        folder: config.json and the weights.
        setting: that names the folder, for messages.
        source: where such a folder comes from.
        dtype: of the weights.
        device: where it computes.
        pickles: whether `pytorch_model.bin` is read where there is no safetensors file; never
            what is in it beside tensors.
        unused: how the names of weights begin that may be missing, since nobody asks for what
            they compute.

    Raises:
        ModelError: the folder is missing, damaged, of another network, or too large for the GPU.
    """
    check_memory(folder, setting, dtype, device)
    try:
        model, found = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=None if pickles else True,
            weights_only=True, output_loading_info=True,
            torch_dtype=dtype,  # `dtype` came later, and every version reads this
        )  # fmt: skip
    except (*ERRORS, RuntimeError, pickle.UnpicklingError) as error:
        if any(isinstance(cause, pickle.UnpicklingError) for cause in _causes(error)):
            raise ModelError(
                f"{setting} is {folder}, whose pytorch_model.bin is damaged, or holds more than "
                f"tensors and could run code. Use {source}, with model.safetensors."
            ) from error
        raise unreadable(setting, folder, source, error) from error
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(unused))
    if missing:
        raise ModelError(
            f"{setting} is {folder}, which lacks {len(missing)} weights of {kind.__name__} "
            f"({', '.join(missing[:3])}, ...). Needed is {source}."
        )
    return model.eval().requires_grad_(False).to(device)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it: old versions of transformers raise their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def look_once(model: Any) -> None:
    """Lets a network encode pictures once, however many sentences go with them in turn."""
    look = model.vision_model.forward
    last: list[Any] = []

    def look_or_remember(pixel_values: Tensor, **options: Any) -> Any:
        known = bool(last) and last[1] == options and torch.equal(last[0], pixel_values)
        if not known:
            last[:] = [pixel_values, options, look(pixel_values, **options)]
        return last[2]

    model.vision_model.forward = look_or_remember


ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
"""What transformers raises for folders that it cannot read."""


def unreadable(setting: str, folder: Path, source: str, error: Exception) -> ModelError:
    """The error for a folder that transformers cannot read."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ModelError(f"{setting} is {folder}, which cannot be loaded ({reason}). Use {source}.")


def check_folder(folder: str, setting: str, source: str) -> Path:
    """Refuses a folder that is not there or not named.

    Raises:
        ModelError: it names the setting, and where such a folder comes from.
    """
    path = Path(folder)
    if not folder or not (path / "config.json").is_file():
        said = f"is {folder}, where there is no config.json" if folder else "is empty"
        raise ModelError(f"{setting} {said}. Set it to a local folder with {source}.")
    return path


def fingerprint(folder: str) -> str:
    """Tells one folder of a network from another: names, sizes, and what small files say.

    Returns:
        A hash, or nothing for no folder; where the folder lies does not matter.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file()) if folder else []
    if not files:
        return ""
    hashed = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        hashed.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        if size <= SMALL:
            hashed.update(file.read_bytes())
    return hashed.hexdigest()[:16]


def dtype_for(precision: str, device: torch.device) -> torch.dtype:
    """The numbers that networks compute in: never float16, in which T5 overflows.

    On a processor float32 is faster than bfloat16; on GPUs before Ampere there is no other choice.
    """
    if precision != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if able else torch.float32


def weights_in(folder: Path) -> int:
    """Counts the numbers in a folder's safetensors files, from their headers alone.

    Returns:
        0 for files that cannot be read; loading them says why.
    """
    count = 0
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                keys = opened.keys()
                count += sum(math.prod(opened.get_slice(key).get_shape()) for key in keys)
    except (SafetensorError, OSError):
        return 0
    return count


def check_memory(folder: Path, setting: str, dtype: torch.dtype, device: torch.device) -> None:
    """Refuses a network that the GPU's free memory cannot hold, before loading it.

    Raises:
        ModelError: it says how much is needed.
    """
    if device.type != "cuda":
        return
    needed = weights_in(folder) * dtype.itemsize
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free:
        raise ModelError(
            f"{setting} is {folder}, whose weights take {needed / 1e9:.1f} GB as {dtype}, and the "
            f'GPU has {free / 1e9:.1f} GB free. Free some, or set run.device = "cpu".'
        )


def check_sight(
    logits: Callable[[int], Tensor], setting: str, folder: Path | str, what: str = "picture"
) -> None:
    """Refuses a network whose answer does not depend on its input.

    Args:
        logits: the network's, for one of two inputs that differ (0 or 1).
        setting: that names the folder.
        folder: of the network.
        what: differs.

    Raises:
        ModelError: both give the same, or something that is no number.
    """
    one, other = logits(0).float(), logits(1).float()
    scale = float(one.abs().max())
    if not math.isfinite(scale) or not math.isfinite(float(other.abs().max())):
        raise ModelError(f"{setting} is {folder}, which gives values that are not finite.")
    if float((one - other).abs().max()) <= 1e-5 * scale:  # equal up to rounding
        raise ModelError(
            f"{setting} is {folder}, which gives the same for every {what}: it does not look at "
            "it. Its processor, weights and config.json do not belong together; copy the folder "
            "anew from where it came."
        )


def read_config(folder: Path, setting: str, source: str) -> Mapping[str, Any]:
    """Reads a folder's config.json.

    Raises:
        ModelError: it is not JSON.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(setting, folder, source, error) from error
