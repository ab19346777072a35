"""WebDataset: numbered .tar files with ID.png, ID.cond.png, ID.txt and ID.json for each row.

A sample's key is its name up to the first dot, and ids have none. Each split has a folder of its
own, so that a folder can be given to the trainer, too. The archives are the same, bit for bit,
wherever and whenever they are packed. https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config import DatasetConfig
from ..ledger import Form
from .plan import Archive, Content, Layout, Plan, Row, by_split


def _plan(rows: Sequence[Row], config: DatasetConfig, place: Path) -> Plan:
    home = place.parents[1]
    plan: dict[str, Content] = {}
    for split, members in by_split(rows).items():
        for number, shard in enumerate(
            shards(members, config.export.shard_megabytes * 10**6, home)
        ):
            files = {name: content for row in shard for name, content in _sample(row).items()}
            plan[f"{split}/{number:06d}.tar"] = Archive(files)
    return plan


def shards(rows: Sequence[Row], most: int, home: Path) -> Iterator[list[Row]]:
    """Cuts rows into runs of at most that many bytes, one row at least."""
    shard: list[Row] = []
    total = 0
    for row in rows:
        size = sum(_bytes(form, home) for form in (row.target, row.conditioning))
        if shard and total + size > most:
            yield shard
            shard, total = [], 0
        shard.append(row)
        total += size
    if shard:
        yield shard


def _bytes(form: Form, home: Path) -> int:
    path = home / form.path
    return path.stat().st_size if path.is_file() else 0  # missing: the writer tells


def _sample(row: Row) -> dict[str, str | Form]:
    facts = {
        f"{row.other}_text": row.other_caption, "group": row.group, "source": row.source,
        "id": row.id, "width": row.width, "height": row.height,
    }  # fmt: skip
    return {
        f"{row.id}.png": row.target,
        f"{row.id}.cond.png": row.conditioning,
        f"{row.id}.txt": row.caption,
        f"{row.id}.json": json.dumps(facts, ensure_ascii=False),
    }


WEBDATASET = Layout(
    _plan,
    'Read by `webdataset.WebDataset("webdataset/train/000000.tar")` and by '
    "`python -m training.train --data.folders webdataset/train`. Keys: `png`, `cond.png`, `txt`, "
    "`json`.",
    "{split}/*.tar",
)
