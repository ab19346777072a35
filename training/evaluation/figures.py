"""The paper's figures 3 and 4, and what alpha trades: fidelity to the reference for the text."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from animesketchnet_core.clip_input import fit_sketch
from animesketchnet_core.contact_sheet import contact_sheet, to_image
from training.report import to_svg
from training.sources import Pictures

from .scored import Scored
from .statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 256  # of a picture in a figure, in pixels
MARGIN = 4  # around it
# Okabe & Ito 2008, "Color Universal Design": told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class AlphaPoint:
    """What a method reaches at one strength of the reference.

    Attributes:
        alpha: the strength; NaN: the method has none.
        text: alignment with the text; more is better.
        fidelity: to the reference; more is better.
    """

    alpha: float
    text: Estimate
    fidelity: Estimate


@dataclass(frozen=True)
class Chart:
    """A drawing in two forms.

    Attributes:
        svg: to be put into a page.
        png: a file's bytes.
    """

    svg: str
    png: bytes


def figure3(
    scored: Sequence[Scored], methods: Sequence[str], pairs: Sequence[str], side: int = SIDE
) -> Image.Image:
    """Draws methods against pairs: a row for each pair, with its reference and prompt.

    Args:
        scored: pictures of one part; of several for a pair the one of the lowest seed.
        methods: names of the columns; a picture that a method lacks stays white.
        pairs: ids of the rows, in order.
        side: of a picture in pixels.

    Raises:
        ValueError: there is no picture of a pair.
        DataError: a picture cannot be read; names the file.
    """
    return _grid(scored, methods, pairs, side, every_reference=True)


def figure4(
    scored: Sequence[Scored], methods: Sequence[str], pairs: Sequence[str], side: int = SIDE
) -> Image.Image:
    """Draws methods against prompts that share one reference, which stands in the first row.

    Args:
        scored: pictures of one part; of several for a pair the one of the lowest seed.
        methods: names of the columns; a picture that a method lacks stays white.
        pairs: ids of the rows, in order.
        side: of a picture in pixels.

    Raises:
        ValueError: there is no picture of a pair, or the pairs have different references.
        DataError: a picture cannot be read; names the file.
    """
    references = {entry.reference for entry in scored if entry.pair in pairs}
    if len(references) > 1:
        found = ", ".join(sorted(map(str, references)))
        raise ValueError(f"Figure 4 shows one reference with several prompts, but got {found}.")
    return _grid(scored, methods, pairs, side, every_reference=False)


def fitted(path: Path, side: int) -> Tensor:
    """Fits a picture into a white square.

    Args:
        path: its file.
        side: of the square in pixels.

    Returns:
        [side, side, 3] float32 in [0, 1].

    Raises:
        DataError: it cannot be read; names the file.
    """
    return fit_sketch(Pictures().open(str(path)), side)[0]


def thumbnail(path: Path, side: int) -> Image.Image:
    """Fits a picture into a small white square; errors as in `fitted`."""
    return to_image(fitted(path, side))


def pareto_front(points: Iterable[AlphaPoint]) -> list[AlphaPoint]:
    """Lists the points that no other beats: as good in both and better in one.

    Points whose text alignment or fidelity is unknown are left out; the order is kept.
    """
    known = [point for point in points if not any(map(math.isnan, _place(point)))]
    places = [_place(point) for point in known]
    return [
        point
        for point, (text, fidelity) in zip(known, places, strict=True)
        if not any(
            other != (text, fidelity) and other[0] >= text and other[1] >= fidelity
            for other in places
        )
    ]


def alpha_chart(
    curves: Mapping[str, Sequence[AlphaPoint]],
    text: str = "text alignment",
    fidelity: str = "fidelity to the reference",
    recommended: float | None = None,
) -> Chart:
    """Draws what each method reaches at each alpha, and one measure against the other.

    On the left both measures over alpha, with their 95% intervals; on the right the points that a
    method's own other points beat are hollow, and a line joins the rest, its Pareto front.

    Args:
        curves: a method's points by its name; points without alpha become dashed lines.
        text: name of the measure of text alignment.
        fidelity: name of the measure of fidelity.
        recommended: alpha that is marked.
    """
    from matplotlib.figure import Figure  # takes a second, and only reports need it

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    places = figure.subplot_mosaic([["text", "front"], ["fidelity", "front"]], width_ratios=[4, 5])
    for number, (method, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        _draw_over_alpha(places["text"], [(p.alpha, p.text) for p in points], colour)
        _draw_over_alpha(places["fidelity"], [(p.alpha, p.fidelity) for p in points], colour)
        _draw_front(places["front"], points, method.replace("$", r"\$"), colour)
    for name, label in (("text", text), ("fidelity", fidelity)):
        places[name].set(xlabel="alpha", ylabel=label)
        if recommended is not None:
            places[name].axvline(recommended, color="grey", linestyle=":", linewidth=1.2)
    places["front"].set(xlabel=fidelity, ylabel=text)
    if curves:
        places["front"].legend(frameon=False)
    for axes in places.values():
        axes.margins(x=0.07)  # room for the last point's label
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return Chart(to_svg(figure), png.getvalue())


def _draw_over_alpha(axes: Axes, points: Sequence[tuple[float, Estimate]], colour: str) -> None:
    for _, told in (point for point in points if math.isnan(point[0])):
        axes.axhline(told.mean, color=colour, linestyle="--", linewidth=1.2)
    curve = sorted((point for point in points if not math.isnan(point[0])), key=lambda p: p[0])
    alphas = [alpha for alpha, _ in curve]
    axes.plot(alphas, [told.mean for _, told in curve], ".-", color=colour)
    lows, highs = [told.low for _, told in curve], [told.high for _, told in curve]
    axes.fill_between(alphas, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _draw_front(axes: Axes, points: Sequence[AlphaPoint], method: str, colour: str) -> None:
    front = pareto_front(points)
    line = sorted((point.fidelity.mean, point.text.mean) for point in front)
    axes.plot(*zip(*line, strict=True) if line else ([], []), "-", color=colour, linewidth=1.5)
    axes.plot([], [], "o-", color=colour, label=method)
    for point in points:
        place = (point.fidelity.mean, point.text.mean)
        inside = colour if point in front else "white"
        axes.plot(*place, "o", color=colour, markerfacecolor=inside, markersize=6)
        if not math.isnan(point.alpha) and not any(map(math.isnan, place)):
            axes.annotate(f"{point.alpha:g}", place, (5, 4), textcoords="offset points",
                          fontsize=8, color=colour)  # fmt: skip


def _place(point: AlphaPoint) -> tuple[float, float]:
    return point.text.mean, point.fidelity.mean


def _grid(
    scored: Sequence[Scored],
    methods: Sequence[str],
    pairs: Sequence[str],
    side: int,
    every_reference: bool,
) -> Image.Image:
    first: dict[tuple[str, str], Scored] = {}
    for entry in sorted(scored, key=lambda entry: entry.seed, reverse=True):
        first[entry.pair, entry.method] = entry
    groups = []
    for number, pair in enumerate(pairs):
        row = [first.get((pair, method)) for method in methods]
        known = next(filter(None, row), None)
        if known is None:
            raise ValueError(
                f"No method of {', '.join(methods)} has a picture of the pair {pair!r}."
            )
        reference = known.reference if every_reference or number == 0 else None
        paths = [reference, *(entry and entry.picture for entry in row)]
        groups.append((known.prompt, torch.stack([_cell(path, side) for path in paths])[None]))
    return contact_sheet(["reference", *methods], groups)


def _cell(path: Path | None, side: int) -> Tensor:
    if path is None:
        return torch.ones(side, side, 3)
    inner = fitted(path, side - 2 * MARGIN).movedim(2, 0)  # [3, h, w]
    return F.pad(inner, (MARGIN,) * 4, value=1.0).movedim(0, 2)
