"""The layout of lllyasviel's ControlNet: prompt.json with source, target and prompt on each line.

Its tutorial_dataset.py reads source (the conditioning) and target from names within the folder:
https://github.com/lllyasviel/ControlNet/blob/main/docs/train.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import DatasetConfig
from .plan import Content, Layout, Plan, Row, by_split, json_lines


def _plan(rows: Sequence[Row], config: DatasetConfig, place: Path) -> Plan:
    plan: dict[str, Content] = {}
    for split, members in by_split(rows).items():
        entries = []
        for row in members:
            source, target = f"source/{row.id}.png", f"target/{row.id}.png"
            plan[f"{split}/{source}"] = row.conditioning
            plan[f"{split}/{target}"] = row.target
            entries.append({"source": source, "target": target, "prompt": row.caption})
        plan[f"{split}/prompt.json"] = json_lines(entries)
    return plan


LLLYASVIEL = Layout(
    _plan,
    "Read by ControlNet's `tutorial_dataset.py`, with `lllyasviel/train/` in place of "
    "`./training/fill50k/`.",
)
