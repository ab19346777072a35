"""The layout of kohya-ss/sd-scripts: pictures with captions beside them, and dataset TOML files.

    train/1_sketch/ID.png, ID.txt     a folder for --train_data_dir; 1 counts the repeats
    train/conditioning/ID.png         same names, same sizes
    train.toml                        for --dataset_config
    train-controlnet.toml             the same for its ControlNet trainers (conditioning_data_dir)

The scripts take image_dir as it stands, relative to wherever they are started, so it is written as
an absolute path: after moving the folder, export again. A caption is its file's first line.
https://github.com/kohya-ss/sd-scripts/blob/main/docs/config_README-en.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..config import DatasetConfig
from .plan import Content, Layout, Plan, Row, by_split


def _plan(rows: Sequence[Row], config: DatasetConfig, place: Path) -> Plan:
    plan: dict[str, Content] = {}
    for split, members in by_split(rows).items():
        pictures = f"{split}/{config.export.kohya_repeats}_{config.export.target}"
        conditioning = f"{split}/conditioning"
        for row in members:
            plan[f"{pictures}/{row.id}.png"] = row.target
            plan[f"{pictures}/{row.id}.txt"] = row.caption + "\n"
            plan[f"{conditioning}/{row.id}.png"] = row.conditioning
        folders = {"image_dir": str(place / pictures)}
        plan[f"{split}.toml"] = _toml(folders, config)
        folders["conditioning_data_dir"] = str(place / conditioning)
        plan[f"{split}-controlnet.toml"] = _toml(folders, config)
    return plan


def _toml(folders: dict[str, str], config: DatasetConfig) -> str:
    keywords = len(config.caption.keywords.split(",")) if config.export.target == "sketch" else 0
    lines = [
        "[general]",
        'caption_extension = ".txt"',
        "shuffle_caption = false    # they are sentences",
        f"keep_tokens = {keywords}    # the sketch keywords, should captions be shuffled after all",
        "",
        "[[datasets]]",
        f"resolution = {config.export.kohya_resolution}",
        "enable_bucket = true",
        "bucket_no_upscale = true",
        "",
        "[[datasets.subsets]]",
        *(f"{key} = {json.dumps(path, ensure_ascii=False)}" for key, path in folders.items()),
        f"num_repeats = {config.export.kohya_repeats}",
    ]
    return "\n".join(lines) + "\n"


KOHYA = Layout(
    _plan,
    "Read by sd-scripts: `--dataset_config train.toml`, or `train-controlnet.toml` for its "
    "ControlNet trainers. The paths in them are absolute: after moving the folder, export again.",
)
