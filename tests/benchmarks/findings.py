"""What every benchmark says, and where: machine, command, tables and a plot, as Markdown."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Points (amount, cost) of each line of a plot."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line that has --output."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--output", type=Path, metavar="FILE.md", help="beside it goes a plot")
    return made


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def growth(points: Sequence[tuple[float, float]]) -> str:
    """Says with which power of the amount a cost grows: the slope of both logarithms."""
    xs, ys = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    steepness = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return f"{steepness / sum((x - mean_x) ** 2 for x in xs):.2f}"


def lines(axes: Axes, series: Series, xlabel: str, ylabel: str, logarithmic: bool = True) -> None:
    """Draws a line for each series; where both axes are logarithmic, a slope is a power."""
    for (name, points), marker in zip(series.items(), "osv^Dx+*", strict=False):
        axes.plot(*zip(*points, strict=True), marker=marker, label=name)
    if logarithmic:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")


def publish(
    output: Path | None,
    title: str,
    parts: Sequence[str],
    draw: Callable[[Any], None],
    panels: int = 1,
) -> None:
    """Prints title, command and parts; writes them to a file, with a plot of some panels beside it.

    Args:
        output: the Markdown file; None: only printed.
        title: of the page.
        parts: paragraphs and tables; the first one names the machine.
        draw: draws into the axes, or the list of them if there are several.
        panels: how many axes.
    """
    command = shlex.join(["python", *map(_shown, sys.argv)])
    written = "\n\n".join([f"# {title}", f"    {command}", *parts])
    print(written)
    if output is None:
        return
    from matplotlib.figure import Figure

    output.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    draw(figure.subplots(1, panels))
    picture = output.with_suffix(".webp")
    figure.savefig(picture, dpi=90)
    output.write_text(f"{written}\n\n![Plot of the table]({picture.name})\n", encoding="utf-8")


def _shown(word: str) -> str:
    """Of a folder or file of this machine only the name: the page is for others."""
    path = Path(word)
    inside = Path(__file__).parents[2]
    if not path.is_absolute():
        return word
    return str(path.relative_to(inside)) if path.is_relative_to(inside) else path.name
