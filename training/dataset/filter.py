"""Stage `filter`: compares the figures that `measure` took with thresholds, and says why.

Nothing is measured here, so that a changed threshold costs seconds. What overlays are is decided
over all pictures of a source together (quality/overlays.py).
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tqdm import tqdm

from .config import QUALITY_CHECKS, WORSE_BELOW, FilterSettings
from .ledger import Decision, Ledger, Outcome, Picture, Verdict
from .measure import Figures, unpack_corners, unpack_thumbnail
from .quality.lettering import joined
from .quality.overlays import Overlays, Seen, find_overlays
from .stages import before, worst
from .work import Work, digest

NAME = "filter"
_FILM = 8  # pictures, from which on their median says what kind of film it is
_MOVED = ("resolution", "upscale", "blur")  # what motion explains


@dataclass(frozen=True)
class Known:
    """All that is known of a picture.

    Attributes:
        picture: where it is from.
        figures: as measured.
        overlays: what lies over it.
        filmed: 0 to 1, the film's other pictures taken into account.
    """

    picture: Picture
    figures: Figures
    overlays: Overlays
    filmed: float


@dataclass(frozen=True)
class _Check:
    """How a check gets its score, and how it is told; `{score}` is put in."""

    score: Callable[[Known], float | None]
    told: str
    unknown: str = "too few edges to tell"


def run(work: Work) -> Counter[str]:
    """Judges all pictures; returns how many of those judged anew got which verdict."""
    told: Counter[str] = Counter()
    done = work.ledger.digests(NAME)
    known = known_pictures(work, told)
    outcomes = judge(known, work.config.filter)
    with tqdm(known, desc=NAME, unit="picture", disable=not work.workers.first) as bar:
        for k in bar:
            outcome = outcomes[k.picture.id]
            # The verdicts are cheap, and follow from other pictures, too: they are the digest.
            wanted = digest(work.config.filter, *map(repr, outcome.decisions))
            if done.get(k.picture.id) != wanted:
                work.ledger.record(k.picture.id, NAME, wanted, outcome)
                told[worst(outcome)] += 1
                bar.set_postfix(told)
    return told


def known_pictures(work: Work, told: Counter[str] | None = None) -> list[Known]:
    """Gathers what is known of all pictures that earlier stages kept, source by source.

    Pictures that were not measured get an entry `failed`, counted in `told`.
    """
    ledger = work.ledger
    by_source: dict[str, list[Picture]] = defaultdict(list)
    for picture in ledger.kept(before(NAME)):
        by_source[picture.source].append(picture)
    films = {source.id for source in ledger.sources() if source.kind == "film"}
    known = []
    for source, pictures in by_source.items():
        quality = ledger.features("quality", [picture.id for picture in pictures])
        for picture in pictures:
            if picture.id not in quality:
                ledger.fail(picture.id, NAME, "It has not been measured. Run the stage measure.")
                if told is not None:
                    told["failed"] += 1
        measured = [picture for picture in pictures if picture.id in quality]
        figures = {picture.id: Figures.unpack(quality[picture.id]) for picture in measured}
        filmed = _filmed(figures, source in films)
        overlays = find_overlays(_seen(ledger, measured, figures))
        known += [Known(p, figures[p.id], overlays[p.id], filmed[p.id]) for p in measured]
    return known


def _seen(
    ledger: Ledger, pictures: Sequence[Picture], figures: Mapping[str, Figures]
) -> list[Seen]:
    ids = [picture.id for picture in pictures]
    corners = ledger.features("quality-corners", ids)
    thumbnails = ledger.features("quality-thumbnail", ids)
    return [
        Seen(
            picture.id,
            _shot(picture),
            figures[picture.id].text or (),
            figures[picture.id].content_mask(),
            unpack_corners(corners[picture.id]),
            unpack_thumbnail(thumbnails[picture.id]),
        )
        for picture in pictures
    ]


def judge(known: Sequence[Known], settings: FilterSettings) -> dict[str, Outcome]:
    """Decides on each picture.

    Returns:
        By picture one decision for each check that is not off.
    """
    decided = {k.picture.id: _decisions(k, settings) for k in known}
    for k in known:
        decided[k.picture.id] = _prefer_clean(k, decided)
    return {picture: Outcome(list(found.values())) for picture, found in decided.items()}


def _shot(picture: Picture) -> str:
    """Names the picture's shot; without one it stands alone."""
    shot = picture.provenance.get("shot")
    return picture.id if shot is None else f"shot-{shot}"


def _filmed(figures: Mapping[str, Figures], film: bool) -> dict[str, float]:
    """Scores of live action. All of a film is one or the other, so half comes from its median."""
    if any(f.classified is not None for f in figures.values()):
        return {item: f.filmed if f.classified is None else f.classified
                for item, f in figures.items()}  # fmt: skip
    own = {item: f.filmed for item, f in figures.items()}
    if not film or len(own) < _FILM:
        return own
    median = statistics.median(own.values())
    return {item: (score + median) / 2 for item, score in own.items()}


def _decisions(known: Known, settings: FilterSettings) -> dict[str, Decision]:
    decisions = {}
    for name in QUALITY_CHECKS:
        action = getattr(settings, name)
        if action == "off" or (name in _TEXT and known.figures.text is None):
            continue
        decisions[name] = _decide(name, known, action, getattr(settings, f"{name}_at"))
    motion = decisions.get("motion")
    if motion and motion.score is not None and motion.score >= settings.motion_at[0]:
        for name in _MOVED:
            if name in decisions and decisions[name].verdict == "drop":
                reason = f"{decisions[name].reason}; it may be motion, so a person decides"
                decisions[name] = replace(decisions[name], verdict="review", reason=reason)
    return decisions


