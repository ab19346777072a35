"""Tells one picture's whole way: where it came from, what each stage found, why it was kept or not.

python -m training.dataset explain 3fa91c --config my.toml
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .final_texts import CAPTIONS, reviewed_name
from .images import PictureError
from .ledger import Decision, Form, Ledger, Picture, Text
from .reporting.funnel import Findings, name_of, read_findings
from .stages import ORDER
from .work import Work

SHOWN = 8  # ids that an error names, and pictures of a shot or film


def explain(work: Work, id: str) -> str:
    """Tells all that is known of a picture, a shot or a source.

    Args:
        work: the data set.
        id: or a beginning that no other has.

    Returns:
        Text for a terminal.

    Raises:
        PictureError: there is no such item, or several.
    """
    findings = read_findings(work)
    item = _find(findings, id.strip())
    pictures = {picture.id: picture for picture in findings.pictures}
    if item in pictures:
        return "\n".join(_picture(work.ledger, findings, pictures[item])) + "\n"
    return "\n".join(_part(findings, item)) + "\n"


def _find(findings: Findings, wanted: str) -> str:
    pictures = [picture.id for picture in findings.pictures]
    others = {source.id for source in findings.sources} | findings.decisions.keys()
    known = [*pictures, *sorted(others - set(pictures))]
    if wanted in known:
        return wanted
    if not wanted:
        raise PictureError(f"explain needs the id of a picture, a shot or a source{_named(known)}.")
    # A film's id begins those of its pictures: what is meant by a part of it is a picture.
    for kind in (pictures, known):
        found = [item for item in kind if item.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise PictureError(
                f"{len(found)} ids begin with {wanted!r}{_named(found)}. Give more of it."
            )
    near = difflib.get_close_matches(wanted, known, n=SHOWN, cutoff=0.4)
    near += [item for item in known if wanted in item and item not in near][: SHOWN - len(near)]
    raise PictureError(f"There is no picture, shot or source {wanted!r}{_named(near or known)}.")


def _named(ids: Iterable[str]) -> str:
    ids = list(ids)
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return f"; there is {', '.join(ids[:SHOWN])}{more}" if ids else ", and the data set is empty"


def _picture(ledger: Ledger, findings: Findings, picture: Picture) -> list[str]:
    told = findings.decisions.get(picture.id, [])
    lines = [f"{picture.id}: {_fate(findings, picture.id, told)}", "", "Where it comes from"]
    lines += _origin(findings, picture)
    forms, texts = ledger.forms_of(picture.id), ledger.texts_of(picture.id)
    by_stage: dict[str, list[Decision]] = {}
    for stage, decision in told:
        by_stage.setdefault(stage, []).append(decision)
    digests = {stage: ledger.digests(stage).get(picture.id) for stage in ORDER}
    for stage in ORDER:
        if digests[stage] or stage in by_stage:
            lines += ["", f"{stage} (settings and input {digests[stage] or 'not finished'})"]
            lines += [_check(stage, decision) for decision in by_stage.get(stage, [])]
            if not by_stage.get(stage):
                lines.append("  nothing to object")
    missing = [stage for stage in ORDER[1:] if not digests[stage] and stage not in by_stage]
    if missing:
        lines += ["", f"Not dealt with by: {', '.join(missing)}"]
    lines += ["", "Files", *(_forms(forms) or ["  none"])]
    return [*lines, "", "Captions", *(_captions(texts) or ["  none"])]


def _fate(findings: Findings, picture: str, told: list[tuple[str, Decision]]) -> str:
    end = findings.ends.get(picture)
    if end is None:
        split = next((d.details.get("split") for s, d in told if s == "split"), None)
        back = sorted({f"{s}: {d.check}" for s, d in told if d.verdict == "drop" and s != "review"})
        person = f", brought back by a person after {', '.join(back)}" if back else ""
        return f"kept{person}" + (f", in the split {split!r}" if split else ", in no split yet")
    failed = [d for s, d in told if s == end and d.verdict == "failed"]
    if failed:
        return f"failed at {end}: {failed[0].reason}"
    why = [f"{name_of(end, d)}{f' ({d.reason})' if d.reason else ''}"
           for s, d in told if s == end and d.verdict == "drop"]  # fmt: skip
    return f"dropped by {end}: {'; '.join(why)}"


def _origin(findings: Findings, picture: Picture) -> list[str]:
    source = next((s for s in findings.sources if s.id == picture.source), None)
    details = dict(picture.provenance)
    lines = [
        f"  source        {picture.source}  {source.path if source else 'is no longer listed'}"
    ]
    if source and "sha256" in source.details:
        lines.append(f"  sha256        {source.details['sha256']}")
    lines.append(f"  size          {picture.width} x {picture.height}")
    if "seconds" in details:
        time = clock(float(details.pop("seconds")))
        lines.append(f"  time          {time}, pts {details.pop('pts', picture.place)}")
    lines += [f"  {name:12} {_value(value)}" for name, value in details.items()]
    return lines


def clock(seconds: float) -> str:
    """A time in a film: 3723.5 is 1:02:03.500."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"


