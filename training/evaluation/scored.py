"""A picture with its figures: what tables, figures and the report are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scored:
    """One picture of one method.

    Attributes:
        method: who drew it.
        part: what it was drawn for: "table1", "table2", "figure4" or "alpha".
        pair: id of the pair.
        prompt: of the pair.
        reference: of the pair; None: it has none.
        seed: of the noise.
        alpha: strength of the reference; NaN where the method has none.
        picture: its file.
        values: figures by the columns' keys; NaN where one does not apply.
    """

    method: str
    part: str
    pair: str
    prompt: str
    reference: Path | None
    seed: int
    alpha: float
    picture: Path
    values: Mapping[str, float]
