"""The stage that writes two captions for each picture, of its colours and of its sketch.

    caption_color   for the colour picture: a sentence, answers to questions, tags
    caption_sketch  for the sketch: the same without colours, with the keywords once

Someone or something writes candidates (caption.writer); a matching network keeps the one that fits
the picture best (captions/itm.py); a tagger adds tags and contradicts. What is doubtful goes to
review, as in the paper, whose authors "manually adjust each annotation" (section 3.1.2). All
candidates with their scores are kept in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.networks import dtype_for, fingerprint, weights_in

from . import stages
from .captions.author import COLOUR, COLOURS, Author, Draft
from .captions.blip2 import open_captioner
from .captions.clip_tokens import token_counter
from .captions.itm import open_matcher
from .captions.sketch_caption import split_keywords
from .captions.template import Template
from .captions.wd14 import open_tagger
from .config import CaptionSettings
from .ledger import Outcome, Picture
from .stages import Examine
from .work import Work, digest

NAME = "caption"


@dataclass(frozen=True)
class Inputs:
    """What captions follow from, besides the pictures.

    Attributes:
        caption: the settings, the networks' folders told by what is in them.
        seed: of chance, where it matters.
    """

    caption: CaptionSettings
    seed: int


class CaptionStage:
    """Writes captions, one picture at a time."""

    name = NAME
    reads: tuple[str, ...] = ("colour",)

    def settings(self, work: Work) -> Inputs:
        """What the captions follow from.

        Raises:
            ConfigError: the keywords cannot all be in a caption once.
        """
        caption = work.config.caption
        split_keywords(caption.keywords)
        values = asdict(caption)
        for key in ("blip2", "itm", "tagger"):
            used = key != "blip2" or caption.writer == "blip2"
            values[key] = fingerprint(values[key]) if used else ""
        seed = work.config.run.seed if caption.writer == "blip2" else 0
        return Inputs(CaptionSettings(**values), seed)

    def inputs(self, work: Work, picture: Picture) -> Sequence[object]:
        """The caption that came with a picture, if captions are made from it."""
        sidecar = work.config.caption.writer == "sidecar"
        return [picture.provenance.get("caption")] if sidecar else []

    @contextmanager
    def open(self, work: Work) -> Iterator[Examine]:
        """Loads the networks that the settings name."""
        settings, device = work.config.caption, work.workers.device
        template = Template(settings, work.ledger.sources())
        _tell_memory(work, settings)
        captioner = None
        if settings.writer == "blip2":
            captioner = open_captioner(settings, device, work.config.run.seed)
        matcher = open_matcher(settings, device) if settings.itm else None
        tagger = None
        if settings.tagger:
            tagger = open_tagger(settings, device, work.config.run.threads)
        count, exact = token_counter()
        author = Author(settings, template, captioner, matcher, tagger, count, exact)
        given = self.settings(work)
        # Other keywords do not change what is seen: hours of looking are not spent again.
        plain = replace(given.caption, keywords="", place="front", keep_tones=False)

        def examine(picture: Picture) -> Outcome:
            pixels = work.read(picture, "colour")
            colour = work.ledger.forms_of(picture.id)["colour"].sha256
            seen = replace(given, caption=plain)
            origin = digest(seen, colour, *self.inputs(work, picture))
            draft = _known(work, picture, origin) or author.draft(picture, pixels)
            return author.outcome(picture, draft, origin)

        yield examine


def _known(work: Work, picture: Picture, origin: str) -> Draft | None:
    """What was seen in a picture before, if it follows from the same."""
    text = work.ledger.texts_of(picture.id).get(COLOUR)
    if text is None or text.details.get("origin") != origin:
        return None
    details = {k: v for k, v in text.details.items() if k not in ("writer", "draft", "origin")}
    found = [
        decision
        for _, stage, decision in work.ledger.decisions(picture.id)
        if stage == NAME and decision.check not in (COLOURS, NAME)
    ]
    return Draft(text.details["draft"], text.details["writer"], details, found)


def _tell_memory(work: Work, settings: CaptionSettings) -> None:
    """Prints what the networks need, before they are loaded."""
    dtype = dtype_for(settings.precision, work.workers.device)
    named = {"caption.blip2": settings.blip2 if settings.writer == "blip2" else ""}
    for setting, folder in {**named, "caption.itm": settings.itm}.items():
        if count := weights_in(Path(folder)) if folder else 0:
            work.workers.print(
                f"{NAME}: {setting} takes {count * dtype.itemsize / 1e9:.1f} GB for {count:,} "
                f"weights in {str(dtype).removeprefix('torch.')} on {work.workers.device}"
            )


def run(work: Work) -> Counter[str]:
    """Writes the captions of all pictures that need them."""
    return stages.run(CaptionStage(), work)
