"""The report's drawings, as SVG: the funnel, and how scores are spread about their threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.report import to_svg

from .funnel import Step

COLOURS = {"keep": "#2a78b5", "review": "#d9a400", "drop": "#c0392b", "failed": "#7f8c8d"}
_BINS = 40
_WIDE = 50  # values that are spread wider than this, largest to middle, get a logarithmic axis


def funnel_chart(steps: Sequence[Step]) -> str:
    """Draws what each stage was given, kept and dropped."""
    from matplotlib.figure import Figure  # takes a second, and only reports need it

    figure = Figure(figsize=(8, 0.6 + 0.34 * len(steps)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{step.stage} ({step.unit})" for step in steps]
    left = [max(step.kept, 0) for step in steps]
    gone = [step.given - step.kept for step in steps]
    axes.barh(names, left, color=COLOURS["keep"], label="kept")
    axes.barh(names, gone, left=left, color=COLOURS["drop"], alpha=0.45, label="dropped or failed")
    for place, step in enumerate(steps):
        axes.annotate(f" {step.kept:,}", (step.given, place), va="center")
    axes.invert_yaxis()
    if max((step.given for step in steps), default=0) > _WIDE * max(1, min(left, default=0)):
        axes.set_xscale("symlog", linthresh=1)
    axes.margins(x=0.12)
    axes.set_xlabel("how many")
    axes.legend(frameon=False)
    return to_svg(figure)


def histogram(
    values: Mapping[str, Sequence[float]],
    across: str,
    thresholds: Sequence[float] = (),
    stacked: bool = True,
) -> str:
    """Draws how often values occur.

    Args:
        values: by name; verdicts have colours of their own.
        across: what they are.
        thresholds: where lines are drawn.
        stacked: one above the other; otherwise one before the other.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = figure.add_subplot()
    edges = _edges(np.concatenate([*map(np.asarray, values.values()), np.asarray(thresholds)]))
    below = np.zeros(len(edges) - 1, dtype=int)
    for name, part in values.items():
        counts, _ = np.histogram(part, edges)
        axes.bar(edges[:-1], counts, np.diff(edges), below if stacked else 0, align="edge",
                 label=name, color=COLOURS.get(name), alpha=1 if stacked else 0.55)  # fmt: skip
        below += counts
    for threshold in thresholds:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    if not np.allclose(np.diff(edges), edges[1] - edges[0]):
        axes.set_xscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel("how many")
    axes.legend(frameon=False)
    return to_svg(figure)


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if np.array_equal(values, values.round()) and high - low <= _BINS:
        return np.arange(low - 0.5, high + 1)  # a bar for each whole number
    if low > 0 and high > _WIDE * float(np.median(values)):
        return np.geomspace(low, high, _BINS + 1)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)
