"""Draws what is not yet drawn, and keeps each picture under all that decided it.

A picture's folder is named by the method and the hash of its recipe, its file by the case and the
hash of what the case asks for. So a changed weight file, setting, prompt or reference can never
meet an old picture, and what is there is never drawn twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from animesketchnet_core.contact_sheet import to_image
from animesketchnet_core.files import write_atomically
from training.files import append_line, make_folder
from training.workers import Workers

from .cases import Case, Job
from .studio import Studio


@dataclass(frozen=True)
class Drawn:
    """One picture and where it lies.

    Attributes:
        job: what it was drawn for.
        case: what was asked for.
        path: its file.
    """

    job: Job
    case: Case
    path: Path


def draw_all(
    jobs: Sequence[Job], studio: Studio, output: Path, batch: int, workers: Workers
) -> list[Drawn]:
    """Draws all pictures, each process its share.

    Args:
        jobs: what to draw.
        studio: opens the methods.
        output: folder of the evaluation.
        batch: pictures that a method draws at once.
        workers: the processes.

    Returns:
        Every picture of every job, once all processes have drawn theirs.
    """
    drawn = []
    for job in jobs:
        method = studio.method(job.method, job.alpha)
        folder = make_folder(output / "pictures" / _slug(job.method, method.recipe))
        paths = {case: folder / f"{case.id}-{case.pair.digest}.png" for case in job.cases}
        drawn += [Drawn(job, case, path) for case, path in paths.items()]
        workers.wait()  # an earlier job may have drawn the same pictures
        missing = [case for case, path in paths.items() if not path.is_file()]
        workers.wait()  # nobody writes before all have read what is to be drawn
        missing = workers.share(missing)
        with tqdm(total=len(missing), desc=f"{job.method}, {job.part}", unit="picture",
                  disable=not workers.first or not missing) as bar:  # fmt: skip
            for start in range(0, len(missing), batch):
                chosen = missing[start : start + batch]
                begun = time.monotonic()
                for case, picture in zip(chosen, method.draw(chosen), strict=True):
                    _save(picture, paths[case])
                seconds = time.monotonic() - begun
                _note(output / f"log.{workers.rank}.jsonl", job, len(chosen), seconds)
                bar.update(len(chosen))
    workers.wait()
    return drawn


def drawing_minutes(output: Path) -> dict[str, float]:
    """Minutes that each method drew, over all processes and runs."""
    minutes: dict[str, float] = {}
    for path in sorted(output.glob("log.*.jsonl")):
        for entry in read_lines(path):
            method, seconds = entry.get("method"), entry.get("seconds")
            if isinstance(method, str) and isinstance(seconds, (int, float)):
                minutes[method] = minutes.get(method, 0.0) + seconds / 60
    return minutes


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; what a kill or a bad disk broke is passed over."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            yield entry


def _slug(name: str, recipe: str) -> str:
    plain = re.sub(r"[^\w]+", "-", name, flags=re.ASCII).strip("-").lower()
    return f"{plain or 'method'}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"


def _save(picture: Tensor, path: Path) -> None:
    image = to_image(picture)
    write_atomically(path, lambda temporary: image.save(temporary, "PNG", compress_level=4))


def _note(path: Path, job: Job, pictures: int, seconds: float) -> None:
    entry = {"method": job.method, "part": job.part, "pictures": pictures, "seconds": seconds}
    append_line(path, json.dumps(entry))