def number(value: float) -> str:
    """A score, short enough to read."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def many(count: int, word: str) -> str:
    """A number of things: "1 film", "2,000 films"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _check(stage: str, decision: Decision) -> str:
    measured = ""
    if decision.score is not None:
        measured = f"  {number(decision.score)}"
        if decision.threshold is not None:
            measured += f", threshold {number(decision.threshold)}"
    reason = f"  {decision.reason}" if decision.reason else ""
    person = decision.details.get("reviewer") if stage == "review" else None
    by = f"  ({person}, {decision.details.get('time', '')})" if person else ""
    rest = {k: v for k, v in decision.details.items() if k not in ("reviewer", "time", "seq")}
    more = f"  {_value(rest)}" if rest else ""
    return f"  {decision.verdict:7} {decision.check}{measured}{reason}{by}{more}"


def _forms(forms: Mapping[str, Form]) -> list[str]:
    lines = []
    for name, form in forms.items():
        lines.append(f"  {name:12} {form.path}  sha256 {form.sha256}")
        if form.details:
            lines.append(f"  {'':12} {_value(form.details)}")
    return lines


def _captions(texts: Mapping[str, Text]) -> list[str]:
    edited = {name for name in CAPTIONS if reviewed_name(name) in texts}
    lines = []
    for name, text in texts.items():
        replaced = " (replaced by a person)" if name in edited else ""
        lines.append(f"  {name}{replaced}: {text.text}")
        candidates = text.details.get("candidates", ())
        for candidate in candidates if isinstance(candidates, list) else ():
            lines.append(f"    candidate  {_value(candidate)}")
        rest = {key: value for key, value in text.details.items() if key != "candidates"}
        if rest:
            lines.append(f"    {_value(rest)}")
    return lines


def _part(findings: Findings, item: str) -> list[str]:
    """Of a source, or a shot of one."""
    source = next((s for s in findings.sources if s.id == item), None)
    lines = [f"{item}: a {source.kind}, {source.path}" if source else f"{item}: no picture"]
    if source:
        lines += [f"  {name:12} {_value(value)}" for name, value in source.details.items()]
    for stage in ORDER:
        found = [d for by, d in findings.decisions.get(item, []) if by == stage]
        if found:
            lines += ["", stage, *(_check(stage, decision) for decision in found)]
    pictures = [picture for picture in findings.pictures if _belongs(picture, item)]
    left = sum(picture.id not in findings.ends for picture in pictures)
    lines += ["", f"{many(len(pictures), 'picture')} came of it, {left:,} kept"]
    for picture in pictures[:SHOWN]:
        told = findings.decisions.get(picture.id, [])
        lines.append(f"  {picture.id}  {_fate(findings, picture.id, told)}")
    return lines + ["  ..."] * (len(pictures) > SHOWN)


def _belongs(picture: Picture, item: str) -> bool:
    source, _, part = item.partition("/shot-")
    if picture.source != source:
        return False
    return not part or (part.isdecimal() and picture.provenance.get("shot") == int(part))


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(entry)}" for key, entry in value.items())
    return json.dumps(value, ensure_ascii=False)
