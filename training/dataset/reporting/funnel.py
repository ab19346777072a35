"""From films to pictures: how many each stage was given, kept and dropped, and by which check.

Everything is counted from the ledger, so it can be asked at any time, before all stages have run.
The paper's own funnel: about 6,000 frames, of which 1,818 were kept (section 3.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ..ledger import Decision, Picture, Source
from ..stages import ORDER
from ..work import Work

PAPER = (6000, 1818)
"""Frames that the paper began with, about, and what it kept."""

FRAME_CLASSES = {
    "combed": "combed",
    "transition": "in a dissolve or fade",
    "flash": "flash",
    "damaged": "damaged",
}
"""Keys of what stage `frames` counts in a film, and what they are called here."""

UNUSED = "another frame of its shot was taken"


class Step(NamedTuple):
    """A stage of the funnel.

    Attributes:
        stage: its name.
        given: how many it was given.
        kept: how many went on; those that a person has to look at, too.
        dropped: how many it dropped.
        review: how many of those it kept a person has to look at.
        failed: how many could not be worked on.
        checks: {check: how many it dropped}; one picture may be dropped by several.
        unit: what is counted: "films", "frames" or "pictures".
        ran: whether the stage has dealt with anything yet.
    """

    stage: str
    given: int
    kept: int
    dropped: int
    review: int
    failed: int
    checks: dict[str, int]
    unit: str
    ran: bool


@dataclass(frozen=True)
class Findings:
    """What the ledger says, read once.

    Attributes:
        sources: films and folders.
        pictures: all, dropped ones too, in order.
        decisions: {item: [(stage, decision)]}; items are pictures, shots and sources.
        ran: stages that have dealt with anything.
    """

    sources: list[Source]
    pictures: list[Picture]
    decisions: dict[str, list[tuple[str, Decision]]] = field(default_factory=dict)
    ran: frozenset[str] = frozenset()

    @cached_property
    def ends(self) -> dict[str, str]:
        """{picture: the stage that it did not survive}, as `Ledger.kept` counts."""
        ends = {}
        for picture in self.pictures:
            stage = _end(self.decisions.get(picture.id, []))
            if stage is not None:
                ends[picture.id] = stage
        return ends

    @cached_property
    def kept(self) -> list[Picture]:
        """The pictures that no stage has dropped or failed at."""
        return [picture for picture in self.pictures if picture.id not in self.ends]

    @cached_property
    def films(self) -> dict[str, Mapping[str, int]]:
        """{film: what stage `frames` counted in it}."""
        return {
            item: decision.details
            for item, told in self.decisions.items()
            for stage, decision in told
            if (stage, decision.check) == ("frames", "film")
        }

    def dropped_by(self, stage: str) -> dict[str, list[str]]:
        """{check: pictures that it dropped}, of those that did not survive this stage."""
        dropped: dict[str, list[str]] = {}
        for picture, end in self.ends.items():
            if end == stage:
                for by, decision in self.decisions[picture]:
                    if by == stage and decision.verdict == "drop":
                        dropped.setdefault(name_of(stage, decision), []).append(picture)
        return dropped

    def gone_before(self, stage: str) -> set[str]:
        """The pictures that did not survive an earlier stage."""
        earlier = ORDER[: ORDER.index(stage)]
        return {picture for picture, end in self.ends.items() if end in earlier}


def read_findings(work: Work) -> Findings:
    """Reads from the ledger what funnel and report are made of."""
    decisions: dict[str, list[tuple[str, Decision]]] = {}
    ran = {stage for stage in ORDER if work.ledger.digests(stage)}
    for item, stage, decision in work.ledger.decisions():
        decisions.setdefault(item, []).append((stage, decision))
        ran.add(stage)
    return Findings(work.ledger.sources(), work.ledger.pictures(), decisions, frozenset(ran))


def funnel(work: Work) -> list[Step]:
    """Counts what each stage was given and what became of it, in order of the stages."""
    return steps(read_findings(work))


def steps(findings: Findings) -> list[Step]:
    """The funnel of what was read before; see `funnel`."""
    told = [_ingest(findings)]
    if any(source.kind == "film" for source in findings.sources):
        told.append(_frames(findings))
    return told + [_pictures(findings, stage) for stage in ORDER[2:]]


def name_of(stage: str, decision: Decision) -> str:
    """What a check is called in the funnel; a person's verdict is told from a wait for one."""
    if stage != "review":
        return decision.check
    return "rejected" if "reviewer" in decision.details else "waits for a person"


def _end(told: list[tuple[str, Decision]]) -> str | None:
    failed = {stage for stage, decision in told if decision.verdict == "failed"}
    restored = any(stage == "review" and decision.verdict == "keep" for stage, decision in told)
    dropped = {stage for stage, d in told if d.verdict == "drop"} if not restored else set()
    return min((failed | dropped) & {*ORDER}, key=ORDER.index, default=None)


def _ingest(findings: Findings) -> Step:
    failed = sum(
        stage == "ingest" and decision.verdict == "failed"
        for told in findings.decisions.values()
        for stage, decision in told
    )
    films = [source for source in findings.sources if source.kind == "film"]
    ids = {source.id for source in films}
    count = len(films) + sum(picture.source not in ids for picture in findings.pictures)
    ran = "ingest" in findings.ran or bool(findings.sources)
    return Step("ingest", count + failed, count, 0, 0, failed, {}, "films and pictures", ran)


def _frames(findings: Findings) -> Step:
    films = {source.id for source in findings.sources if source.kind == "film"}
    kept = sum(picture.source in films for picture in findings.pictures)
    counts: Counter[str] = Counter()
    for told in findings.films.values():
        counts["frames"] += told.get("frames", 0)
        for key, label in FRAME_CLASSES.items():
            counts[label] += told.get(key, 0)
    # A film that is still being read has pictures, but no count of its frames yet.
    given = max(counts.pop("frames", 0), kept)
    checks = {label: count for label, count in counts.items() if count}
    if rest := given - kept - sum(checks.values()):
        checks[UNUSED] = rest
    failed = sum(stage == "frames" and decision.verdict == "failed"
                 for told in findings.decisions.values() for stage, decision in told)  # fmt: skip
    return Step("frames", given, kept, given - kept, 0, failed, checks, "frames",
                "frames" in findings.ran)  # fmt: skip


def _pictures(findings: Findings, stage: str) -> Step:
    gone = findings.gone_before(stage)
    given = [picture.id for picture in findings.pictures if picture.id not in gone]
    ended = [picture for picture in given if findings.ends.get(picture) == stage]
    failed = sum(_has(findings, picture, stage, "failed") for picture in ended)
    review = sum(
        _has(findings, picture, stage, "review")
        for picture in given
        if findings.ends.get(picture) != stage
    )
    checks = {check: len(pictures) for check, pictures in findings.dropped_by(stage).items()}
    return Step(stage, len(given), len(given) - len(ended), len(ended) - failed, review, failed,
                dict(sorted(checks.items(), key=lambda entry: (-entry[1], entry[0]))), "pictures",
                stage in findings.ran)  # fmt: skip


def _has(findings: Findings, picture: str, stage: str, verdict: str) -> bool:
    return any(by == stage and decision.verdict == verdict
               for by, decision in findings.decisions.get(picture, []))  # fmt: skip
