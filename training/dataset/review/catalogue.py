"""What the page is told of the pictures: one short entry for each, and all details of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..final_texts import CAPTIONS
from ..ledger import Decision, Ledger, Picture
from ..stages import before
from .decisions import DecisionLog, State
from .faults import CaptionRules

FORMS = ("colour", "sketch", "adjusted")
EARLIER = before("review")


class Verdicts:
    """What the stages before the review said, sorted for it.

    Attributes:
        flags: {picture: ["stage/check", ...]} that a person has to look at.
        drops: the same of drops and failures.
        failed: pictures that could not be worked on; no person can bring them back.
        clusters: {picture: {"cluster": id, "kind": kind, "of": id}} of duplicates.
    """

    def __init__(self, decisions: Iterable[tuple[str, str, Decision]]) -> None:
        self.flags: dict[str, list[str]] = {}
        self.drops: dict[str, list[str]] = {}
        self.failed: set[str] = set()
        self.clusters: dict[str, dict[str, str]] = {}
        for item, stage, decision in decisions:
            if stage not in EARLIER:
                continue
            if decision.verdict == "review":
                self.flags.setdefault(item, []).append(f"{stage}/{decision.check}")
            elif decision.verdict in ("drop", "failed"):
                self.drops.setdefault(item, []).append(f"{stage}/{decision.check}")
            if decision.verdict == "failed":
                self.failed.add(item)
            if stage == "dedup" and "cluster" in decision.details:
                self._join(item, decision.details)

    def _join(self, item: str, details: Mapping[str, Any]) -> None:
        named = {key: str(details.get(key) or "") for key in ("cluster", "kind", "of")}
        self.clusters[item] = named
        if named["of"]:  # the one that was kept may have no entry of its own
            kept = {"cluster": named["cluster"], "kind": "", "of": ""}
            self.clusters.setdefault(named["of"], kept)


def overview(ledger: Ledger, log: DecisionLog, rules: CaptionRules) -> dict[str, Any]:
    """Lists all pictures in order, with what filters, thumbnails and captions need."""
    verdicts = Verdicts(ledger.decisions())
    forms = {name: ledger.forms(name) for name in FORMS}
    texts = {name: ledger.texts(name) for name in CAPTIONS}
    seq = log.refresh()
    pictures = []
    for picture in ledger.pictures():
        written = {name: texts[name][picture.id].text for name in CAPTIONS
                   if picture.id in texts[name]}  # fmt: skip
        hashes = {name: forms[name][picture.id].sha256[:16] for name in FORMS
                  if picture.id in forms[name]}  # fmt: skip
        pictures.append({
            "id": picture.id,
            "source": picture.source,
            "size": [picture.width, picture.height],
            "forms": hashes,
            "captions": written,
            "flags": verdicts.flags.get(picture.id, []),
            "drops": verdicts.drops.get(picture.id, []),
            "failed": picture.id in verdicts.failed,
            "duplicate": verdicts.clusters.get(picture.id),
            "state": told(log.state(picture.id), written, rules),
        })  # fmt: skip
    return {"pictures": pictures, "sources": _sources(ledger), "seq": seq}


def told(state: State, written: Mapping[str, str], rules: CaptionRules) -> dict[str, Any]:
    """What the page is told of a picture's state in the log.

    Args:
        state: as the log has it.
        written: {name: caption} of the caption stage.
        rules: for captions.
    """
    edited = {name: line.value for name, line in state.captions.items()}
    decided, last = state.decided, state.last
    return {
        "seq": state.seq,
        "verdict": state.verdict,
        "reason": decided.value if decided and state.verdict == "reject" else "",
        "decided": [decided.reviewer, decided.time] if decided else None,
        "last": [last.reviewer, last.time] if last else None,
        "captions": edited,
        "faults": {name: rules.faults(name, text) for name, text in {**written, **edited}.items()},
    }


def details(ledger: Ledger, picture: Picture) -> dict[str, Any]:
    """All that the stages before the review found out about a picture, and where it is from."""
    return {
        "provenance": dict(picture.provenance),
        "decisions": [
            {"stage": stage, **asdict(decision)}
            for _, stage, decision in ledger.decisions(picture.id)
            if stage in EARLIER
        ],
    }


def _sources(ledger: Ledger) -> dict[str, str]:
    return {source.id: Path(source.path).name or source.id for source in ledger.sources()}
