"""The sections of the report's page, as HTML; a section that has nothing to show is empty."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from ..explain import clock, many, number
from ..final_texts import CAPTIONS, all_final_texts
from ..ledger import Decision, Picture
from ..split import splits_of
from ..stages import ORDER
from ..work import Work
from .charts import funnel_chart, histogram
from .funnel import PAPER, Findings, Step
from .sheets import Sheets, spread

KEPT = 60  # pictures shown, evenly from first to last
DROPPED = 8  # of each check
NEAREST = 4  # to a threshold, on each side
CLUSTERS, MEMBERS = 24, 8  # duplicates shown: the largest clusters, and how many of each
FAILURES = 100
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]\d+)?|")


def funnel_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """What each stage was given and kept, as a table and a plot."""
    rows = []
    for step in steps:
        checks = ", ".join(f"{name} {count:,}" for name, count in step.checks.items())
        note = checks if step.ran else "not run yet"
        counts = [step.given, step.kept, step.dropped, step.review, step.failed]
        rows.append([step.stage, *counts, step.unit, note])
    head = ["stage", "given", "kept", "dropped", "to look at", "failed", "of", "dropped because"]
    return "".join((
        _share(findings, steps),
        "<p>A stage is given what the one before it kept. A picture may be dropped by several "
        "checks at once.</p>",
        table(head, rows),
        funnel_chart(ran) if (ran := [step for step in steps if step.ran]) else "",
    ))  # fmt: skip


def _share(findings: Findings, steps: Sequence[Step]) -> str:
    frames = next((step for step in steps if step.stage == "frames"), None)
    kept, taken = len(findings.kept), len(findings.pictures)
    films = sum(source.kind == "film" for source in findings.sources)
    shots = sum(int(told.get("shots", 0)) for told in findings.films.values())
    way = ""
    if frames:
        way = f"{many(films, 'film')} → {many(frames.given, 'frame')} → {many(shots, 'shot')} → "
    share = f" ({kept / taken:.0%})" if taken else ""
    begun, left = PAPER
    return (
        f"<p><strong>{way}{many(taken, 'picture')} → {kept:,} kept{share}.</strong> "
        f"For comparison, the paper: about {begun:,} frames → {left:,} kept "
        f"({left / begun:.0%}).</p>"
    )


def sources_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """A line for each film and folder."""
    kept = Counter(picture.source for picture in findings.kept)
    taken = Counter(picture.source for picture in findings.pictures)
    ends = Counter((p.source, findings.ends[p.id]) for p in findings.pictures
                   if p.id in findings.ends)  # fmt: skip
    rows = []
    for source in findings.sources:
        told = findings.films.get(source.id, {})
        gone = [f"{stage} {ends[source.id, stage]:,}" for stage in ORDER if ends[source.id, stage]]
        rows.append([PurePath(source.path).name, source.id, told.get("frames", ""),
                     told.get("shots", ""), taken[source.id], kept[source.id], ", ".join(gone),
                     _about(told)])  # fmt: skip
    head = ["source", "id", "frames", "shots", "pictures", "kept", "dropped by", "about it"]
    return table(head, rows) if rows else "<p>There is none yet.</p>"


def _about(told: Any) -> str:
    notes = []
    if told.get("fps"):
        notes.append(f"{float_of(told['fps']):.3f} frames/s")
    if told.get("interlaced"):
        notes.append("interlaced")
    if told.get("crop"):
        notes.append(f"crop {told['crop']}")
    return ", ".join(notes)


def float_of(fraction: str) -> float:
    """The value of "24000/1001"."""
    over, _, under = fraction.partition("/")
    return float(over) / float(under or 1)


def kept_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """Colour, sketch, adjusted sketch and captions."""
    if not findings.kept:
        return "<p>There is none.</p>"
    captions = {name: all_final_texts(work.ledger, name) for name in CAPTIONS}
    splits = splits_of(work.ledger)

    def text(picture: Picture) -> str:
        told = [
            captions[name][picture.id].text for name in CAPTIONS if picture.id in captions[name]
        ]
        place = [source_time(picture), splits.get(picture.id, ("",))[0]]
        return "<br>".join(html.escape(line) for line in (*told, ", ".join(filter(None, place))))

    shown = spread(findings.kept, KEPT)
    best = [(picture.id, next((t[picture.id].text for t in captions.values() if picture.id in t),
                              "")) for picture in spread(findings.kept, 12)]  # fmt: skip
    sheets.best = best
    return (
        f"<p>{len(shown):,} of {len(findings.kept):,}, evenly from first to last: colour, sketch, "
        'adjusted sketch, captions. <a href="kept.jpg">Twelve of them in one picture</a>.</p>'
        + sheets.rows((picture.id, text(picture)) for picture in shown)
    )


def source_time(picture: Picture) -> str:
    """When in its film a picture is, or in which file of its folder."""
    if "seconds" in picture.provenance:
        return clock(float(picture.provenance["seconds"]))
    return str(picture.provenance.get("file", ""))


def checks_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """Each check: verdicts, scores about the threshold, the nearest cases, what was dropped."""
    found: dict[tuple[str, str], list[tuple[str, Decision]]] = {}
    for item, told in findings.decisions.items():
        for stage, decision in told:
            found.setdefault((stage, decision.check), []).append((item, decision))
    order = sorted(found, key=lambda key: (ORDER.index(key[0]) if key[0] in ORDER else 99, key[1]))
    pictures = {picture.id for picture in findings.pictures}
    rows, eventful, quiet = [], [], []
    for stage, check in order:
        cases = found[stage, check]
        verdicts = Counter(decision.verdict for _, decision in cases)
        thresholds = sorted({d.threshold for _, d in cases if d.threshold is not None})
        span = " to ".join(
            number(value) for value in dict.fromkeys(thresholds[:1] + thresholds[-1:])
        )
        rows.append(
            [stage, check, *(verdicts[v] for v in ("keep", "review", "drop", "failed")), span]
        )
        title = html.escape(f"{stage}: {check}")
        if content := _check(cases, thresholds, pictures, sheets):
            objected = len(cases) > verdicts["keep"]
            (eventful if objected else quiet).append(f"<h3>{title}</h3>{content}")
    if not rows:
        return ""
    head = ["stage", "check", "keep", "review", "drop", "failed", "threshold"]
    folded = ""
    if quiet:
        summary = f"{many(len(quiet), 'check')} that had nothing to object"
        folded = f"<details><summary>{summary}</summary>{''.join(quiet)}</details>"
    return (
        "<p>Every verdict comes from a check, which measures a score and compares it with a "
        "threshold of the settings (the dashed line). The nearest cases on both sides show whether "
        "the threshold is where it should be.</p>" + table(head, rows) + "".join(eventful) + folded
    )


def _check(
    cases: list[tuple[str, Decision]], thresholds: list[float], pictures: set[str], sheets: Sheets
) -> str:
    parts = []
    scored = [(item, d, d.score) for item, d in cases if d.score is not None]
    if thresholds and len(scored) > 2:
        values = {
            verdict: [score for _, d, score in scored if d.verdict == verdict]
            for verdict in ("keep", "review", "drop", "failed")
        }
        ends = list(dict.fromkeys(thresholds[:1] + thresholds[-1:]))
        parts.append(histogram({k: v for k, v in values.items() if v}, "score", ends))
    shown: set[str] = set()
    near = sorted(
        (
            (min(abs(score - limit) for limit in thresholds), item, d)
            for item, d, score in scored
            if thresholds and item in pictures
        ),
        key=lambda entry: entry[:2],
    )
    sides = {
        "kept, nearest to the threshold": [e for e in near if e[2].verdict == "keep"],
        "not kept, nearest to the threshold": [e for e in near if e[2].verdict != "keep"],
    }
    if all(sides.values()):
        for title, side in sides.items():
            chosen = [(item, _measured(d)) for _, item, d in side[:NEAREST]]
            shown |= {item for item, _ in chosen}
            parts.append(f"<p>{title.capitalize()}:</p>{sheets.grid(chosen)}")
    for verdict, title in (("drop", "Dropped"), ("review", "To look at")):
        gone = [(item, d) for item, d in cases if d.verdict == verdict and item in pictures]
        rest = [entry for entry in gone if entry[0] not in shown]
        if rest:
            chosen = [(item, _measured(d)) for item, d in spread(rest, DROPPED)]
            parts.append(f"<p>{title} ({len(chosen)} of {len(gone):,}):</p>{sheets.grid(chosen)}")
    return "".join(parts)


def _measured(decision: Decision) -> str:
    score = number(decision.score) if decision.score is not None else ""
    limit = f" / {number(decision.threshold)}" if decision.threshold is not None and score else ""
    return f"{score}{limit} {decision.reason}".strip()


def clusters_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """The largest clusters of duplicates, each with the one that stands for it first."""
    found: dict[str, dict[str, str]] = {}
    kinds: Counter[str] = Counter()
    for picture in findings.pictures:
        for stage, decision in findings.decisions.get(picture.id, []):
            if stage == "dedup" and "cluster" in decision.details:
                kind, of = str(decision.details.get("kind", "")), decision.details.get("of")
                members = found.setdefault(str(decision.details["cluster"]), {})
                if of:
                    members.setdefault(str(of), "stands for the others")
                standing = decision.verdict == "keep"
                members[picture.id] = f"{kind}, kept" if standing and kind else kind or "kept"
                kinds[kind] += bool(kind) and not standing
    several = {name: members for name, members in found.items() if len(members) > 1}
    if not several:
        return ""
    largest = sorted(several.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:CLUSTERS]
    parts = [f"<p>{len(several):,} clusters of pictures that are alike; the largest "
             f"{len(largest)} are shown.</p>"]  # fmt: skip
    parts.append(table(["kind", "dropped"], [[kind, n] for kind, n in kinds.most_common() if n]))
    for _, members in largest:
        ordered = sorted(members.items(), key=lambda entry: ("kept" not in entry[1] and
                         "stands" not in entry[1], entry[0]))  # fmt: skip
        parts.append(f"<h3>{len(members)} alike</h3>{sheets.grid(ordered[:MEMBERS])}")
    return "".join(parts)


def captions_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """Lengths of the captions of kept pictures."""
    kept = {picture.id for picture in findings.kept}
    parts = []
    for name in CAPTIONS:
        texts = [t.text for id, t in all_final_texts(work.ledger, name).items() if id in kept]
        if not texts:
            continue
        words, letters = [len(text.split()) for text in texts], [len(text) for text in texts]
        rows = [[what, min(n), sorted(n)[len(n) // 2], max(n)]
                for what, n in (("words", words), ("characters", letters))]  # fmt: skip
        parts.append(
            f"<h3>{name}</h3><p>{many(len(texts), 'caption')}, "
            f"{many(len(set(texts)), 'different text')}; "
            f"{many(len(kept) - len(texts), 'kept picture')} without one.</p>"
            + table(["", "least", "median", "most"], rows)
            + (histogram({"captions": words}, "words") if len(set(words)) > 1 else "")
        )
    return "".join(parts)


def ink_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """How much ink the sketches have, before and after the stage `adjust`, and what it chose."""
    kept = {picture.id for picture in findings.kept}
    chosen = [form.details for id, form in work.ledger.forms("adjusted").items() if id in kept]
    both = [(d["coverage_before"], d["coverage"]) for d in chosen
            if "coverage_before" in d and "coverage" in d]  # fmt: skip
    if not both:
        return ""
    before, after = zip(*both, strict=True)
    settings = work.config.adjust
    band = [settings.least_coverage, settings.most_coverage]
    rows = [[name, *(number(float(value)) for value in _spread(chosen, name))]
            for name in ("noise", "contrast", "black", "white", "gamma", "specks")
            if any(d.get(name) is not None for d in chosen)]  # fmt: skip
    counts = [f"{sum(bool(d.get(name)) for d in chosen):,} {what}"
              for name, what in (("denoised", "denoised"), ("clahe", "with CLAHE"))]  # fmt: skip
    return "".join((
        "<p>Ink is the mean darkness of a sketch: 0 is white paper, 1 is black. The dashed lines "
        "are the band that <code>adjust</code> aims at.</p>",
        histogram({"before": before, "after": after}, "ink", band, stacked=False),
        f"<p>Values that were chosen for {len(chosen):,} sketches; {', '.join(counts)}.</p>",
        table(["", "least", "median", "most"], rows),
    ))  # fmt: skip


def _spread(chosen: Sequence[Any], name: str) -> tuple[float, float, float]:
    values = sorted(d[name] for d in chosen if d.get(name) is not None)
    return values[0], values[len(values) // 2], values[-1]


def failures_section(work: Work, findings: Findings, steps: list[Step], sheets: Sheets) -> str:
    """What could not be worked on, and why."""
    failed = [(stage, item, decision.reason) for item, told in findings.decisions.items()
              for stage, decision in told if decision.verdict == "failed"]  # fmt: skip
    if not failed:
        return "<p>None.</p>"
    more = f"<p>and {len(failed) - FAILURES:,} more</p>" if len(failed) > FAILURES else ""
    return table(["stage", "item", "why"], sorted(failed)[:FAILURES]) + more


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; numbers are set to the right."""
    rows = list(rows)
    numeric = [bool(rows) and all(_NUMBER.fullmatch(str(row[k])) for row in rows)
               for k in range(len(head))]  # fmt: skip
    lines = [head, *([f"{cell:,}" if isinstance(cell, int) else cell for cell in r] for r in rows)]
    text = ""
    for kind, line in zip(("th", *("td",) * len(rows)), lines, strict=True):
        cells = (
            f"<{kind}{' class=n' if right else ''}>{html.escape(str(cell))}</{kind}>"
            for cell, right in zip(line, numeric, strict=True)
        )
        text += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="scroll"><table>{text}</table></div>'
