"""Opens the measures that the settings ask for, and says which are missing and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from training.sources import Pictures, read_source

from ..cases import Pair
from ..config import EvaluateConfig
from .clip import ClipMeasure, open_clip_measure
from .copying import CopyingMeasure
from .diversity import DiversityMeasure
from .likeness import SketchLikenessMeasure
from .lines import LineMeasure
from .measure import Measure

MISSING = {
    "clip": "no CLIP score, CLIP-I and copying, and diversity by ink alone",
    "blip2": "no BLIP-ITM and BLIP-Cosine",
}


def open_measures(config: EvaluateConfig, device: torch.device) -> dict[str, Measure]:
    """Opens all measures, by the names of their files of figures.

    Raises:
        ModelError, DataError: what a setting names is missing or wrong.
    """
    wanted, measures = config.measures, dict[str, Measure]()
    if wanted.judge:
        from training.mini.judge_measure import open_judge
        from training.mini.rivals import FOLDER, JUDGE

        mini = wanted.judge == "mini"
        measures["judge"] = open_judge(FOLDER / JUDGE if mini else Path(wanted.judge))
    if wanted.blip2:
        from .blip2 import open_blip2_measure  # transformers' BLIP-2 takes seconds

        measures["blip2"] = open_blip2_measure(wanted.blip2, "measures.blip2", device)
    clip = _open_clip(config, device) if wanted.clip else None
    if clip:
        measures["clip"] = clip
    if wanted.dino:
        from .dino import open_dino_measure

        measures["dino"] = open_dino_measure(wanted.dino, "measures.dino", device)
    measures["likeness"], measures["lines"] = SketchLikenessMeasure(), LineMeasure()
    diversity = DiversityMeasure(clip.embed, clip.recipe) if clip else DiversityMeasure()
    measures["diversity"] = diversity
    if clip and config.cases.training:
        pictures = training_pictures(config)
        measures["copying"] = CopyingMeasure(clip.embed, pictures, clip.recipe)
    return measures


def warnings(
    config: EvaluateConfig, measures: dict[str, Measure], pairs: Iterable[Pair]
) -> list[str]:
    """What a reader should know: measures that are left out, prompts that a network cuts."""
    told = [
        f"`measures.{name}` is not set: {loss}."
        for name, loss in MISSING.items()
        if not getattr(config.measures, name)
    ]
    known = {column.key for measure in measures.values() for column in measure.columns}
    asked = {"tables.table1": config.tables.table1}
    if config.alpha.methods:
        asked |= {"alpha.text": (config.alpha.text,), "alpha.fidelity": (config.alpha.fidelity,)}
    told += [
        f"`{setting}` names {', '.join(lost)}, which is not measured here; what is: "
        f"{', '.join(sorted(known))}."
        for setting, keys in asked.items()
        if (lost := [key for key in keys if key not in known])
    ]
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    for name, measure in measures.items():
        truncated: Callable[[str], int] | None = getattr(measure, "truncated", None)
        cut = [prompt for prompt in prompts if truncated and truncated(prompt)]
        if cut:
            told.append(
                f"{len(cut)} of {len(prompts)} prompts are too long for the measure {name}, which "
                f"does not read their ends; the first is {cut[0][:60]!r} ..."
            )
    return told


def training_pictures(config: EvaluateConfig) -> list[Path]:
    """The pictures that cases.training names.

    Raises:
        DataError: a folder is missing, or no data set.
    """
    if config.cases.training == ("mini",):
        from training.mini.pairs import draw_training_pictures

        return draw_training_pictures(Path(config.run.output) / "training")
    pictures = Pictures()
    records = [r for folder in config.cases.training
               for r in read_source(Path(folder), pictures, "file_name")]  # fmt: skip
    return [Path(record.picture) for record in records]


def _open_clip(config: EvaluateConfig, device: torch.device) -> ClipMeasure:
    if config.measures.clip == "mini":
        from training.mini.alignment import open_mini_clip

        return open_mini_clip(device)
    return open_clip_measure(config.measures.clip, "measures.clip", device)
