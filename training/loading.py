"""Loads weights into models by name, with nothing missing, left over or misshapen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn


class ModelError(ValueError):
    """A frozen model that is missing, incomplete or of the wrong kind."""


def load_strictly(model: nn.Module, state_dict: Mapping[str, Tensor], source: Path) -> None:
    """Loads weights by name.

    Args:
        model: takes them.
        state_dict: as files name them, of any age of transformers.
        source: where they came from, for the message.

    Raises:
        ModelError: a weight is missing, left over or of another shape.
    """
    state_dict = _match_prefix(state_dict, model.state_dict())
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        _, first, *others = f"{error}\n".splitlines()
        more = f" And {len(others)} more." if others else ""
        raise ModelError(
            f"The weights in {source} do not fit {type(model).__name__} of this configuration: "
            f"{first.strip()}{more}"
        ) from error


def _match_prefix(state_dict: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Adds or takes away "text_model.", which transformers dropped from CLIPTextModel in 5.x.

    Old files also hold the position numbers, which are no weights.
    """
    prefix = "text_model."
    given = {k: v for k, v in state_dict.items() if not k.endswith("embeddings.position_ids")}
    if any(key.startswith(prefix) for key in wanted):
        return {
            k if k.startswith(prefix) or k in wanted else prefix + k: v for k, v in given.items()
        }
    return {key.removeprefix(prefix): value for key, value in given.items()}
