"""Ranks pictures that show the same: the best of them stands for all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

from ..ledger import Picture

STEP = 1.05  # of resolution and edge width; a smaller difference is the coding's, and size decides

Key = tuple[bool, int, int, int, int, str]


def ranked(
    pictures: Iterable[Picture], qualities: Mapping[str, bytes], with_text: Set[str] = frozenset()
) -> list[str]:
    """Orders pictures, the best first.

    Those without text come before those with text, then more effective resolution, narrower edges
    and more pixels decide, as far as they were measured; then the ids, so that nothing is chance.

    Args:
        pictures: to be ordered.
        qualities: {picture: JSON} as the stage `measure` writes it; pictures may lack it.
        with_text: pictures that were seen to have a subtitle which others have not.
    """

    def key(picture: Picture) -> Key:
        quality: dict[str, Any] = json.loads(qualities.get(picture.id, b"{}"))
        detail = (quality.get("share") or 0.0) * min(picture.width, picture.height)
        return (
            picture.id in with_text,
            len(quality.get("text") or ()),
            -_steps(detail),
            _steps(quality.get("edge_width") or 0.0),
            -picture.width * picture.height,
            picture.id,
        )

    return [picture.id for picture in sorted(pictures, key=key)]


def _steps(value: float) -> int:
    return round(math.log(max(value, 1e-3), STEP))
