"""The data set card: what an export holds, how it was made, and whose it is.

README.md in the form that Hugging Face's hub reads (YAML, then Markdown), the same for the same
data set: no dates, no paths of this machine.
https://huggingface.co/docs/hub/datasets-cards
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..config import RightsSettings
from ..reporting.funnel import funnel
from ..stages import ORDER
from ..work import Work
from .provenance import source_entry, without_paths

if TYPE_CHECKING:  # the package `export` needs this file
    from .plan import Layout, Row

# The hub's names for licences: https://huggingface.co/docs/hub/repositories-licenses
LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gfdl", "gpl-2.0", "gpl-3.0", "unlicense", "wtfpl",
)  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
WORDS = 25  # of the most frequent ones

# Which section of the settings a stage follows from.
SECTIONS = {stage: stage for stage in ORDER} | {"measure": "filter", "fingerprint": "dedup"}


def write_card(work: Work, name: str, layout: Layout, rows: Sequence[Row], provenance: str) -> str:
    """Writes an export's card.

    Args:
        work: the data set.
        name: of the layout.
        layout: how it is read.
        rows: the pairs, by split.
        provenance: the content of provenance.jsonl beside it.

    Returns:
        The text of README.md.
    """
    splits = list(dict.fromkeys(row.split for row in rows))
    parts = [
        _front_matter(work.config.rights, layout, splits, len(rows)),
        f"# Anime sketches with captions ({name})\n\n{_summary(work, rows)}\n\n{layout.use}\n",
        "## Pictures\n\n" + _pictures(rows),
        "## Captions\n\n" + _captions(rows),
        "## Sources\n\n" + _sources(work, rows),
        "## How it was made\n\n" + _stages(work),
        "## Rights\n\n" + _rights(work.config.rights),
        "## Known limits\n\n" + _limits(work, rows),
        "## Hashes\n\n" + _hashes(provenance),
    ]  # fmt: skip
    return "\n".join(parts)


def _front_matter(rights: RightsSettings, layout: Layout, splits: Iterable[str], count: int) -> str:
    known = re.sub(r"[\s_]+", "-", rights.licence.strip().lower())
    size = next((text for most, text in SIZES if count < most), "100K<n<1M")
    lines = [f"license: {known if known in LICENCES else 'other'}"]
    if known not in LICENCES:
        lines.append(f"license_name: {_quoted(rights.licence.strip())}")
    lines += [
        "pretty_name: Anime sketches with captions",
        "language:", "- en",
        "task_categories:", "- text-to-image", "- image-to-image",
        "size_categories:", f'- "{size}"',
        "tags:", "- anime", "- sketch", "- line-art",
    ]  # fmt: skip
    if layout.data_files and count:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in splits:
            path = _quoted(layout.data_files.format(split=split))
            lines += [f"  - split: {split}", f"    path: {path}"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # JSON's texts are YAML's, too


def _summary(work: Work, rows: Sequence[Row]) -> str:
    target = work.config.export.target
    other = "the colour picture it was drawn from"
    if target == "colour":
        inverted = "white on black" if work.config.export.invert_conditioning else "dark on white"
        other = f"its sketch ({inverted})"
    return (
        f"{len(rows)} pairs. The picture to be learnt is the {target}; with it goes {other}, of "
        "the same size and aligned pixel for pixel."
    )


def _pictures(rows: Sequence[Row]) -> str:
    table = _table(
        ("split", "pictures", "groups", "sources"),
        [
            (split, len(part), len({r.group for r in part}), len({r.source for r in part}))
            for split in dict.fromkeys(row.split for row in rows)
            if (part := [row for row in rows if row.split == split])
        ],
    )
    ink = [form.details["ink"] for r in rows for form in (r.target, r.conditioning)
           if "ink" in form.details]  # fmt: skip
    spread = _table(
        ("", "least", "median", "most"),
        [
            ("width, pixels", *_spread([row.width for row in rows], 0)),
            ("height, pixels", *_spread([row.height for row in rows], 0)),
            ("ink, % of the sketch", *_spread([100 * share for share in ink], 2)),
        ],
    )
    sizes = Counter(f"{row.width} x {row.height}" for row in rows)
    common = ", ".join(f"{size} ({count})" for size, count in _most(sizes, 5))
    return f"{table}\n{spread}\nMost frequent sizes: {common or 'none'}.\n"


def _captions(rows: Sequence[Row]) -> str:
    words = [re.findall(r"\w+(?:['-]\w+)*", row.caption.lower()) for row in rows]
    frequent = _most(Counter(word for line in words for word in line), WORDS)
    table = _table(
        ("", "least", "median", "most"),
        [
            ("words", *_spread([len(line) for line in words], 0)),
            ("characters", *_spread([len(row.caption) for row in rows], 0)),
        ],
    )
    different = len({row.caption for row in rows})
    listed = ", ".join(f"{word} ({count})" for word, count in frequent)
    return f"{table}\n{different} different captions. Most frequent words: {listed or 'none'}.\n"


def _sources(work: Work, rows: Sequence[Row]) -> str:
    counts = Counter(row.source for row in rows)
    entries = [source_entry(source) for source in work.ledger.sources()]
    return _table(
        ("id", "kind", "file", "SHA-256", "licence", "pictures"),
        [
            (e["id"], e["kind"], e["file"], e.get("sha256", "of each picture: provenance.jsonl"),
             e.get("licence", work.config.rights.licence), counts[e["id"]])
            for e in sorted(entries, key=lambda entry: entry["id"])
        ],
    )  # fmt: skip


def _stages(work: Work) -> str:
    """The funnel, and the settings of each stage."""
    sections = asdict(work.config)
    rows = []
    for step in funnel(work):
        checks = ", ".join(f"{check} {count}" for check, count in step.checks.items())
        dropped = f"{step.dropped} ({checks})" if checks else step.dropped
        settings = _settings(sections[SECTIONS[step.stage]])
        rows.append((step.stage, f"{step.given} {step.unit}", step.kept, dropped, step.failed,
                     settings))  # fmt: skip
    table = _table(("stage", "given", "kept", "dropped", "failed", "settings"), rows)
    return f"{table}\nSeed {work.config.run.seed}.\n"


def _settings(section: Mapping[str, Any]) -> str:
    told = {key: value for key, value in section.items() if key not in ("sources", "layouts")}
    values = (f"{key} = {_quoted(without_paths(value))}" for key, value in told.items())
    return ", ".join(f"`{value}`" for value in values)


def _rights(rights: RightsSettings) -> str:
    return (
        f"Licence: {rights.licence.strip()}. Held by: {rights.holder.strip()}.\n\n"
        f"{rights.note.strip()}\n"
    )


def _limits(work: Work, rows: Sequence[Row]) -> str:
    ids = {row.id for row in rows}
    seen = {
        item
        for item, stage, decision in work.ledger.decisions()
        if stage == "review" and decision.verdict == "keep" and item in ids
    }
    apart = "shots" if work.config.split.by == "shot" else "films and folders"
    return (
        "- The sketches are computed from the colour pictures; nobody drew them.\n"
        f"- A person has accepted {len(seen)} of {len(rows)} pairs. The other captions are as a "
        "program wrote them, or as they came with the pictures.\n"
        f"- The splits keep {apart} apart, and pictures that look alike; characters and styles "
        "occur in several splits.\n"
    )


def _hashes(provenance: str) -> str:
    hashed = hashlib.sha256(provenance.encode()).hexdigest()
    return (
        "`checksums.sha256` lists every file (`sha256sum -c checksums.sha256`). "
        f"`provenance.jsonl`, which says of each picture where it comes from and how it was made, "
        f"has the SHA-256\n`{hashed}`.\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _spread(values: Sequence[float], digits: int) -> tuple[str, ...]:
    if not values:
        return ("", "", "")
    chosen = (min(values), statistics.median(values), max(values))
    return tuple(f"{value:.{digits}f}" for value in chosen)


def _most(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """The most frequent ones; of equally frequent ones the first in the alphabet."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:number]
