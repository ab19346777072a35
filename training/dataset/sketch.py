"""Stage `sketch`: draws each colour picture's sketch, pixel for pixel, dark on white paper.

A network's sketch is examined for its known failures; a faulty one is replaced by FDoG's lines, in
part where that is enough, and what was found stays in the ledger. A person is asked where the
replacement is no better, or is not wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from animesketchnet_core.anime2sketch import seen_size
from training.files import sha256_of

from .config import SketchSettings
from .images import Pixels
from .ledger import Decision, Outcome, Picture
from .sketching.faults import Finding, find_emptiness, find_faults, is_inverted, view
from .sketching.repair import repair
from .sketching.sketchers import Sketcher, lines_sketcher, open_sketcher, tiling_of, uses_tiles
from .sketching.tiles import seam_metric
from .stages import Examine
from .stages import run as run_stage
from .work import Work


@dataclass(frozen=True)
class Inputs:
    """What a sketch follows from, beside the colour picture."""

    settings: SketchSettings
    weights: str


class SketchStage:
    """Sketches one picture at a time; the network stays loaded."""

    name = "sketch"
    reads: tuple[str, ...] = ("colour",)

    def settings(self, work: Work) -> Inputs:
        """The settings, the memory aside, which changes nothing, and the hash of the weights."""
        settings = replace(work.config.sketch, memory_gb=SketchSettings.memory_gb)
        path = Path(settings.weights)
        return Inputs(settings, sha256_of(path) if settings.weights and path.is_file() else "")

    @contextmanager
    def open(self, work: Work) -> Iterator[Examine]:
        """Loads the network (see `open_sketcher`)."""
        settings, device = work.config.sketch, work.workers.device
        draw = open_sketcher(settings, device, work.config.run.threads)
        lines = lines_sketcher(settings, device)
        weights = self.settings(work).weights
        yield lambda picture: self._examine(work, picture, draw, lines, weights)

    def _examine(
        self, work: Work, picture: Picture, draw: Sketcher, lines: Sketcher, weights: str
    ) -> Outcome:
        settings = work.config.sketch
        colour = _rgb(work.read(picture, "colour"))
        size = (colour.shape[0], colour.shape[1])
        seen = resized(colour, sketched_size(*size, settings))
        drawing = draw(seen)
        details = _details(settings, drawing, weights)
        if settings.method in _OWN:  # they fail in one way: there is nothing to draw
            decisions = [_decision(find_emptiness(view(seen, drawing)))]
        else:
            drawing, decisions = _examined(seen, drawing, lines, settings)
            details |= {key: value for d in decisions for key, value in d.details.items()}
        if not (settings.keep_large and drawing.shape[0] > size[0]):
            drawing = resized(drawing, size)
        form = work.write(picture, "sketch", drawing, **details)
        return Outcome(decisions, forms={"sketch": form})


_OWN = ("lines", "ink")


def run(work: Work) -> Counter[str]:
    """Sketches all pictures that need it; returns how many got which verdict."""
    return run_stage(SketchStage(), work)


def sketched_size(height: int, width: int, settings: SketchSettings) -> tuple[int, int]:
    """The size in pixels at which a picture is sketched."""
    longer = max(height, width)
    if settings.upscale > longer:
        scale = settings.upscale / longer
        return round(height * scale), round(width * scale)
    return seen_size(height, width, settings.resolution or None)


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resizes a picture, 8-bit throughout: Lanczos for colour, bicubic for drawings.

    Lanczos leaves grey echoes beside black lines.
    """
    if pixels.shape[:2] == size:
        return pixels
    how = Image.Resampling.LANCZOS if pixels.ndim == 3 else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), how))


def _examined(
    colour: Pixels, drawing: Pixels, lines: Sketcher, settings: SketchSettings
) -> tuple[Pixels, list[Decision]]:
    """Mends a network's sketch [h, w] of a picture [h, w, 3], and says what was found."""
    seen = view(colour, drawing)
    polarity = is_inverted(seen)
    if polarity.faulty:
        drawing, seen = 255 - drawing, replace(seen, tones=1 - seen.tones)
    decisions = [_polarity(polarity)]
    findings = find_faults(colour, drawing, seen)
    if not (settings.replace_faulty and any(f.faulty for f in findings)):
        return drawing, decisions + [_decision(finding) for finding in findings]
    drawing, left, share = repair(colour, drawing, lines, findings)
    wrong = [f.reason for f in left if f.faulty]
    return drawing, decisions + [_replaced(f, share, wrong) for f in findings]


def _decision(finding: Finding) -> Decision:
    verdict = "review" if finding.faulty else "keep"
    return Decision(finding.check, verdict, finding.reason, finding.score, finding.threshold)


def _polarity(finding: Finding) -> Decision:
    decision = replace(_decision(finding), verdict="keep")
    if not finding.faulty:
        return decision
    reason = f"{finding.reason}; it was inverted"
    return replace(decision, reason=reason, details={"inverted": True})


def _replaced(finding: Finding, share: float, wrong: list[str]) -> Decision:
    """What became of a fault after {share} of the drawing was replaced."""
    decision = _decision(finding)
    if not finding.faulty:
        return decision
    part = "all of it" if share == 1 else f"{share:.0%} of it"
    reason = f"{finding.reason}; {part} was replaced by lines"
    if wrong:
        reason += f", which are faulty, too: {', '.join(wrong)}"
    verdict = "review" if wrong else "keep"
    return replace(decision, verdict=verdict, reason=reason, details={"replaced": share})


def _details(settings: SketchSettings, drawing: Pixels, weights: str) -> dict[str, Any]:
    details: dict[str, Any] = {"method": settings.method, "sketched_at": list(drawing.shape)}
    if settings.method in _OWN:
        details |= {"line_width": settings.line_width, "detail": settings.detail}
    if weights:
        details["weights_sha256"] = weights
    if uses_tiles(settings):
        tiling = tiling_of(settings)
        details["tile"], details["overlap"] = tiling.tile, tiling.overlap
        details["seams"] = seam_metric(drawing, tiling)
    return details


def _rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
