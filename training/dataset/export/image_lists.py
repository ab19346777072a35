"""Layouts with a metadata.jsonl beside the pictures of each split.

`trainer` is what `python -m training.train` reads. `imagefolder` is Hugging Face's ImageFolder:
a column NAME_file_name becomes a column NAME of decoded pictures (datasets 3.2 and later), and
each metadata.jsonl lies inside its split's folder. `controlnet` is an ImageFolder too, with the
columns that diffusers' examples/controlnet/train_controlnet.py takes by default.
https://huggingface.co/docs/datasets/image_load
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import DatasetConfig
from .plan import Content, Layout, Plan, Row, by_split, json_lines


def _plan(rows: Sequence[Row], folder: str, full: bool) -> Plan:
    """Plans SPLIT/metadata.jsonl, SPLIT/ID.png and SPLIT/FOLDER/ID.png.

    Args:
        rows: the pairs.
        folder: of the conditioning pictures, and the column's name.
        full: with all columns; otherwise the pictures and the caption.
    """
    plan: dict[str, Content] = {}
    for split, members in by_split(rows).items():
        entries = []
        for row in members:
            name, beside = f"{row.id}.png", f"{folder}/{row.id}.png"
            plan[f"{split}/{name}"] = row.target
            plan[f"{split}/{beside}"] = row.conditioning
            entry: dict[str, Any] = {
                "file_name": name, "text": row.caption, f"{folder}_file_name": beside,
            }  # fmt: skip
            if full:
                entry |= {
                    f"{folder}_text": row.other_caption, "group": row.group,
                    "source": row.source, "id": row.id,
                }  # fmt: skip
            entries.append(entry)
        plan[f"{split}/metadata.jsonl"] = json_lines(entries)
    return plan


def _with_other(rows: Sequence[Row], config: DatasetConfig, place: Path) -> Plan:
    return _plan(rows, "colour" if config.export.target == "sketch" else "sketch", full=True)


def _controlnet(rows: Sequence[Row], config: DatasetConfig, place: Path) -> Plan:
    return _plan(rows, "conditioning_image", full=False)


TRAINER = Layout(
    _with_other,
    "Read by `python -m training.train --data.folders \"['trainer/train']\"`. "
    'With `data.reference = "group"` another picture of the same scene is the reference.',
    "{split}/**",
)
IMAGEFOLDER = Layout(
    _with_other,
    'Read by `datasets.load_dataset("imagefolder", data_dir="imagefolder")`: columns `image`, '
    "`text`, the picture it was made from, and more.",
    "{split}/**",
)
CONTROLNET = Layout(
    _controlnet,
    "Read by diffusers' `train_controlnet.py --train_data_dir controlnet`: columns `image`, "
    "`conditioning_image`, `text`.",
    "{split}/**",
)
