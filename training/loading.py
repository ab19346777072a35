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
        ModelError: a weight is missing, left over, of another shape or not finite.
    """
    state_dict = _match_prefix(state_dict, model.state_dict())
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        _, first, *others = f"{error}\n".splitlines()
        more = f" And {len(others)} more." if others else ""
        raise ModelError(
            f"The weights in {source} do not fit {type(model).__name__} of this configuration: "
            f"{first.strip()[:300]}{more}"
        ) from error
    check_values(model, state_dict, source)


def check_values(model: nn.Module, state_dict: Mapping[str, Tensor], source: Path) -> None:
    """Refuses weights that are no finite floats where a model's are (see `load_strictly`)."""
    for key, parameter in model.named_parameters():
        given = state_dict[key]
        if given.is_floating_point() != parameter.is_floating_point():
            raise ModelError(
                f"The weight {key} in {source} is stored as {given.dtype}; floats are needed. Get "
                "a file that is not quantised."
            )
        if not given.float().isfinite().all():
            raise ModelError(
                f"The weight {key} in {source} holds NaN or infinite values, so the file is "
                "broken. Copy or download it again."
            )


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