def _decide(name: str, known: Known, action: str, at: tuple[float, float]) -> Decision:
    check = _CHECKS[name]
    score = check.score(known)
    if score is None:
        return Decision(name, "keep", check.unknown)
    doubtful, certain = at
    verdict, threshold = _verdict(name, score, action, at)
    told = check.told.format(score=score, overlays=_told(name, known.overlays))
    if verdict == "keep" and not _beyond(name, score, doubtful):
        reason = told
    else:
        sure = _beyond(name, score, certain)
        limit = f"{'below' if name in WORSE_BELOW else 'from'} {certain if sure else doubtful:g}"
        reason = f"{told}; {'refused' if sure else 'doubtful'} {limit}"
    return Decision(name, verdict, reason, score, threshold, _details(name, known))


def _verdict(
    name: str, score: float, action: str, at: tuple[float, float]
) -> tuple[Verdict, float]:
    """The verdict, and the threshold that is nearest to having made it another."""
    doubtful, certain = at
    if action == "keep" or not _beyond(name, score, doubtful):
        return "keep", doubtful
    if _beyond(name, score, certain):
        return ("drop", certain) if action == "drop" else ("review", doubtful)
    nearer = doubtful if abs(score - doubtful) <= abs(score - certain) else certain
    return "review", nearer if action == "drop" else doubtful


def _beyond(name: str, score: float, threshold: float) -> bool:
    """Whether a score is on the bad side of a threshold, or on it."""
    return score < threshold if name in WORSE_BELOW else score >= threshold


def _prefer_clean(known: Known, decided: Mapping[str, Mapping[str, Decision]]) -> dict[str, Any]:
    """Drops a subtitled picture whose drawing is there without it, whatever the setting."""
    mine = dict(decided[known.picture.id])
    decision = mine.get("subtitle")
    if decision is None or decision.reason == _NO_TEXT:
        return mine
    for other in known.overlays.clean:
        if all(d.verdict != "drop" for d in decided[other].values()):
            reason = f"{decision.reason}; {other} is the same drawing without it"
            details = {**decision.details, "clean": other}
            mine["subtitle"] = replace(decision, verdict="drop", reason=reason, details=details)
            break
    return mine


def _resolution(known: Known) -> float | None:
    share = known.figures.share
    return None if share is None else share * known.figures.short_side


def _upscale(known: Known) -> float | None:
    share = known.figures.share
    return None if not share else 1 / share


def _chroma(known: Known) -> float | None:
    return known.figures.chroma if known.figures.lightest >= _DARK else None


def _live_action(known: Known) -> float | None:
    figures = known.figures
    seen = figures.lightest >= _DARK and figures.content_mask().mean() >= _EMPTY
    return known.filmed if seen or figures.classified is not None else None


_DARK = 0.15  # grey value; below it colours and textures are lost
_EMPTY = 0.05  # part of the picture; less shows no medium
_TEXT = ("subtitle", "credits")
_NO_TEXT = "no subtitle"
_CHECKS: dict[str, _Check] = {
    "size": _Check(lambda k: k.figures.short_side, "the short side has {score:g} pixels"),
    "aspect": _Check(
        lambda k: max(k.figures.width, k.figures.height) / k.figures.short_side,
        "the long side is {score:.3g} times the short one",
    ),
    "resolution": _Check(_resolution, "detail of a short side of {score:.0f} pixels"),
    "upscale": _Check(_upscale, "enlarged {score:.3g} times"),
    "blur": _Check(
        lambda k: k.figures.edge_width, "the sharper edges are {score:.3g} pixels wide at 720"
    ),
    "motion": _Check(
        lambda k: k.figures.edge_ratio,
        "edges are {score:.3g} times as wide in one direction as in another",
    ),
    "dark": _Check(lambda k: k.figures.lightest, "the lightest parts have grey value {score:.3g}"),
    "bright": _Check(lambda k: k.figures.darkest, "the darkest parts have grey value {score:.3g}"),
    "empty": _Check(
        lambda k: float(k.figures.content_mask().mean()), "{score:.0%} has something in it"
    ),
    "monochrome": _Check(_chroma, "colours are {score:.3g} apart", unknown="too dark to tell"),
    "line_art": _Check(lambda k: k.figures.line_art, "{score:.0%} is white paper around strokes"),
    "live_action": _Check(
        _live_action,
        "{score:.0%} of a drawing's signs are missing",
        unknown="too dark or empty to tell",
    ),
    "subtitle": _Check(
        lambda k: k.overlays.subtitle or None, "a subtitle, {overlays}", unknown=_NO_TEXT
    ),
    "logo": _Check(
        lambda k: k.overlays.logo or None,
        "a mark in {score:.0%} of the source's shots, {overlays}",
        unknown="no mark that stays",
    ),
    "credits": _Check(
        lambda k: k.overlays.credits or None,
        "{score:.0%} of all to be seen is text, {overlays}",
        unknown="no text of its own",
    ),
}


def _told(name: str, overlays: Overlays) -> str:
    """What is written, or where a mark is."""
    if name == "logo":
        return ", ".join(overlays.logos)
    return repr(joined(overlays.subtitles if name == "subtitle" else overlays.other))


def _details(name: str, known: Known) -> dict[str, Any]:
    """What else explains a decision."""
    boxes = {"subtitle": known.overlays.subtitles, "credits": known.overlays.other}.get(name)
    if boxes:
        return {"boxes": [asdict(box) for box in boxes]}
    if name == "live_action":
        figures = known.figures
        return {"even_edges": figures.even_edges, "outlines": figures.outlines,
                "even_area": figures.even_area, "own": figures.filmed}  # fmt: skip
    return {}
