"""Stage `report`: one page that shows what became of the films, and why.

report/index.html in the data set's folder, without scripts, with small copies of pictures beside
it. Everything is read from the ledger, so the page can be written at any time.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from animesketchnet_core.files import write_atomically
from training.report import STYLE

from .reporting.funnel import Findings, Step, read_findings, steps
from .reporting.sections import (
    captions_section,
    checks_section,
    clusters_section,
    failures_section,
    funnel_section,
    ink_section,
    kept_section,
    sources_section,
)
from .reporting.sheets import Sheets
from .reporting.warnings import warnings
from .work import Work

Section = Callable[[Work, Findings, list[Step], Sheets], str]

SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("funnel", "Funnel", funnel_section),
    ("sources", "Sources", sources_section),
    ("kept", "Kept pictures", kept_section),
    ("checks", "Checks", checks_section),
    ("duplicates", "Duplicates", clusters_section),
    ("captions", "Captions", captions_section),
    ("ink", "Ink", ink_section),
    ("failures", "Failures", failures_section),
)
_STYLE = """
.scroll { overflow-x: auto; } th { border-bottom: 1px solid #8886; }
td:last-child { min-width: 10rem; }
td.n, th.n { text-align: right; min-width: 0; font-variant-numeric: tabular-nums; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; } nav a { margin-right: 1rem; }
code { font-size: .85em; overflow-wrap: anywhere; } figure { margin: 0; }
figcaption, .row p { font-size: .8rem; line-height: 1.35; margin: 0; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem; }
.row { display: grid; grid-template-columns: repeat(3, 1fr) 1.3fr; gap: .5rem;
  margin-bottom: .7rem; align-items: start; }
.row img, .grid img { width: 100%; display: block; }
.none { display: grid; place-items: center; aspect-ratio: 16/9; background: #8882;
  font-size: .8rem; }
@media (max-width: 40rem) { .row { grid-template-columns: repeat(3, 1fr); }
  .row p { grid-column: 1 / -1; } body { margin: 1rem auto; } }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #17191d; }
  a { color: #8ab4f8; } .warning { background: #3b3010; }
  svg { filter: invert(.88) hue-rotate(180deg); } }
"""


def run(work: Work) -> Counter[str]:
    """Writes the report; returns how many pictures are kept, and how many warnings there are."""
    path, told = _write(work)
    work.workers.print(f"report: {path}")
    return told


def write_report(work: Work) -> Path:
    """Writes report/index.html and its thumbnails.

    Raises:
        StorageError: there is no room.
    """
    return _write(work)[0]


def _write(work: Work) -> tuple[Path, Counter[str]]:
    findings = read_findings(work)
    counted = steps(findings)
    path = work.folder / "report" / "index.html"
    sheets = Sheets(work, path.parent)
    written = [(name, title, section(work, findings, counted, sheets))
               for name, title, section in SECTIONS]  # fmt: skip
    unreadable = sheets.make()
    sheets.write_best(path.parent / "kept.jpg")
    told = warnings(work, findings, counted) + unreadable
    page = _page(work.folder.resolve().name, told, written)
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path, Counter(kept=len(findings.kept), warnings=len(told))


def _page(name: str, told: list[str], written: list[tuple[str, str, str]]) -> str:
    title = html.escape(f"Data set {name}")
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title><style>{STYLE}{_STYLE}</style><h1>{title}</h1>",
        "<p>How films became pairs of a sketch and a colour picture with captions: what each stage "
        "kept, what it dropped, and why. A click on a small picture opens the full one. What "
        "happened to one picture tells: <code>python -m training.dataset explain ID</code>.</p>",
        *(f'<p class="warning">{_marked_up(text)}</p>' for text in told),
    ]
    shown = [entry for entry in written if entry[2]]
    links = " ".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    parts.append(f"<nav>{links}</nav>")
    parts += [f'<h2 id="{name}">{title}</h2>{content}' for name, title, content in shown]
    return "\n".join(parts) + "</html>\n"


def _marked_up(text: str) -> str:
    """Escapes a text; what stands between backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
