"""Puts what people decided into the ledger, and holds back what still waits for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from ..final_texts import reviewed_name
from ..ledger import Decision, Outcome, Text
from ..work import Work, digest
from .catalogue import Verdicts
from .decisions import DecisionLog, Line, State

STAGE = "review"
NEEDED = "sketch"  # the form without which a picture is of no use to the later stages


def run(work: Work) -> Counter[str]:
    """Makes the ledger say what review.jsonl says; returns how many pictures fared how.

    Raises:
        StorageError: the log or the ledger cannot be read or written.
    """
    log = DecisionLog(work.folder)
    verdicts = Verdicts(work.ledger.decisions())
    usable = set(work.ledger.forms(NEEDED))
    done = work.ledger.digests(STAGE)
    told: Counter[str] = Counter()
    for picture in work.ledger.pictures():
        id, state = picture.id, log.state(picture.id)
        decisions = _decided(state, usable=id in usable)
        if not decisions and id not in verdicts.drops:
            decisions = _undecided(work.config.review.require, flagged=id in verdicts.flags)
        outcome = Outcome(decisions, texts=_texts(state))
        if id in verdicts.drops and not decisions and not outcome.texts:
            if id in done:  # the stages that dropped it have said all that there is to say
                work.ledger.forget(id, STAGE)
            continue
        wanted = digest(work.config.review, asdict(outcome))
        if done.get(id) != wanted:
            work.ledger.record(id, STAGE, wanted, outcome)
        told[_fate(decisions)] += 1
    if log.damaged:
        print(f"review: {log.damaged} lines of {log.path} were cut short, and are passed over.")
    return told


def _decided(state: State, *, usable: bool) -> list[Decision]:
    line = state.decided
    if line is None:
        return []
    by = {"reviewer": line.reviewer, "time": line.time, "seq": line.seq}
    if line.action == "reject":
        return [Decision("person", "drop", line.value or "rejected", details=by)]
    accepted = Decision("person", "keep", f"accepted by {line.reviewer}", details=by)
    if usable:
        return [accepted]
    # The stages before see `keep` and make what is missing; those after see `failed` and wait.
    reason = f"brought back by {line.reviewer}, and has no {NEEDED} yet; run `build` again"
    return [accepted, Decision(NEEDED, "failed", reason)]


def _undecided(require: str, *, flagged: bool) -> list[Decision]:
    if require == "all" or (require == "flagged" and flagged):
        why = "was flagged" if require == "flagged" else 'review.require is "all"'
        return [Decision("person", "drop", "waits for review", details={"why": why})]
    return []


def _texts(state: State) -> dict[str, Text]:
    return {reviewed_name(name): _text(line) for name, line in state.captions.items()}


def _text(line: Line) -> Text:
    return Text(line.value, {"reviewer": line.reviewer, "time": line.time, "seq": line.seq})


def _fate(decisions: Sequence[Decision]) -> str:
    if not decisions:
        return "not asked about"
    if any(decision.verdict == "failed" for decision in decisions):
        return "brought back, to be built"
    if decisions[0].verdict == "keep":
        return "accepted"
    return "rejected" if "reviewer" in decisions[0].details else "waiting"
