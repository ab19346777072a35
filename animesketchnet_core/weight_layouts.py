"""The key layouts in which IP-Adapter weights are found, brought to one.

- original, and ours: `image_proj.*` and `ip_adapter.{n}.to_k_ip.weight`
- accelerate, the reference trainer's checkpoints: `image_proj_model.*` and `adapter_modules.{n}.*`,
  or only `unet.{layer}.processor.*` where safetensors dropped the shared tensors
- diffusers: `encoder_hid_proj.image_projection_layers.0.*`, with other names inside, and
  `{layer}.processor.to_k_ip.0.weight`

tencent-ailab/IP-Adapter, tutorial_train_plus.py; diffusers, loaders/unet.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class CanonicalKeys:
    """Where the tensors of the original layout are found in a file.

    Attributes:
        sources: by original key, the file's keys whose tensors, joined along the first axis, are
            that tensor (two where diffusers split `to_kv`, otherwise one).
        unknown: keys that belong to nothing, in the file's order.
        whole_model: the file is a checkpoint that holds the frozen models too, so that unknown keys
            are expected.
    """

    sources: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    whole_model: bool


def canonical_keys(keys: Iterable[str]) -> CanonicalKeys:
    """Maps a file's keys to the original layout."""
    keys = list(keys)
    numbers = _layer_numbers(keys)
    names = _projection_names(keys)
    found: dict[str, list[str]] = {}
    unknown = []
    for key in keys:
        bare = key.removeprefix("module.")  # DistributedDataParallel's prefix
        name = _canonical(bare, numbers, names)
        if name is None:
            unknown.append(key)
        else:
            found.setdefault(name, []).append(key)
    sources = {name: _sources(name, candidates) for name, candidates in found.items()}
    whole_model = bool(numbers) or any("image_proj_model." in key for key in keys)
    return CanonicalKeys(sources, tuple(unknown), whole_model)


_FLAT = re.compile(r"(?:image_proj|image_proj_model)\.(.+)")
_NUMBERED = re.compile(r"(?:ip_adapter|adapter_modules)\.(.+)")
_PROJECTION = re.compile(r"(?:unet\.)?encoder_hid_proj\.image_projection_layers\.0\.(.+)")
_PROCESSOR = re.compile(
    r"(?:unet\.)?(?P<layer>(?:down_blocks|up_blocks|mid_block)\..*\.attn2)"
    r"\.processor\.(?P<name>to_[kv]_ip)(?:\.0)?\.weight"
)

# diffusers' names inside a Resampler layer -> IP-Adapter's. to_k and to_v are the halves of to_kv.
_DIFFUSERS_LAYER = {
    "ln0.weight": "0.norm1.weight",
    "ln0.bias": "0.norm1.bias",
    "ln1.weight": "0.norm2.weight",
    "ln1.bias": "0.norm2.bias",
    "attn.to_q.weight": "0.to_q.weight",
    "attn.to_k.weight": "0.to_kv.weight",
    "attn.to_v.weight": "0.to_kv.weight",
    "attn.to_out.0.weight": "0.to_out.weight",
    "ff.0.weight": "1.0.weight",
    "ff.0.bias": "1.0.bias",
    "ff.1.net.0.proj.weight": "1.1.weight",
    "ff.1.net.2.weight": "1.3.weight",
}


# diffusers' names in the plain IP-Adapter's projection, and in that of Full Face.
_DIFFUSERS_PLAIN = {"image_embeds.weight": "proj.weight", "image_embeds.bias": "proj.bias"}
_DIFFUSERS_FULL = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "proj.3"}.items()
    for kind in ("weight", "bias")
}


def _projection_names(keys: Iterable[str]) -> dict[str, str]:
    """Picks the table of diffusers' names: "norm" stands in two kinds for two things."""
    names = {match[1] for key in keys if (match := _PROJECTION.search(key))}
    return _DIFFUSERS_FULL if "ff.net.0.proj.weight" in names else _DIFFUSERS_PLAIN


def _canonical(key: str, numbers: dict[str, int], names: dict[str, str]) -> str | None:
    if match := _FLAT.fullmatch(key):
        return f"image_proj.{match[1]}"
    if match := _NUMBERED.fullmatch(key):
        return f"ip_adapter.{match[1]}"
    if match := _PROCESSOR.fullmatch(key):
        return f"ip_adapter.{numbers[match['layer']]}.{match['name']}.weight"
    if match := _PROJECTION.fullmatch(key):
        return f"image_proj.{_from_diffusers(match[1], names)}"
    return None


def _from_diffusers(name: str, names: dict[str, str]) -> str:
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    if match is None:
        return names.get(name, name)
    return f"layers.{match[1]}.{_DIFFUSERS_LAYER.get(match[2], match[2])}"


def _layer_numbers(keys: Iterable[str]) -> dict[str, int]:
    """Numbers the layers named by attention processors: 1, 3, 5, ... in down, up, middle order."""
    layers = {
        m["layer"] for key in keys if (m := _PROCESSOR.fullmatch(key.removeprefix("module.")))
    }
    return {layer: 2 * i + 1 for i, layer in enumerate(sorted(layers, key=_file_place))}


def _file_place(layer: str) -> tuple[int, list[int]]:
    block = ("down_blocks", "up_blocks", "mid_block").index(layer.split(".", 1)[0])
    return block, [int(number) for number in re.findall(r"\.(\d+)(?=\.)", layer)]


def _sources(name: str, candidates: list[str]) -> tuple[str, ...]:
    """Picks a tensor's key or keys where a file holds it more than once (accelerate's .bin)."""
    halves = tuple(
        key
        for half in ("attn.to_k.weight", "attn.to_v.weight")
        for key in candidates
        if key.endswith(half)
    )
    return halves if name.endswith(".to_kv.weight") and len(halves) == 2 else (candidates[0],)
