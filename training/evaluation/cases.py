"""What is drawn and measured: pairs of a prompt and a reference, each with several noises."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from animesketchnet_core.clip_input import flatten_onto_white
from training.sources import DataError, Pictures, Record, read_source, resolve

from .config import WITH_ALPHA, CaseSettings, EvaluateConfig

MORE = 1000  # the first seed of table 2's further pictures


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
    wanted: Mapping[str, int] = field(default_factory=dict, hash=False)

    def reference_picture(self) -> Tensor:
        """The reference on white, [1, h, w, 3] float32 in [0, 1].

        Raises:
            DataError: it cannot be read; names the file.
            ValueError: the pair has none.
        """
        if self.reference is None:
            raise ValueError(f"The pair {self.id} has no reference.")
        return flatten_onto_white(Pictures().open(str(self.reference)))

    @cached_property
    def digest(self) -> str:
        """Tells it from another pair of the same id, by all that it asks for."""
        content = hashlib.sha256(repr((self.prompt, sorted(self.wanted.items()))).encode())
        if self.reference is not None:
            content.update(Pictures().digest(str(self.reference)))
        return content.hexdigest()[:8]


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


@dataclass(frozen=True, eq=False)  # each is itself: comparing all cases takes long
class Job:
    """The pictures that one method draws for one purpose.

    Attributes:
        method: its name.
        part: "table1", "table2", "figure4" or "alpha".
        alpha: strength of the reference; NaN: the method knows none.
        cases: what to draw, those of a pair together.
    """

    method: str
    part: str
    alpha: float
    cases: tuple[Case, ...]


def jobs(config: EvaluateConfig, pairs: Sequence[Pair]) -> list[Job]:
    """All that is to be drawn, those of one method and alpha together."""
    first = tuple(Case(pair, seed) for pair in pairs for seed in range(config.cases.seeds))
    often = pairs[: config.cases.more_prompts]
    more = tuple(Case(p, MORE + k) for p in often for k in range(config.cases.more))
    crossed = tuple(Case(pair, 0) for pair in crossed_pairs(pairs, config.tables.figure_prompts))
    swept = tuple(Case(pair, 0) for pair in pairs[: config.alpha.pairs])
    found = []
    for method in config.methods:
        alpha = method.alpha if method.kind in WITH_ALPHA else math.nan
        found.append(Job(method.name, "table1", alpha, first))
        if method.name in config.tables.table2 and more:
            found.append(Job(method.name, "table2", alpha, more))
        if method.kind != "folder" and crossed:
            found.append(Job(method.name, "figure4", alpha, crossed))
        if method.name in config.alpha.methods:
            values = sorted({*config.alpha.values})
            found += [Job(method.name, "alpha", value, swept) for value in values]
    return found


def crossed_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Figure 4's: the first different prompts, each with the first pair's reference."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))[:count]
    reference = pairs[0].reference
    return [Pair(f"prompt-{n}", prompt, reference) for n, prompt in enumerate(prompts, 1)]


def read_pairs(settings: CaseSettings, output: Path) -> list[Pair]:
    """Reads the pairs of an evaluation.

    Args:
        settings: where they are.
        output: folder of the evaluation, in which the mini world's references are drawn.

    Raises:
        DataError: the list is missing or wrong somewhere; it names the entry.
    """
    if settings.pairs == "mini":
        from training.mini.pairs import draw_pairs  # only the mini world needs its drawings

        return draw_pairs(output / "references", settings.limit or None)
    pictures = Pictures()
    records = read_source(Path(settings.pairs), pictures, "file_name")
    chosen = records[: settings.limit or None]
    pairs = [_pair(record, number, settings, pictures) for number, record in enumerate(chosen, 1)]
    if not pairs:
        raise DataError(f"cases.pairs is {settings.pairs}, which lists no picture.")
    return pairs


def _pair(record: Record, number: int, settings: CaseSettings, pictures: Pictures) -> Pair:
    prompt: Any = record.fields.get(settings.prompt_column)
    prompt = prompt[0] if isinstance(prompt, list) and prompt else prompt
    if not isinstance(prompt, str):
        raise DataError(
            f"{record.where}: {settings.prompt_column} is {prompt!r}; expected the prompt. "
            "cases.prompt_column names the column."
        )
    name = record.picture
    if column := settings.reference_column:
        name = resolve(record.folder, record.fields.get(column), record.where, column, pictures)
    if not Path(name).is_file():
        raise DataError(f"{record.where}: {name} lies in a .tar file. Unpack it for an evaluation.")
    stem = re.sub(r"[^\w-]+", "-", Path(name).stem, flags=re.ASCII).strip("-")[:40]
    return Pair(f"{number:04d}-{stem or 'pair'}", prompt, Path(name))
