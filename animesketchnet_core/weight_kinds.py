"""Says by keys and shapes what a weight file is, and refuses what cannot be served.

File names are never looked at: people rename downloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .adapter import AnimeSketchAdapter, sizes_of
from .weight_layouts import CanonicalKeys

Shapes = Mapping[str, tuple[int, ...]]

SD15_TOKEN_WIDTH = 768
SDXL_TOKEN_WIDTH = 2048

_PUBLISHED = "https://huggingface.co/h94/IP-Adapter/resolve/main"
DOWNLOADS = {
    SD15_TOKEN_WIDTH: f"{_PUBLISHED}/models/ip-adapter-plus_sd15.safetensors",
    SDXL_TOKEN_WIDTH: f"{_PUBLISHED}/sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
}
"""A weight file that loads, by the token width of the UNet that it is for."""

NEEDED = (
    "an IP-Adapter weight file for SD v1.5 or SDXL: AnimeSketchNet's own, or a plain, Plus, Plus "
    "Face or Full Face one"
)
WHERE = (
    f"Train one with `python -m training.train`, or download {DOWNLOADS[SD15_TOKEN_WIDTH]} (for "
    f"SDXL {DOWNLOADS[SDXL_TOKEN_WIDTH]}) into ComfyUI/models/ipadapter."
)


class WrongAdapterError(ValueError):
    """A file or adapter that cannot be used: says what was found, what was needed, and the fix."""


def refuse(found: str) -> WrongAdapterError:
    """Makes the error for a file that is something else."""
    return WrongAdapterError(f"This is {found}; needed is {NEEDED}. {WHERE}")


def check_kind(raw_keys: Iterable[str], keys: CanonicalKeys, shapes: Shapes) -> None:
    """Refuses every kind of file but IP-Adapters that read an image encoder.

    Args:
        raw_keys: the file's own keys.
        keys: the same keys in the original layout.
        shapes: the tensors' shapes by original key.

    Raises:
        WrongAdapterError: it is another kind of file.
    """
    raw_keys = list(raw_keys)
    has_projection = any(key.startswith("image_proj.") for key in shapes)
    has_layers = any(key.startswith("ip_adapter.") for key in shapes)
    if not has_projection and not has_layers:
        raise refuse(foreign_kind(raw_keys))
    other = _reads_faces(shapes)
    if other is not None:
        raise refuse(other)
    if not has_projection or not has_layers:
        part = "K', V' layers (ip_adapter.*)" if has_projection else "projection (image_proj.*)"
        raise refuse(f"an incomplete IP-Adapter without its {part}")
    if keys.unknown and not keys.whole_model:
        raise refuse(f"an IP-Adapter with {len(keys.unknown)} unknown tensors{some(keys.unknown)}")


def check_complete(shapes: Shapes) -> None:
    """Checks that a file has every tensor of an adapter, each in its shape, and no other.

    Raises:
        WrongAdapterError: names the tensors that are missing, too many, or of a wrong shape.
    """
    expected = _expected_shapes(shapes)
    missing = [key for key in expected if key not in shapes]
    extra = [key for key in shapes if key not in expected]
    wrong = [
        f"{key} is {list(shapes[key])} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    if missing or extra or wrong:
        raise WrongAdapterError(
            f"The adapter's tensors do not fit together: {len(missing)} missing{some(missing)}, "
            f"{len(extra)} unexpected{some(extra)}, {len(wrong)} of a wrong shape{some(wrong)}. "
            f"The file is broken or was made by another program; needed is {NEEDED}. {WHERE}"
        )


def _expected_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    empty = [key for key, shape in shapes.items() if 0 in shape]
    if empty:
        raise WrongAdapterError(f"The adapter has tensors without values{some(empty)}. {WHERE}")
    try:
        projection, channels = sizes_of(shapes)
        _check_numbers(channels)
        adapter = AnimeSketchAdapter(projection, channels, device="meta")
    except (KeyError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise WrongAdapterError(
            f"The adapter's sizes cannot be read off its tensors "
            f"({type(error).__name__}: {error}), so the file is broken. Needed is {NEEDED}. {WHERE}"
        ) from error
    return {key: tuple(tensor.shape) for key, tensor in adapter.state_dict().items()}


def _check_numbers(indices: Iterable[int]) -> None:
    indices = list(indices)
    expected = list(range(1, 2 * len(indices), 2))
    if indices != expected:
        raise ValueError(f"the layers are numbered {indices[:40]}, not {expected[:40]}")


_INSTANTID_FEATURE_WIDTH = 512


def _reads_faces(shapes: Shapes) -> str | None:
    """Names an IP-Adapter that reads face embeddings, None for one that reads CLIP."""
    base = "SDXL" if _token_width(shapes) == SDXL_TOKEN_WIDTH else "SD v1.5"
    reads = "(it reads face embeddings, not CLIP)"
    if any("_lora." in key or "perceiver_resampler" in key for key in shapes):
        return f"an IP-Adapter FaceID for {base} {reads}"
    if "image_proj.norm.weight" in shapes and "image_proj.proj.weight" not in shapes:
        return f"an IP-Adapter FaceID for {base} {reads}"
    if _makes_several_tokens_of_one(shapes):
        return f"an IP-Adapter FaceID for {base} {reads}"
    if shapes.get("image_proj.proj_in.weight", (0, 0))[-1] == _INSTANTID_FEATURE_WIDTH:
        return f"InstantID for {base} {reads}"
    return None


def _makes_several_tokens_of_one(shapes: Shapes) -> bool:
    """Tells FaceID from Full Face in diffusers' layout, which gives both the same names."""
    rows, *_ = shapes.get("image_proj.proj.2.weight") or (0,)
    width, *_ = shapes.get("image_proj.proj.3.weight") or (0,)
    return width > 0 and rows > width and rows % width == 0


