"""Node schemas that older ComfyUI versions take too."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

_KNOWN = frozenset(inspect.signature(io.Schema).parameters)
_NEWER = frozenset({"search_aliases"})  # from ComfyUI 0.11 on


def schema(**fields: Any) -> io.Schema:
    """Makes a node's schema, without those fields that this ComfyUI is too old to know."""
    return io.Schema(**{k: v for k, v in fields.items() if k in _KNOWN or k not in _NEWER})
