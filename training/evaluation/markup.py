"""A table, and how it is written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from animesketchnet_core.files import write_atomically
from training.files import make_folder

from .measures.measure import Column
from .statistics import Estimate

UNKNOWN = "n/a"
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """An estimate of a column, to be written with the column's digits.

    Attributes:
        estimate: what is written.
        column: what it is an estimate of.
        best: written in bold.
        counted: with its n, as it differs from that of the row.
        difference: between methods: with a sign, and with a mark where it is decided.
    """

    estimate: Estimate
    column: Column
    best: bool = False
    counted: bool = False
    difference: bool = False

    @property
    def mean(self) -> str:
        """The mean in words."""
        return number(self.estimate.mean, self.column, self.difference)

    @property
    def interval(self) -> str:
        """The interval in words; empty if there is none."""
        if math.isnan(self.estimate.low):
            return ""
        ends = (self.estimate.low, self.estimate.high)
        low, high = (number(end, self.column, self.difference, sign="") for end in ends)
        return f"[{low}, {high}]"

    @property
    def rest(self) -> str:
        """Interval, mark and n in words; empty if there are none."""
        mark = "*" * (self.difference and self.estimate.decided)
        n = f" (n = {self.estimate.n:,})" if self.counted and self.estimate.n else ""
        return f"{self.interval}{mark}{n}".strip()


@dataclass(frozen=True)
class Table:
    """A table that can be written in several languages.

    Attributes:
        title: what it shows.
        header: names of the columns.
        rows: texts and estimates, as many in each row as in the header.
        note: what a reader has to know, in sentences.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""

    def markdown(self) -> str:
        """Writes it for README files; the columns stand below each other in a terminal too."""
        lines = [[_escaped_markdown(name) for name in self.header]]
        lines += [[_write(cell, _escaped_markdown, "**{}**") for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = "|".join("-" * (width + 1) + (":" if k else "-") for k, width in enumerate(widths))
        drawn = [
            "| " + " | ".join(_pad(text, widths[k], k) for k, text in enumerate(line)) + " |"
            for line in lines
        ]
        body = "\n".join([drawn[0], f"|{rule}|", *drawn[1:]])
        note = f"\n{_escaped_markdown(self.note)}\n" if self.note else ""
        return f"**{_escaped_markdown(self.title)}**\n\n{body}\n{note}"

    def csv(self) -> str:
        """Writes it for programs: an estimate becomes four columns, unrounded."""
        estimated = [any(isinstance(row[k], Cell) for row in self.rows)
                     for k in range(len(self.header))]  # fmt: skip
        names = [name.rstrip("".join(ARROWS.values())) for name in self.header]
        header = [
            f"{name}{ending}"
            for name, split in zip(names, estimated, strict=True)
            for ending in (("", " low", " high", " n") if split else ("",))
        ]
        rows = [
            [
                text
                for cell, split in zip(row, estimated, strict=True)
                for text in _csv_cells(cell, split)
            ]
            for row in self.rows
        ]
        return csv_text([header, *rows])

    def latex(self) -> str:
        """Writes it for papers; needs the package booktabs."""
        lines = [" & ".join(_escaped_latex(name) for name in self.header)]
        lines += [
            " & ".join(_write(cell, _escaped_latex, r"\textbf{{{}}}") for cell in row)
            for row in self.rows
        ]
        caption = _escaped_latex(" ".join(filter(None, (f"{self.title}.", self.note))))
        parts = [
            r"\begin{table}", r"\centering", rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}", r"\toprule",
            rf"{lines[0]} \\", r"\midrule", *(rf"{_guarded(line)} \\" for line in lines[1:]),
            r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
        return "\n".join(parts) + "\n"


def write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """Writes each table as NAME.md, NAME.csv and NAME.tex.

    Raises:
        StorageError: they cannot be written.
    """
    make_folder(folder)
    for name, table in tables.items():
        for suffix, text in (("md", table.markdown()), ("csv", table.csv()),
                             ("tex", table.latex())):  # fmt: skip
            write_text(folder / f"{name}.{suffix}", text)


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomically(path, lambda part: part.write_bytes(text.encode()))


def number(value: float, column: Column, signed: bool = False, sign: str = "%") -> str:
    """Writes a figure with its column's digits.

    Args:
        value: the figure; NaN: "n/a".
        column: what it is a figure of.
        signed: with "+" too.
        sign: what follows a percentage.
    """
    if math.isnan(value):
        return UNKNOWN
    scaled = round(100 * value if column.percent else value, column.digits)
    plain = f"{scaled + 0.0:{'+' if signed else ''}.{column.digits}f}"  # + 0.0: no "-0.00"
    return plain + sign * column.percent


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Writes rows as CSV with plain line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_number(value: float) -> str:
    """Writes a figure unrounded; an unknown one as an empty cell."""
    return "" if math.isnan(value) else repr(float(value))


def _csv_cells(cell: str | Cell, split: bool) -> list[str]:
    if isinstance(cell, str):
        return [cell, "", "", ""] if split else [cell]
    told = cell.estimate
    return [*map(csv_number, (told.mean, told.low, told.high)), str(told.n)]


def _write(cell: str | Cell, escape: Callable[[str], str], bold: str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    mean = escape(cell.mean)
    return " ".join(filter(None, (bold.format(mean) if cell.best else mean, escape(cell.rest))))


def _pad(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\`*_<|])", r"\\\1", " ".join(text.split()))


def _guarded(line: str) -> str:
    return "{}" + line if line.startswith(("[", "*")) else line  # else options of the \\ before


def _escaped_latex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", escaped)
