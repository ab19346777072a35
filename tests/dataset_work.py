"""A data set's folder for tests: settings, an open ledger, pictures that are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.dataset.config import DatasetConfig
from training.dataset.images import Pixels
from training.dataset.ledger import Ledger, Outcome, Picture
from training.dataset.work import Work
from training.settings import from_mapping
from training.workers import Workers


@contextmanager
def open_work(folder: Path, **settings: Mapping[str, Any]) -> Iterator[Work]:
    """Opens a data set in a folder: open_work(tmp_path, sketch={"method": "ink"})."""
    run = {"output": str(folder), "device": "cpu", **settings.pop("run", {})}
    config = from_mapping(DatasetConfig, {"run": run, **settings})
    with Ledger(folder / "ledger.sqlite") as ledger:
        yield Work(config, folder, ledger, Workers("cpu"))


def add_picture(
    work: Work, name: str, pixels: Pixels, place: int = 0, **provenance: Any
) -> Picture:
    """Puts a colour picture into a data set, as `frames` or `ingest` would."""
    height, width = pixels.shape[:2]
    picture = Picture(name, "source", place, width, height, provenance)
    form = work.write(picture, "colour", pixels)
    work.ledger.record(name, "ingest", "", Outcome(forms={"colour": form}), [picture])
    return picture
