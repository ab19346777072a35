"""The report of a comparison: one page without scripts, with its tables and figures beside it."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from animesketchnet_core.files import write_atomically
from training.files import make_folder
from training.report import STYLE

from .figures import Chart, thumbnail
from .markup import ARROWS, Cell, Table, number, write_tables, write_text
from .measures.measure import Column
from .paper import PAPER_TABLE_1, PAPER_TABLE_2
from .scored import Scored
from .tables import better, pictures_csv, worse

GALLERY = 6  # best and as many worst pictures of each method
SMALL = 160  # side of a picture in the gallery, in pixels
WIDEST = 1600  # of a figure in the page, in pixels; its file has all of them
_QUALITY = 82  # of WebP
_STYLE = """
body { max-width: 68rem; } h1 { margin-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.headline { font-size: 1.15rem; line-height: 1.45; max-width: 46rem; }
nav { margin: 1.2rem 0; line-height: 1.9; } nav a { margin-right: 1rem; white-space: nowrap; }
.scroll { overflow-x: auto; } th { border-bottom: 1px solid #8886; font-weight: 600; }
td, th { padding: .3rem 1.1rem .3rem 0; }
tbody tr:nth-child(n+2) td { border-top: 1px solid #8882; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td small { display: block; opacity: .68; font-size: .78rem; }
.better { color: #0a6b49; } .worse { color: #b3401f; }
.note, figcaption { font-size: .82rem; line-height: 1.4; opacity: .75; max-width: 46rem; }
.paper { border-left: 3px solid #8884; padding-left: 1rem; margin-top: 1.6rem; }
.chart svg, .sheet img { min-width: 44rem; display: block; }
.grid { display: grid; grid-template-columns: repeat(6, 1fr); gap: .7rem; margin-bottom: .9rem; }
.grid figure { margin: 0; } .grid img { width: 100%; display: block; border: 1px solid #8883;
  border-radius: 3px; box-sizing: border-box; background: #fff; }
.grid figcaption b { display: block; } .end { font-size: .85rem; opacity: .75; margin: .2rem 0; }
.grid figcaption { overflow-wrap: anywhere; margin-top: .2rem; }
dt { font-weight: 600; margin-top: .7rem; } dd { margin: 0; max-width: 46rem; }
code, pre { font-size: .82rem; } pre { overflow-x: auto; } td code { overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { margin: 1rem auto; }
  .grid { grid-template-columns: repeat(3, 1fr); } }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #17191d; }
  a { color: #8ab4f8; } .warning { background: #3b3010; }
  .better { color: #6fd6ab; } .worse { color: #ff9d7e; }
  .chart svg { filter: invert(.88) hue-rotate(180deg); } }
"""


@dataclass(frozen=True)
class Report:
    """What the page tells. Texts are plain; what stands between backticks becomes code.

    Attributes:
        title: of the page.
        headline: what came out, in sentences.
        columns: what was measured; the gallery is sorted by the first.
        scored: all pictures, of all parts.
        table1: tables by the name of their files: the comparison, differences, spread.
        losses: where ours loses, in sentences.
        table2: the same as table1 for table 2; empty: it was not made.
        figure3: methods x pairs.
        figure4: prompts x one reference.
        alpha: what alpha trades.
        recommended: which alpha is recommended and why, in sentences.
        warnings: cut prompts, measures that are missing and why.
        provenance: how it was made, by name; texts of several lines are folded.
    """

    title: str
    headline: Sequence[str]
    columns: Sequence[Column]
    scored: Sequence[Scored]
    table1: Mapping[str, Table]
    losses: Sequence[str] = ()
    table2: Mapping[str, Table] = field(default_factory=dict)
    figure3: Image.Image | None = None
    figure4: Image.Image | None = None
    alpha: Chart | None = None
    recommended: str = ""
    warnings: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_page(folder: Path, report: Report) -> Path:
    """Writes report.html, and beside it pictures.csv and each table and figure as files.

    Raises:
        DataError: a picture cannot be read; names the file.
        StorageError: a file cannot be written.
    """
    make_folder(folder)
    write_tables(folder, {**report.table1, **report.table2})
    write_text(folder / "pictures.csv", pictures_csv(report.scored, report.columns, folder))
    for name, figure in (("figure3", report.figure3), ("figure4", report.figure4)):
        if figure is not None:
            _write_picture(folder / f"{name}.png", figure)
    if (chart := report.alpha) is not None:
        write_text(folder / "alpha.svg", chart.svg)
        write_atomically(folder / "alpha.png", lambda part: part.write_bytes(chart.png))
    path = folder / "report.html"
    write_text(path, page(report))
    return path


def page(report: Report) -> str:
    """Draws the page, which needs no other file.

    Raises:
        DataError: a picture cannot be read; names the file.
    """
    title = html.escape(report.title)
    shown = [entry for entry in _sections(report) if entry[2]]
    links = " ".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title><style>{STYLE}{_STYLE}</style><h1>{title}</h1>",
        *(f'<p class="headline">{_marked_up(text)}</p>' for text in report.headline),
        *(f'<p class="warning">{_marked_up(text)}</p>' for text in report.warnings),
        f"<nav>{links}</nav>",
        *(f'<h2 id="{name}">{title}</h2>{content}' for name, title, content in shown),
    ]
    return "\n".join(parts) + "</html>\n"


def best_and_worst(
    scored: Sequence[Scored], column: Column, most: int = GALLERY
) -> dict[str, tuple[list[Scored], list[Scored]]]:
    """Picks each method's best and worst pictures by a column, of part table1 where there is one.

    Returns:
        (best first, worst first) by method; no picture is in both.
    """
    of_table = [entry for entry in scored if entry.part == "table1"] or scored
    known = [entry for entry in of_table if not math.isnan(entry.values.get(column.key, math.nan))]
    picked = {}
    for method in dict.fromkeys(entry.method for entry in known):
        ranked = sorted((entry for entry in known if entry.method == method),
                        key=lambda e: -e.values[column.key] * (column.better or 1))  # fmt: skip
        best = ranked[: min(most, (len(ranked) + 1) // 2)]
        picked[method] = best, ranked[len(best) :][::-1][:most]
    return picked


def _sections(report: Report) -> list[tuple[str, str, str]]:
    losses = "".join(f"<li>{_marked_up(text)}</li>" for text in report.losses)
    alpha = f'<div class="scroll chart">{report.alpha.svg}</div>' if report.alpha else ""
    chosen = f"<p>{_marked_up(report.recommended)}</p>" if report.recommended else ""
    return [
        ("table1", "Table 1", _tables(report.table1, PAPER_TABLE_1)),
        ("losses", "Where ours loses", f"<ul>{losses}</ul>" if losses else ""),
        ("table2", "Table 2", _tables(report.table2, PAPER_TABLE_2)),
        ("figure3", "Figure 3: methods and pairs", _figure(report.figure3, "figure 3")),
        ("figure4", "Figure 4: prompts for one reference", _figure(report.figure4, "figure 4")),
        ("alpha", "Alpha: the text against the reference", chosen + alpha),
        ("columns", "What each column means", _meanings(report.columns)),
        ("gallery", "Best and worst pictures", _gallery(report)),
        ("made", "How it was made", _provenance(report.provenance)),
    ]


def _tables(tables: Mapping[str, Table], paper: Table) -> str:
    if not tables:
        return ""
    drawn = "".join(_table(table) for table in tables.values())
    return f'{drawn}<div class="paper">{_table(paper)}</div>'


def _table(table: Table) -> str:
    head = "".join(
        f"<th{' class=n' * (k > 0)}>{html.escape(name)}</th>" for k, name in enumerate(table.header)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(cell, k) for k, cell in enumerate(row))}</tr>" for row in table.rows
    )
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{html.escape(table.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(cell: str | Cell, place: int) -> str:
    if isinstance(cell, str):
        return f"<td{' class=n' * (place > 0)}>{html.escape(cell)}</td>"
    mean, rest = html.escape(cell.mean), html.escape(cell.rest)
    verdict = " better" * better(cell) + " worse" * worse(cell) if cell.difference else ""
    small = f"<small>{rest}</small>" if rest else ""
    return f'<td class="n{verdict}">{f"<b>{mean}</b>" if cell.best else mean}{small}</td>'


def _figure(figure: Image.Image | None, name: str) -> str:
    if figure is None:
        return ""
    small = figure.copy()
    small.thumbnail((WIDEST, 8 * WIDEST), Image.Resampling.LANCZOS)
    return f'<div class="scroll sheet">{_image(small, name)}</div>'


def _image(picture: Image.Image, alt: str) -> str:
    data = io.BytesIO()
    picture.convert("RGB").save(data, "WEBP", quality=_QUALITY, method=4)
    encoded = base64.b64encode(data.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img alt="{html.escape(alt)}" {size} src="data:image/webp;base64,{encoded}">'


def _meanings(columns: Sequence[Column]) -> str:
    direction = {1: "more is better", -1: "less is better", 0: "neither more nor less is better"}
    entries = "".join(
        f"<dt>{html.escape(column.label)}{ARROWS[column.better]}</dt>"
        f"<dd>{_marked_up(column.meaning)} <i>({direction[column.better]})</i></dd>"
        for column in columns
    )
    return f"<dl>{entries}</dl>" if entries else ""


def _gallery(report: Report) -> str:
    if not report.columns:
        return ""
    column, parts = report.columns[0], []
    for method, ends in best_and_worst(report.scored, column).items():
        parts.append(f"<h3>{html.escape(method)}</h3>")
        for name, entries in zip(("best", "worst"), ends, strict=True):
            figures = "".join(_gallery_figure(entry, column) for entry in entries)
            label = html.escape(f"{name} by {column.label}")
            parts.append(f'<p class="end">{label}</p><div class="grid">{figures}</div>')
    return "".join(parts)


def _gallery_figure(entry: Scored, column: Column) -> str:
    image = _image(thumbnail(entry.picture, SMALL), f"{entry.method}: {entry.prompt}")
    value = number(entry.values[column.key], column)
    told = html.escape(f"{entry.prompt} (seed {entry.seed})")
    return f"<figure>{image}<figcaption><b>{value}</b>{told}</figcaption></figure>"


def _provenance(provenance: Mapping[str, str]) -> str:
    lines = {name: text for name, text in provenance.items() if "\n" not in text.strip()}
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td><code>{html.escape(text)}</code></td></tr>"
        for name, text in lines.items()
    )
    folded = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in provenance.items()
        if name not in lines
    )
    return (f"<table>{rows}</table>" if rows else "") + folded


def _write_picture(path: Path, picture: Image.Image) -> None:
    write_atomically(path, lambda part: picture.save(part, "PNG", optimize=True))


def _marked_up(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
