"""Measures what was drawn, and keeps each figure under all that decided it.

A measure's figures lie in files named by it and the hash of its recipe, a line for each group of
pictures that one method drew for a pair. What is there is never measured twice; a line that a kill
cut short is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.files import append_line, make_folder
from training.sources import DataError, Pictures
from training.workers import Workers

from .cases import Pair
from .drawing import Drawn, read_lines
from .measures.measure import Measure
from .scored import Scored

Figures = Mapping[str, Sequence[float | None]]


def measure_all(
    drawn: Sequence[Drawn], measures: Mapping[str, Measure], output: Path, workers: Workers
) -> list[Scored]:
    """Measures every picture, each process its share.

    Args:
        drawn: the pictures.
        measures: by name.
        output: folder of the evaluation.
        workers: the processes.

    Returns:
        The pictures with all figures.

    Raises:
        DataError: a picture cannot be read.
    """
    groups = _groups(drawn)
    values: dict[str, list[dict[str, float]]] = {key: [{} for _ in g] for key, g in groups.items()}
    for name, measure in measures.items():
        folder = make_folder(output / "scores")
        stem = f"{name}-{hashlib.sha256(measure.recipe.encode()).hexdigest()[:10]}"
        known = _known(folder, stem)
        workers.wait()  # nobody writes before all have read what is to be measured
        mine = workers.share([key for key in groups if key not in known])
        path = folder / f"{stem}.{workers.rank}.jsonl"
        bar = tqdm(mine, desc=f"measuring {name}", disable=not workers.first or not mine)
        for key in bar:
            figures = measure.score(_pictures(groups[key]), groups[key][0].case.pair)
            _note(path, key, figures)
        workers.wait()
        known = _known(folder, stem)
        for key, group in values.items():
            for column, figures in known[key].items():
                for row, figure in zip(group, figures, strict=True):
                    row[column] = float("nan") if figure is None else figure
    return [
        _scored(one, row)
        for key, group in groups.items()
        for one, row in zip(group, values[key], strict=True)
    ]


def with_other_prompts(drawn: Sequence[Drawn], measure: Measure, column: str) -> float:
    """Mean of a column when each picture is held against the next pair's prompt: mere chance.

    Args:
        drawn: pictures of several pairs.
        measure: gives the column.
        column: key of the figure.
    """
    groups = list(_groups(drawn).values())
    pairs = [group[0].case.pair for group in groups]
    found = []
    for number, group in enumerate(groups):
        other = pairs[(number + 1) % len(pairs)]
        asked = Pair(other.id, other.prompt, pairs[number].reference, other.wanted)
        found.append(measure.score(_pictures(group), asked)[column])
    return torch.cat(found).nanmean().item()


def _groups(drawn: Sequence[Drawn]) -> dict[str, list[Drawn]]:
    """The pictures of one job and pair together, by a hash of their files' names."""
    by_pair: dict[tuple[object, str], list[Drawn]] = {}
    for one in drawn:
        by_pair.setdefault((one.job, one.case.pair.id), []).append(one)
    return {_key(group): group for group in by_pair.values()}


def _key(group: Sequence[Drawn]) -> str:
    """Of a group in its part; file names hold the hashes of method and pair."""
    names = [f"{one.path.parent.name}/{one.path.name}" for one in group]
    return hashlib.sha256("\n".join([group[0].job.part, *names]).encode()).hexdigest()[:20]


def _pictures(group: Sequence[Drawn]) -> Tensor:
    """A group's pictures [n, h, w, 3] float32 in [0, 1]."""
    return torch.stack([_picture(one.path) for one in group])


def _picture(path: Path) -> Tensor:
    try:
        return Pictures().open(str(path))[0, ..., :3]
    except DataError as error:
        raise DataError(f"{error} Delete the file, and it is drawn again.") from error


def _known(folder: Path, stem: str) -> dict[str, Figures]:
    """All figures of a measure, by the groups' hashes."""
    known: dict[str, Figures] = {}
    for path in sorted(folder.glob(f"{stem}.*.jsonl")):
        for entry in read_lines(path):
            group, figures = entry.get("group"), entry.get("figures")
            if isinstance(group, str) and isinstance(figures, dict) and _are_figures(figures):
                known[group] = figures
    return known


def _are_figures(columns: Mapping[str, Any]) -> bool:
    return all(
        isinstance(column, list)
        and all(value is None or isinstance(value, (int, float)) for value in column)
        for column in columns.values()
    )


def _note(path: Path, key: str, figures: Mapping[str, Tensor]) -> None:
    plain = {
        column: [None if value != value else value for value in values.tolist()]
        for column, values in figures.items()
    }
    append_line(path, json.dumps({"group": key, "figures": plain}))


def _scored(one: Drawn, values: Mapping[str, float]) -> Scored:
    pair, job = one.case.pair, one.job
    return Scored(
        job.method, job.part, pair.id, pair.prompt, pair.reference, one.case.seed, job.alpha,
        one.path, values,
    )  # fmt: skip
