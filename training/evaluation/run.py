"""Draws, measures and tells: what `python -m training.evaluate` does, from top to bottom."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from training.files import occupied, remove_leftovers
from training.settings import to_toml
from training.workers import Workers

from .alpha import balance, means, recommended, write_recommendation
from .cases import Pair, crossed_pairs, jobs, read_pairs
from .config import EvaluateConfig
from .drawing import Drawn, draw_all, drawing_minutes
from .figures import AlphaPoint, alpha_chart, figure3, figure4
from .markup import Table
from .measures.measure import Column, Measure
from .measures.opening import open_measures, warnings
from .measuring import measure_all, with_other_prompts
from .page import Report, write_page
from .scored import Scored
from .statistics import estimate
from .studio import Studio, describe_weights, weights_of
from .tables import comparison, differences, spread, where_it_loses

PARTS = ("table1", "table2", "figure4", "alpha")
LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy")


def evaluate(config: EvaluateConfig) -> Path:
    """Evaluates; what is drawn and measured already is not done again.

    Returns:
        The report.

    Raises:
        ConfigError, DataError, ModelError, WrongAdapterError, StorageError: an input that cannot be
            used, with the fix.
    """
    workers, output = Workers(config.run.device), Path(config.run.output)
    with occupied(output) if workers.first else nullcontext():
        if workers.first:
            remove_leftovers(output)
        workers.wait()  # nobody writes before that is done
        pairs = read_pairs(config.cases, output)
        # Measures first: one that is missing is told before hours of drawing.
        measures = open_measures(config, workers.device)
        studio = Studio(config, workers.device)
        drawn = draw_all(jobs(config, pairs), studio, output, config.draw.batch, workers)
        scored = measure_all(drawn, measures, output, workers)
        if workers.first:
            report = _report(config, pairs, drawn, scored, measures, studio, workers)
            write_page(output, report)
            print("\n".join(table.markdown() for table in report.table1.values()))
            print("\n".join(report.losses))
        workers.wait()
    return output / "report.html"


def _report(
    config: EvaluateConfig,
    pairs: Sequence[Pair],
    drawn: Sequence[Drawn],
    scored: Sequence[Scored],
    measures: dict[str, Measure],
    studio: Studio,
    workers: Workers,
) -> Report:
    """Makes of the figures what people read."""
    columns = [column for measure in measures.values() for column in measure.columns]
    by_key = {column.key: column for column in columns}
    main = [by_key[key] for key in config.tables.table1 if key in by_key]
    others = [column for column in columns if column not in main and _is_known(scored, column)]
    ours, names = config.tables.ours, [method.name for method in config.methods]
    of_part = {part: [one for one in scored if one.part == part] for part in PARTS}
    table1 = _tables("table1", "Table 1", of_part["table1"], main, ours)
    table1 |= _tables("table1-more", "Further columns", of_part["table1"], others, ours)
    losses = _losses(of_part["table1"], columns, ours)
    losses += [f"Table 2: {told}" for told in _losses(of_part["table2"], columns, ours)]
    curves = _alpha_points(config, of_part, by_key)
    advice, chart = "", None
    if curves:
        advice, best = _advice(config, of_part["alpha"], drawn, measures, by_key)
        chart = alpha_chart(curves, by_key[config.alpha.text].label,
                            by_key[config.alpha.fidelity].label, best)  # fmt: skip
    shown = [pair.id for pair in pairs[: config.tables.figure_pairs]]
    crossed = [pair.id for pair in crossed_pairs(pairs, config.tables.figure_prompts)]
    return Report(
        title="Evaluation",
        headline=_headline(of_part["table1"], names, pairs),
        columns=[*main, *others],
        scored=scored,
        table1=table1,
        losses=losses,
        table2=_tables("table2", "Table 2", of_part["table2"], [*main, *others], ours),
        figure3=figure3(of_part["table1"], names, shown) if shown else None,
        figure4=figure4(of_part["figure4"], names, crossed) if of_part["figure4"] else None,
        alpha=chart,
        recommended=advice,
        warnings=[*warnings(config, measures, pairs), *studio.warnings(pairs)],
        provenance=_provenance(config, drawn, measures, workers),
    )


def _tables(
    name: str, title: str, scored: Sequence[Scored], columns: Sequence[Column], ours: str
) -> dict[str, Table]:
    """A comparison with its differences, by the names of their files."""
    columns = [column for column in columns if _is_known(scored, column)]
    if not scored or not columns:
        return {}
    tables = {name: comparison(title, scored, columns, ours)}
    if len({one.method for one in scored}) > 1:
        told = f"{title}: differences"
        tables[f"{name}-differences"] = differences(told, scored, columns, ours)
    if name == "table1" and any(column.percent for column in columns):
        tables[f"{name}-spread"] = spread(f"{title}: medians", scored, columns, ours)
    return tables


def _losses(scored: Sequence[Scored], columns: Sequence[Column], ours: str) -> list[str]:
    """Where ours loses, and what is undecided, in sentences."""
    known = [column for column in columns if _is_known(scored, column)]
    if not any(one.method != ours for one in scored) or not known:
        return []
    return where_it_loses(differences("", scored, known, ours), ours)


def _is_known(scored: Sequence[Scored], column: Column) -> bool:
    return any(not math.isnan(one.values.get(column.key, math.nan)) for one in scored)


def _headline(scored: Sequence[Scored], names: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    seeds = len({one.seed for one in scored})
    pictures = "one picture" if seeds == 1 else f"{seeds} pictures"
    return [
        f"{len(names)} methods, {len(pairs):,} pairs of a prompt and a reference, {pictures} of "
        "each, all methods from the same noise."
    ]


def _alpha_points(
    config: EvaluateConfig, of_part: dict[str, list[Scored]], columns: dict[str, Column]
) -> dict[str, list[AlphaPoint]]:
    """Each swept method's points, and those of the methods without alpha on the same pairs."""
    keys = (config.alpha.text, config.alpha.fidelity)
    if not config.alpha.methods or not all(key in columns for key in keys):
        return {}
    swept = {(one.pair, one.seed) for one in of_part["alpha"]}
    beside = [one for one in of_part["table1"]
              if math.isnan(one.alpha) and (one.pair, one.seed) in swept]  # fmt: skip
    curves: dict[str, list[AlphaPoint]] = {}
    for one in [*of_part["alpha"], *beside]:
        curves.setdefault(one.method, [])
    for name, points in curves.items():
        found = [one for one in [*of_part["alpha"], *beside] if one.method == name]
        for alpha in dict.fromkeys(one.alpha for one in found):
            same = [one for one in found if one.alpha is alpha or one.alpha == alpha]
            told = [estimate({one.pair: [one.values[key]] for one in same}) for key in keys]
            points.append(AlphaPoint(alpha, *told))
    return curves


