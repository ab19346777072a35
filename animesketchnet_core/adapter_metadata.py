"""What a weight file says about itself, so that nodes need not guess how it was trained.

Kept in the safetensors header as strings: our own keys under "animesketchnet.", and those of
Stability AI's ModelSpec (https://github.com/Stability-AI/ModelSpec) that model managers show.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_PREFIX = "animesketchnet."
_FORMAT_KEY = _PREFIX + "format"
_FORMAT = "1"


@dataclass(frozen=True, kw_only=True)
class AdapterMetadata:
    """How an adapter was trained, and so how it must be used.

    Attributes:
        num_tokens: image tokens that the image projection makes of a sketch.
        image_encoder: the CLIP vision model whose features it was trained on.
        hidden_layer: which of the encoder's hidden states, as an index into transformers'
            `hidden_states`; -2 is the penultimate one.
        preprocessing: how a sketch is brought to CLIP's square (see `clip_input`).
        unconditional: what stands for "no sketch" (see `clip_input`).
        recommended_alpha: strength to start from, 0 to 1.
        projection: "resampler", or "linear", the plain IP-Adapter's, which reads CLIP's image
            embedding and no hidden layer.
        base_model: the diffusion model that it was trained on, e.g. "SD v1.5".
        training: facts of the training run (steps, learning rate, data, ...), anything JSON holds.
        title: name that model managers show.
    """

    num_tokens: int
    image_encoder: str
    hidden_layer: int = -2
    preprocessing: str = "pad white"
    unconditional: str = "zeros after normalisation"
    recommended_alpha: float = 0.5
    projection: str = "resampler"
    base_model: str = "SD v1.5"
    training: dict[str, Any] = field(default_factory=dict)
    title: str = "AnimeSketchNet"

    def to_strings(self) -> dict[str, str]:
        """Writes the metadata as a safetensors header holds it: strings only."""
        kind = "ip-adapter" if self.projection == "linear" else "ip-adapter-plus"
        own = {_PREFIX + name: _to_string(value) for name, value in asdict(self).items()}
        return {
            _FORMAT_KEY: _FORMAT,
            **own,
            "format": "pt",  # transformers and diffusers refuse files that do not say so
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"stable-diffusion-v1/{kind}",
            "modelspec.implementation": "https://github.com/tencent-ailab/IP-Adapter",
            "modelspec.title": self.title,
            "modelspec.description": (
                f"Sketch adapter for {self.base_model}, reads {self.image_encoder}. "
                f"Recommended strength {self.recommended_alpha:g}."
            ),
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> AdapterMetadata | None:
        """Reads the metadata of a safetensors header.

        Keys that a later version may have added are ignored.

        Returns:
            The metadata, or None when the file is not from AnimeSketchNet.

        Raises:
            ValueError: the metadata is ours but unreadable.
        """
        if _FORMAT_KEY not in strings:
            return None
        if strings[_FORMAT_KEY] != _FORMAT:
            raise ValueError(
                f"the metadata has format {strings[_FORMAT_KEY]!r}, this version reads "
                f"{_FORMAT!r}; update AnimeSketchNet"
            )
        values = {
            name: _from_string(name, strings[_PREFIX + name], kind)
            for name, kind in _KINDS.items()
            if _PREFIX + name in strings
        }
        missing = [name for name in ("num_tokens", "image_encoder") if name not in values]
        if missing:
            raise ValueError(f"the metadata has no {_PREFIX}{' and no '.join(missing)}")
        return cls(**values)


_KINDS: dict[str, type] = {
    "num_tokens": int,
    "image_encoder": str,
    "hidden_layer": int,
    "preprocessing": str,
    "unconditional": str,
    "recommended_alpha": float,
    "projection": str,
    "base_model": str,
    "training": dict,
    "title": str,
}


def _to_string(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)


def _from_string(name: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text) if kind is dict else kind(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_PREFIX}{name} is {text[:80]!r}, not {kind.__name__}") from error
    if not isinstance(value, kind) or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{_PREFIX}{name} is {text[:80]!r}, not a finite {kind.__name__}")
    return value
