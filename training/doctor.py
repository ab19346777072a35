"""Looks at all that a run needs before it costs any time, and says how to mend what is wrong.

    python -m training.doctor --config my.toml

Checked are the pictures (damaged, tiny, twice, with captions too long), the models (do they belong
together?), the disk and the GPU. Errors make a run impossible or worthless; warnings are for a
person to judge.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import torch
from tqdm import tqdm

from .cache import cache_bytes
from .config import TrainConfig
from .data import Dataset
from .framing import MOST_STRETCHED, check_sizes
from .models import clip_tokenizer, load_base, load_image_encoder
from .program import run_program
from .settings import ConfigError
from .sources import DataError
from .train import INPUT_ERRORS, new_adapter, parse

T = TypeVar("T")

SHOWN = 5  # names in a finding


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        serious: whether a run would fail, or be worthless.
        text: what, where, and how to mend it.
    """

    serious: bool
    text: str


def examine(config: TrainConfig) -> list[Finding]:
    """Examines data, models and machine; an error in one does not hide those in the others."""
    findings: list[Finding] = []

    def attempt(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except INPUT_ERRORS as error:
            findings.append(Finding(True, str(error)))
            return None

    dataset = attempt(lambda: Dataset(config.data, config.views))
    base = attempt(lambda: load_base(config.model.base))
    encoder = attempt(
        lambda: load_image_encoder(
            config.model.image_encoder, config.model.base, config.model.reads
        )
    )
    if dataset:
        findings += check_pictures(config, dataset)
        findings += check_captions(dataset)
    if base and encoder:
        attempt(lambda: new_adapter(config, base, encoder))
    if dataset and base:
        attempt(lambda: check_sizes(dataset.stream.sizes, base.size_step))
    if dataset and base and encoder:
        findings += check_disk(config, cache_bytes(config, dataset, base, encoder))
    findings += check_gpu(config)
    return findings


def check_pictures(config: TrainConfig, dataset: Dataset) -> Iterator[Finding]:
    """Opens every picture."""
    damaged, tiny, stretched, blank = [], [], [], []
    copies: dict[bytes, list[str]] = {}
    views = [*dataset.targets, *dataset.references]
    names = list(dict.fromkeys(view.picture for view in views))
    for name in tqdm(names, "pictures", unit="file", leave=False, disable=None):
        try:
            picture = dataset.pictures.open(name)  # [1, h, w, 4]
        except DataError as error:
            damaged.append(str(error))
            continue
        short, long = sorted(picture.shape[1:3])
        if short < config.data.resolution:
            tiny.append(f"{name} ({picture.shape[2]} x {picture.shape[1]})")
        if long > MOST_STRETCHED[config.data.fit] * short:
            stretched.append(f"{name} ({picture.shape[2]} x {picture.shape[1]})")
        if (picture == picture[:, :1, :1]).all():
            blank.append(name)
        copies.setdefault(dataset.pictures.digest(name), []).append(name)
    if damaged:
        yield Finding(True, f"{_count(damaged, 'picture')} damaged: {_some(damaged)}")
    if blank:
        yield Finding(
            True, f"{_count(blank, 'picture')} of one colour: {_some(blank)}. Remove them."
        )
    if tiny:
        yield Finding(
            False,
            f"{_count(tiny, 'picture')} below data.resolution = {config.data.resolution} and "
            f"would be enlarged, which softens lines: {_some(tiny)}. Remove them or lower it.",
        )
    if stretched:
        fate = "each is mostly margin" if config.data.fit == "pad" else "much of each is cut away"
        yield Finding(
            False,
            f"{_count(stretched, 'picture')} very wide or tall; {fate}: {_some(stretched)}. Cut "
            "them into parts.",
        )
    twice = [" = ".join(names) for names in copies.values() if len(names) > 1]
    if twice:
        yield Finding(
            False,
            f"{_count(twice, 'picture')} there more than once, and learnt more than others: "
            f"{_some(twice)}. Remove the copies.",
        )
    if dataset.alone:
        yield Finding(
            False,
            f"{dataset.alone} of {len(dataset)} pictures are alone in their group "
            f"({config.data.group_column}) and always their own reference: they teach the model to "
            "copy.",
        )


def check_captions(dataset: Dataset) -> Iterator[Finding]:
    """Reads every caption as the text encoder will."""
    captions = dataset.captions
    empty = [row.picture for row in dataset.rows if not all(text.strip() for text in row.captions)]
    if empty:
        yield Finding(
            False,
            f"{_count(empty, 'picture')} with an empty caption: {_some(empty)}. Write them, or let "
            "objective.drop_text leave captions out.",
        )
    tokenizer = clip_tokenizer()
    most = tokenizer.model_max_length
    lengths = [len(ids) for ids in tokenizer(captions, verbose=False).input_ids]
    long = [
        f"{text[:60]!r}... ({length} tokens)"
        for text, length in zip(captions, lengths, strict=True)
        if length > most
    ]
    if long:
        yield Finding(
            False,
            f"{_count(long, 'caption')} longer than {most} tokens; the rest is never read: "
            f"{_some(long)}. Put what matters first.",
        )
    if len(captions) == 1 and len(dataset) > 1:
        yield Finding(
            False, "All pictures have the same caption: the model cannot learn to follow the text."
        )


def check_gpu(config: TrainConfig) -> Iterator[Finding]:
    """Looks at what computes."""
    gpu = torch.cuda.is_available() and config.run.device != "cpu"
    if not gpu and config.model.base != "mini":
        yield Finding(False, "No GPU is used; SD v1.5 takes minutes for a step without one.")
    if gpu and config.run.precision == "bf16" and not torch.cuda.is_bf16_supported():
        yield Finding(
            False, 'This GPU has no bfloat16 units; run.precision = "fp16" is much faster on it.'
        )


def check_disk(config: TrainConfig, needed: int) -> Iterator[Finding]:
    """Looks for a place that can be written and holds the caches, `needed` bytes."""
    output = Path(config.run.output).absolute()
    present = next(folder for folder in (output, *output.parents) if folder.exists())
    try:
        with TemporaryFile(dir=present):
            pass
    except OSError as error:
        yield Finding(
            True, f"run.output = {config.run.output} cannot be written ({error}). Choose another."
        )
        return
    free = shutil.disk_usage(present).free
    if needed > 0.9 * free:
        yield Finding(
            True,
            f"The caches need about {needed / 1e9:.1f} GB, and {present} has {free / 1e9:.1f} GB "
            "free. Choose another cache.folder.",
        )


def _count(items: Sequence[str], noun: str) -> str:
    return f"1 {noun} is" if len(items) == 1 else f"{len(items)} {noun}s are"


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, which is the trainer's.

    Returns:
        0: nothing serious; 1: a run would fail; 2: settings that cannot be used; 130, 143:
        interrupted.
    """

    def work() -> int:
        config, _ = parse(argv)
        findings = examine(config)
        for finding in sorted(findings, key=lambda finding: not finding.serious):
            print(f"{'ERROR  ' if finding.serious else 'warning'}  {finding.text}")
        serious = sum(finding.serious for finding in findings)
        print(f"{serious} errors, {len(findings) - serious} warnings")
        return 1 if serious else 0

    return run_program(work, (ConfigError,), "nothing was changed")


if __name__ == "__main__":
    sys.exit(main())