def _token_width(shapes: Shapes) -> int | None:
    widths = (shape[-1] for key, shape in shapes.items() if "to_k_ip" in key and shape)
    return next(widths, None)


CLIP_VISION = "a CLIP vision model"

# What else people put into a model folder, by a piece of a key; the first that occurs decides.
_FOREIGN = (
    ("lora_", "a LoRA"),
    (".lora.", "a LoRA"),
    ("hada_w1", "a LoRA (LoHa)"),
    ("lokr_w1", "a LoRA (LoKr)"),
    ("double_blocks.", "a Flux model or adapter"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("model.diffusion_model.", "a Stable Diffusion checkpoint"),
    ("first_stage_model.", "a Stable Diffusion checkpoint"),
    ("down_blocks.0.resnets.", "a diffusion UNet or VAE"),
    ("vision_model.", CLIP_VISION),
    ("visual.transformer.", CLIP_VISION),
    ("layer_scale1.lambda1", "a DINOv2 image encoder"),
    ("text_model.", "a CLIP text encoder"),
    ("encoder.down.", "a VAE"),
    ("emb_params", "a textual inversion embedding"),
    ("string_to_param", "a textual inversion embedding"),
    ("param_groups", "an optimizer's state"),
)


def foreign_kind(keys: Iterable[str]) -> str:
    """Names what a file without any IP-Adapter tensor is, as far as its keys tell."""
    keys = list(keys)
    kind = known_kind(keys)
    if kind is not None:
        return f"{kind}, not an IP-Adapter"
    return f"no IP-Adapter, but a file of {len(keys)} tensors{some(keys)}"


def known_kind(keys: Iterable[str]) -> str | None:
    """Names what a file is that is no IP-Adapter; None if its keys do not tell."""
    keys = list(keys)
    found = (kind for piece, kind in _FOREIGN if any(piece in key for key in keys))
    return next(found, None)


def some(names: Iterable[str]) -> str:
    """Shows the first three names, each cut to a sane length: " (a, b, c, ...)"."""
    names = list(names)
    if not names:
        return ""
    shown = ", ".join(name[:120] for name in names[:3])
    return f" ({shown}{', ...' if len(names) > 3 else ''})"
