"""What is drawn and measured: pairs of a prompt and a reference, each with several noises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from animesketchnet_core.clip_input import flatten_onto_white
from training.sources import Pictures


@dataclass(frozen=True)
class Pair:
    """A prompt and the reference sketch that goes with it.

    Attributes:
        id: names it in files and tables; letters, digits, "-" and "_" only.
        prompt: what to draw.
        reference: the sketch's file; None: the pair has a prompt alone.
        wanted: what else a picture should show, by question (only the mini world knows it).
    """

    id: str
    prompt: str
    reference: Path | None = None
    wanted: Mapping[str, int] = field(default_factory=dict)

    def reference_picture(self) -> Tensor:
        """The reference on white, [1, h, w, 3] float32 in [0, 1].

        Raises:
            DataError: it cannot be read; names the file.
            ValueError: the pair has none.
        """
        if self.reference is None:
            raise ValueError(f"The pair {self.id} has no reference.")
        return flatten_onto_white(Pictures().open(str(self.reference)))


@dataclass(frozen=True)
class Case:
    """One picture that every method draws: a pair and the seed of its noise.

    Attributes:
        pair: what is asked for.
        seed: of the noise; the same for every method.
    """

    pair: Pair
    seed: int

    @property
    def id(self) -> str:
        """Names the picture's file."""
        return f"{self.pair.id}-{self.seed:03d}"
