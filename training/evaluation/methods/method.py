"""What a method of drawing has to offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..cases import Case


class Method(Protocol):
    """Draws pictures from prompts, references and seeds."""

    @property
    def recipe(self) -> str:
        """All that decides a picture beside its case: hashes of weights, settings.

        Pictures that another recipe drew are drawn again.
        """
        ...

    def draw(self, cases: Sequence[Case]) -> list[Tensor]:
        """Draws one picture for each case, [h, w, 3] float32 in [0, 1] on the CPU.

        What is drawn for a case does not depend on the cases beside it.
        """
        ...
