"""What somebody should know about a data set, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..explain import many
from ..final_texts import all_final_texts
from ..split import scene_of
from ..stages import ORDER
from ..work import Work
from .funnel import Findings, Step

ONE_SHOT, ONE_SOURCE, ONE_CAPTION = 1 / 3, 0.8, 0.2  # shares from which on it is told
ONE_CHECK = 0.5
FEW = 6  # of so few pictures shares say nothing


def warnings(work: Work, findings: Findings, steps: Sequence[Step]) -> list[str]:
    """Lists what should be looked at, the most serious first."""
    told = _failures(steps)
    told += [f"{decision.reason}." for item in findings.films
             for stage, decision in findings.decisions[item]
             if stage == "frames" and decision.verdict == "review"]  # fmt: skip
    late = [step.stage for step in steps if not step.ran]
    if late:
        told.append(f"Not run yet: {', '.join(late)}. `build` runs what is missing.")
    if not work.config.rights.note.strip():
        told.append("Nothing can be exported before rights.note says what allows this use.")
    told += _one_sided(findings) + _strict(steps) + _same_captions(work, findings)
    waiting = next((s.checks.get("waits for a person", 0) for s in steps if s.stage == "review"), 0)
    if waiting:
        told.append(
            f"{many(waiting, 'picture')} still to be seen by a person: run "
            "`python -m training.dataset review`, or set review.require to none."
        )
    return told


def _failures(steps: Sequence[Step]) -> list[str]:
    return [
        f"{many(step.failed, 'picture' if step.unit == 'pictures' else 'source file')} failed at "
        f"{step.stage} (see Failures); the next run tries again."
        for step in steps
        if step.failed
    ]


def _one_sided(findings: Findings) -> list[str]:
    kept = findings.kept
    if len(kept) < FEW:
        return []
    told = []
    shot, count = Counter(scene_of(picture, "shot") for picture in kept).most_common(1)[0]
    if count / len(kept) >= ONE_SHOT:
        told.append(f"{count / len(kept):.0%} of the kept pictures come from one shot ({shot}).")
    source, count = Counter(picture.source for picture in kept).most_common(1)[0]
    if len(findings.sources) > 1 and count / len(kept) >= ONE_SOURCE:
        path = next((s.path for s in findings.sources if s.id == source), source)
        told.append(f"{count / len(kept):.0%} of the kept pictures come from one source ({path}).")
    return told


def _strict(steps: Sequence[Step]) -> list[str]:
    return [
        f"The check {check!r} of {step.stage} drops {count / step.given:.0%} of its pictures. See "
        "under Checks whether its threshold is right for these films."
        for step in steps
        if step.stage in ORDER[2:] and step.stage != "review" and step.given >= FEW
        for check, count in step.checks.items()
        if count / step.given >= ONE_CHECK
    ]


def _same_captions(work: Work, findings: Findings) -> list[str]:
    texts = all_final_texts(work.ledger, "caption_sketch")
    captions = [texts[picture.id].text for picture in findings.kept if picture.id in texts]
    if len(captions) < FEW:
        return []
    text, count = Counter(captions).most_common(1)[0]
    if count / len(captions) < ONE_CAPTION:
        return []
    return [f"{count:,} of {len(captions):,} captions are one and the same: {text!r}."]