def _advice(
    config: EvaluateConfig,
    scored: Sequence[Scored],
    drawn: Sequence[Drawn],
    measures: dict[str, Measure],
    columns: dict[str, Column],
) -> tuple[str, float]:
    """The recommended alpha of the first swept method, in words and as a number."""
    name, text, fidelity = config.alpha.methods[0], config.alpha.text, config.alpha.fidelity
    mine = [one for one in scored if one.method == name]
    alphas = sorted({one.alpha for one in mine})
    of = {key: means({a: [one.values[key] for one in mine if one.alpha == a] for a in alphas})
          for key in (text, fidelity)}  # fmt: skip
    measure = next(m for m in measures.values() if text in {c.key for c in m.columns})
    least = [one for one in drawn if one.job.part == "alpha" and one.job.method == name
             and one.job.alpha == alphas[0]]  # fmt: skip
    chance = with_other_prompts(least, measure, text)
    balances = balance(of[text], of[fidelity], chance)
    best = recommended(balances)
    told = ""
    if config.alpha.write:
        write_recommendation(weights_of(config.method(name)), best)
        told = " It stands in the metadata of the weight file, which the node Adapter Info shows."
    listed = ", ".join(f"{alpha:g}: {value:.2f}" for alpha, value in balances.items())
    return (
        f"Recommended for {name} is alpha {best:g}.{told} How well each alpha keeps "
        f"{columns[text].label} (with other pairs' prompts it is {chance:.3f}) and wins "
        f"{columns[fidelity].label}, as their harmonic mean, 0 to 1: {listed}."
    ), best


def _provenance(
    config: EvaluateConfig, drawn: Sequence[Drawn], measures: dict[str, Measure], workers: Workers
) -> dict[str, str]:
    """How it was made; no date, so that the same pictures give the same report."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    kind = workers.device.type
    device = torch.cuda.get_device_name(workers.device) if kind == "cuda" else kind.upper()
    minutes = drawing_minutes(Path(config.run.output))
    counts: dict[str, int] = {}
    for one in drawn:
        counts[one.job.method] = counts.get(one.job.method, 0) + 1
    told: dict[str, Any] = {
        "command": f"python -m training.evaluate (Python {platform.python_version()}, "
        f"{sys.platform})",
        "versions": ", ".join(versions),
        "device": f"{device}, {workers.count} processes, UNet in {config.run.precision}",
        "pictures": ", ".join(f"{name}: {count:,}" for name, count in counts.items()),
        "minutes of drawing": ", ".join(f"{name}: {m:.1f}" for name, m in minutes.items()),
        "weights": "\n".join(map(describe_weights, config.methods)),
        "pictures' recipes": "\n".join(
            sorted({f"{d.job.method}: {d.path.parent.name}" for d in drawn})
        ),
        "measures' recipes": "\n".join(f"{name}: {m.recipe}" for name, m in measures.items()),
        "settings": to_toml(config),
    }
    return told
