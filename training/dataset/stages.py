"""Runs a stage over the pictures: what is pending, shared among processes, errors told and noted.

A picture that cannot be worked on gets a `failed` entry in the ledger and the rest goes on; the
next run tries it again. A stage is run again for exactly those pictures whose input or settings
have changed, or whose files were taken away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from animesketchnet_core.files import StorageError
from training.loading import ModelError

from .images import PictureError
from .ledger import Outcome, Picture
from .work import Work, digest

ORDER = (
    "ingest", "frames", "measure", "filter", "fingerprint", "dedup", "sketch", "adjust", "caption",
    "review", "split", "export",
)  # fmt: skip
MOST_IN_A_ROW = 3  # failures to write, after which there is no room left

Examine = Callable[[Picture], Outcome]
"""Does a stage's work on one picture. May raise PictureError, which concerns that picture alone."""


class PictureStage(Protocol):
    """A stage that looks at one picture at a time."""

    name: str
    reads: tuple[str, ...]

    def settings(self, work: Work) -> Any:
        """The dataclass of settings that the result follows from."""
        ...

    def open(self, work: Work) -> AbstractContextManager[Examine]:
        """Loads what the stage needs; called only if there is something to do.

        Raises:
            ModelError: a model is missing or wrong; it says which file is needed and where from.
        """
        ...


@runtime_checkable
class ReadsMore(Protocol):
    """A stage whose result follows from more than settings and files."""

    def inputs(self, work: Work, picture: Picture) -> Sequence[object]:
        """What else a picture's result follows from."""
        ...


def before(stage: str) -> tuple[str, ...]:
    """The stages whose decisions a stage heeds."""
    return ORDER[: ORDER.index(stage)]


def run(stage: PictureStage, work: Work) -> Counter[str]:
    """Runs a stage over all pictures that need it; returns how many got which verdict.

    Raises:
        ModelError: the stage cannot work at all; the ledger says so for each picture.
        StorageError: there is no room to write.
    """
    pending = pending_for(stage, work)
    work.workers.wait()  # nobody writes before all have read what is to be done
    mine = work.workers.share(pending)
    told: Counter[str] = Counter()
    missing = None
    if mine:
        try:
            with stage.open(work) as examine:
                _examine_all(stage, work, mine, examine, told)
        except ModelError as error:
            missing = str(error)
            kept = work.ledger.digests(stage.name)  # what was made before stays as it is
            for picture, _ in mine:
                if picture.id not in kept:
                    work.ledger.fail(picture.id, stage.name, missing)
    missing = work.workers.heard(missing)  # waits for all, and they go on alike
    if missing is not None:
        raise ModelError(missing)
    return told


def pending_for(stage: PictureStage, work: Work) -> list[tuple[Picture, str]]:
    """The pictures that a stage has yet to deal with, with the digest of settings and input."""
    done = work.ledger.digests(stage.name)
    inputs = [work.ledger.forms(form) for form in stage.reads]
    made = work.ledger.files(stage.name)
    settings = stage.settings(work)
    pending = []
    for picture in work.ledger.kept(before(stage.name)):
        hashes = [forms[picture.id].sha256 for forms in inputs if picture.id in forms]
        more = stage.inputs(work, picture) if isinstance(stage, ReadsMore) else ()
        wanted = digest(settings, *hashes, *more)
        if done.get(picture.id) != wanted or not work.has(made.get(picture.id, ())):
            pending.append((picture, wanted))
    return pending


def _examine_all(
    stage: PictureStage,
    work: Work,
    items: Sequence[tuple[Picture, str]],
    examine: Examine,
    told: Counter[str],
) -> None:
    unwritten = 0
    with tqdm(items, desc=stage.name, unit="picture", disable=not work.workers.first) as bar:
        for picture, wanted in bar:
            try:
                outcome = examine(picture)
                work.ledger.record(picture.id, stage.name, wanted, outcome)
                told[worst(outcome)] += 1
                unwritten = 0
            except PictureError as error:
                work.ledger.fail(picture.id, stage.name, str(error))
                bar.write(f"{stage.name}: {error}")
                told["failed"] += 1
            except StorageError as error:
                unwritten += 1
                if unwritten == MOST_IN_A_ROW:
                    raise
                work.ledger.fail(picture.id, stage.name, str(error))
                bar.write(f"{stage.name}: {error}")
                told["failed"] += 1
            bar.set_postfix(told)


def worst(outcome: Outcome) -> str:
    """The verdict of an outcome as a whole."""
    verdicts = {decision.verdict for decision in outcome.decisions}
    return next((v for v in ("failed", "drop", "review") if v in verdicts), "keep")


def summary(told: Mapping[str, int]) -> str:
    """Says in words what a stage did."""
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(told.items())) or "nothing"
