"""From pictures with figures to tables: means, paired differences, and where ours loses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from .markup import ARROWS, Cell, Table, csv_number, csv_text, number
from .measures.measure import Column
from .scored import Scored
from .statistics import Estimate, Place, estimate, median, paired_difference, share_above

FEW_PAIRS = 20  # intervals of fewer are too narrow, see statistics.py
MANY_INTERVALS = 20  # of so many, one excludes 0 by chance alone


def comparison(
    title: str, scored: Sequence[Scored], columns: Sequence[Column], first: str
) -> Table:
    """Compares methods: a row for each with the mean and its interval in each column.

    Args:
        title: of the table.
        scored: pictures of one part.
        columns: what is compared; the best of each is bold.
        first: the method of the first row; the others follow by name.

    Raises:
        ValueError: there is no picture of `first`, or two pictures of a method and place.
    """
    methods = _by_method(scored, first)
    cells = {
        method: [estimate(_by_pair(pictures, column)) for column in columns]
        for method, pictures in methods.items()
    }
    rows = []
    for method, estimates in cells.items():
        n = len(methods[method])
        row = [
            Cell(told, column, _is_best(told, [e[k] for e in cells.values()], column), told.n != n)
            for k, (told, column) in enumerate(zip(estimates, columns, strict=True))
        ]
        rows.append((method, *row, f"{n:,}"))
    header = ("Method", *(column.label + ARROWS[column.better] for column in columns), "n")
    return Table(title, header, rows, _note(scored))


def differences(
    title: str, scored: Sequence[Scored], columns: Sequence[Column], first: str
) -> Table:
    """Compares pictures that began with the same noise: `first` minus each other method.

    Args:
        title: of the table.
        scored: pictures of one part.
        columns: what is compared; a difference whose interval excludes 0 is marked.
        first: whose pictures the others are taken from.

    Raises:
        ValueError: there is no picture of `first`, or two pictures of a method and place.
    """
    methods = _by_method(scored, first)
    rows = []
    for method in list(methods)[1:]:
        told = [paired_difference(_by_place(methods[first], column),
                                  _by_place(methods[method], column))
                for column in columns]  # fmt: skip
        n = max((difference.n for difference in told), default=0)
        row = [
            Cell(difference, column, counted=difference.n != n, difference=True)
            for difference, column in zip(told, columns, strict=True)
        ]
        rows.append((f"minus {method}", *row, f"{n:,}"))
    header = (first, *(column.label + ARROWS[column.better] for column in columns), "n")
    note = f"Differences of pictures with equal pair and noise; * 0 is outside. {_note(scored)}"
    if (count := len(rows) * len(columns)) >= MANY_INTERVALS:
        note += f" Of {count} intervals about {count / 20:.0f} exclude 0 by chance alone."
    return Table(title, header, rows, note)


def spread(title: str, scored: Sequence[Scored], columns: Sequence[Column], first: str) -> Table:
    """Tells the median and the share above one half of each column that is a percentage.

    Args:
        title: of the table.
        scored: pictures of one part.
        columns: those that are no percentages are left out.
        first: the method of the first row.

    Raises:
        ValueError: there is no picture of `first`, or two pictures of a method and place.
    """
    shown = [column for column in columns if column.percent]
    header = [f"{column.label}, {what}" for column in shown for what in ("median", "above 50%")]
    rows = []
    for method, pictures in _by_method(scored, first).items():
        row = [method]
        for column in shown:
            values = list(_by_place(pictures, column).values())
            row += [number(median(values), column), number(share_above(values), column)]
        rows.append(row)
    return Table(title, ["Method", *header], rows)


def where_it_loses(differences: Table, ours: str) -> list[str]:
    """Says in which columns a method is better than ours, and in which it is undecided.

    Args:
        differences: see the function of that name.
        ours: how our method is called in the sentences.
    """
    told, undecided = [], []
    for row in differences.rows:
        method = str(row[0]).removeprefix("minus ")
        cells = [cell for cell in row if isinstance(cell, Cell)]
        told += [
            f"{method} is better than {ours} in {cell.column.label} by {_lead(cell)}."
            for cell in cells
            if worse(cell)
        ]
        doubtful = [
            f"{cell.column.label} ({_points(cell)})"
            for cell in cells
            if cell.column.better and cell.estimate.n and not cell.estimate.decided
        ]
        if doubtful:
            undecided.append(f"Undecided, {ours} minus {method}: {', '.join(doubtful)}.")
    nothing = f"No method is better than {ours} in any column with an interval that excludes 0."
    return (told or [nothing]) + undecided


def better(cell: Cell) -> bool:
    """Whether a difference is decided, and for ours."""
    return cell.estimate.decided and cell.estimate.mean * cell.column.better > 0


def worse(cell: Cell) -> bool:
    """Whether a difference is decided, and against ours."""
    return cell.estimate.decided and cell.estimate.mean * cell.column.better < 0


def pictures_csv(
    scored: Sequence[Scored], columns: Sequence[Column], folder: Path | None = None
) -> str:
    """Writes every picture with all its figures, one row each, as CSV.

    Args:
        scored: the pictures.
        columns: whose figures; unknown ones are empty cells.
        folder: what the files' paths start from, where they lie in it.
    """
    header = ["method", "part", "pair", "seed", "alpha", "prompt", "reference", "picture"]
    rows = [
        [
            entry.method, entry.part, entry.pair, entry.seed, csv_number(entry.alpha),
            entry.prompt, _relative(entry.reference, folder), _relative(entry.picture, folder),
            *(csv_number(entry.values.get(column.key, float("nan"))) for column in columns),
        ]
        for entry in scored
    ]  # fmt: skip
    return csv_text([[*header, *(column.key for column in columns)], *rows])


def _lead(cell: Cell) -> str:
    told = cell.estimate
    low, high = sorted((abs(told.low), abs(told.high)))
    turned = Cell(Estimate(abs(told.mean), low, high, told.n), cell.column)
    return f"{_points(turned)}, n = {told.n:,}"


def _points(cell: Cell) -> str:
    return f"{cell.mean.replace('%', ' points')} {cell.interval}".strip()


def _by_method(scored: Sequence[Scored], first: str) -> dict[str, list[Scored]]:
    methods: dict[str, list[Scored]] = {first: []}
    for entry in sorted(scored, key=lambda entry: entry.method):
        methods.setdefault(entry.method, []).append(entry)
    if not methods[first]:
        others = ", ".join(list(methods)[1:]) or "none"
        raise ValueError(f"There is no picture of {first!r} to compare; there are of: {others}.")
    for method, pictures in methods.items():
        places = sorted((entry.pair, entry.seed) for entry in pictures)
        for (pair, seed), same in groupby(places):
            if (count := len(list(same))) > 1:
                raise ValueError(
                    f"{method} has {count} pictures for the pair {pair} and seed {seed}. Give "
                    "pictures of one part and one alpha."
                )
    return methods


def _by_pair(pictures: Sequence[Scored], column: Column) -> dict[str, list[float]]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for entry in pictures:
        values[entry.pair].append(entry.values.get(column.key, float("nan")))
    return values


def _by_place(pictures: Sequence[Scored], column: Column) -> dict[Place, float]:
    return {(entry.pair, entry.seed): entry.values.get(column.key, float("nan"))
            for entry in pictures}  # fmt: skip


def _is_best(told: Estimate, all_of: Sequence[Estimate], column: Column) -> bool:
    means = [other.mean for other in all_of if other.n]
    if not column.better or not told.n or len(means) < 2:
        return False
    most = max(means, key=lambda mean: mean * column.better)
    return number(told.mean, column) == number(most, column)  # equal to readers


def _note(scored: Sequence[Scored]) -> str:
    pairs = len({entry.pair for entry in scored})
    note = f"95% intervals in brackets, by a bootstrap over {pairs:,} pairs."
    if pairs < 2:
        return "One pair alone: no intervals."
    return note + (" Of so few pairs they are too narrow." if pairs < FEW_PAIRS else "")


def _relative(path: Path | None, folder: Path | None) -> str:
    if path is None:
        return ""
    inside = folder is not None and path.is_relative_to(folder)
    return (path.relative_to(folder) if folder and inside else path).as_posix()
