"""The stage that writes two captions for each picture, of its colours and of its sketch.

    caption_color   for the colour picture: a sentence, answers to questions, tags
    caption_sketch  for the sketch: the same without colours, with the keywords once

Someone or something writes candidates (caption.writer); a matching network keeps the one that fits
the picture best (caption_filter.py); a tagger adds tags and contradicts. What is doubtful goes to
review, as in the paper, whose authors "manually adjust each annotation" (section 3.1.2). All
candidates with their scores are kept in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from animesketchnet_core.prompt_keywords import Place, add_keywords

from . import stages
from .blip2 import Captioner, asked, open_captioner
from .caption_agreement import contradictions
from .caption_cleanup import clean_caption
from .caption_filter import Matcher, open_matcher
from .caption_models import fingerprint
from .clip_tokens import Count, token_counter
from .colour_words import word_set
from .config import CaptionSettings
from .images import Pixels
from .ledger import Decision, Outcome, Picture, Text
from .sketch_caption import fit, remove_colours, remove_keywords, sketch_caption, split_keywords
from .stages import Examine
from .template import Template
from .wd14 import Tagger, Tags, open_tagger
from .work import Work

NAME = "caption"
COLOUR, SKETCH = "caption_color", "caption_sketch"
_NO_ANSWERS = word_set("no none nothing nobody unknown yes unanswerable n/a anime it")


@dataclass(frozen=True)
class Inputs:
    """What captions follow from, besides the pictures.

    Attributes:
        caption: the settings, the networks' folders told by what is in them.
        seed: of chance, where it matters.
    """

    caption: CaptionSettings
    seed: int


@dataclass
class Draft:
    """A caption in the making.

    Attributes:
        text: so far, without tags.
        written: by whom: "template", "blip2" or "sidecar".
        details: for the ledger.
        decisions: what was found.
    """

    text: str
    written: str
    details: dict[str, Any] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)


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
        captioner = None
        if settings.writer == "blip2":
            captioner = open_captioner(settings, device, work.config.run.seed)
        matcher = open_matcher(settings, device) if settings.itm else None
        tagger = None
        if settings.tagger:
            tagger = open_tagger(settings, device, work.config.run.threads)
        count, exact = token_counter()
        author = Author(settings, template, captioner, matcher, tagger, count, exact)
        yield lambda picture: author.outcome(picture, work.read(picture, "colour"))


@dataclass(frozen=True)
class Author:
    """Makes a picture's captions of what writer, matcher and tagger say.

    Attributes:
        settings: of the stage.
        template: writes where nobody else does.
        captioner: BLIP-2, if it is the writer.
        matcher: scores sentences; None for none.
        tagger: finds tags; None for none.
        count: CLIP's tokens of a text.
        exact: whether `count` is.
    """

    settings: CaptionSettings
    template: Template
    captioner: Captioner | None
    matcher: Matcher | None
    tagger: Tagger | None
    count: Count
    exact: bool

    def outcome(self, picture: Picture, pixels: Pixels) -> Outcome:
        """Writes both captions of a picture, with what has to be said of them."""
        draft = self._written(picture, pixels)
        if self.tagger is not None:
            self._compare(draft, tags := self.tagger.tags(pixels))
            draft.text = _with_tags(draft.text, [*tags.characters, *tags.general])
        # The keywords have no place here: "lineart" is not true of a colour picture.
        colour = remove_keywords(draft.text, self.settings.keywords)
        colour = fit(colour, self.count) or self.template.write(picture)
        sketch = self._sketch(colour, picture, draft)
        details = {"writer": draft.written, **draft.details}
        tokens = {"tokens": self.count(sketch), "tokens_exact": self.exact}
        return Outcome(
            draft.decisions or [Decision("caption", "keep")],
            texts={COLOUR: Text(colour, details), SKETCH: Text(sketch, tokens)},
        )

    def _written(self, picture: Picture, pixels: Pixels) -> Draft:
        writer = self.settings.writer
        if self.captioner is not None:
            draft = self._described(self.captioner, picture, pixels)
        elif writer == "sidecar":
            given = clean_caption(str(picture.provenance.get("caption") or ""))
            draft = self._judged(Draft("", writer), [given] if given else [], pixels)
        else:
            draft = self._judged(Draft("", writer), [self.template.write(picture)], pixels)
        if not draft.text:
            draft.text, draft.written = self.template.write(picture), "template"
            missing = "No caption came with the picture" if writer == "sidecar" else "Nothing said"
            draft.decisions.append(
                Decision("writer", "review", f"{missing}: a template's caption is in its place.")
            )
        elif writer == "template" and self.settings.review_templates:
            draft.decisions.append(
                Decision(
                    "writer", "review", "The caption tells only what is known without looking."
                )
            )
        return draft

    def _described(self, captioner: Captioner, picture: Picture, pixels: Pixels) -> Draft:
        """BLIP-2's caption and its answers to the questions."""
        written = captioner.candidates(pixels, picture.id, self.settings.prompt)
        draft = self._judged(Draft("", "blip2"), written, pixels)
        if not draft.text:
            return draft
        draft.details["answers"] = answers = {}
        for question in self.settings.questions:
            prompt, phrase = asked(question)
            said = captioner.candidates(pixels, picture.id, prompt)
            phrases = [phrase.replace("{}", answer) for answer in said if _is_answer(answer)]
            scores = self._scores(phrases, pixels)
            answers[question] = _pairs(phrases, scores)
            best = _best(phrases, scores)
            fits = best is not None and (scores is None or scores[best] >= self.settings.min_itm)
            if best is not None and fits and _is_new(phrases[best], draft.text):
                draft.text = f"{draft.text}, {phrases[best]}"
        return draft

    def _judged(self, draft: Draft, candidates: list[str], pixels: Pixels) -> Draft:
        """Takes the candidate that fits best; without a matcher the first, which is likeliest."""
        scores = self._scores(candidates, pixels)
        draft.details["candidates"] = _pairs(candidates, scores)
        best = _best(candidates, scores)
        if best is None:
            return draft
        draft.text = candidates[best]
        least = self.settings.min_itm
        if scores is not None:
            low = scores[best] < least
            reason = "No candidate fits the picture well." if low else ""
            verdict = "review" if low else "keep"
            draft.decisions.append(Decision("itm", verdict, reason, scores[best], least))
        elif draft.written == "blip2" and self.settings.review_unfiltered:
            draft.decisions.append(
                Decision("itm", "review", "No matching network has seen the caption (caption.itm).")
            )
        return draft

    def _scores(self, sentences: list[str], pixels: Pixels) -> list[float] | None:
        return self.matcher.probabilities(pixels, sentences) if self.matcher is not None else None

    def _compare(self, draft: Draft, tags: Tags) -> None:
        draft.details["tags"] = asdict(tags)
        against = contradictions(draft.text, [*tags.general, *tags.characters])
        verdict = "review" if against else "keep"
        draft.decisions.append(Decision("agreement", verdict, "; ".join(against)))

    def _sketch(self, colour: str, picture: Picture, draft: Draft) -> str:
        """The sketch's caption, short enough for CLIP with its keywords."""
        settings = self.settings
        place = cast(Place, settings.place)

        def whole(caption: str) -> str:
            return sketch_caption(caption, settings.keywords, place, settings.keep_tones)

        body = fit(colour, lambda text: self.count(whole(text)))
        if remove_keywords(whole(body), settings.keywords):
            return whole(body)
        draft.decisions.append(
            Decision(
                "colours", "review", "The caption spoke of colours alone; a template's is used."
            )
        )
        facts = remove_colours(self.template.write(picture), settings.keep_tones)
        return add_keywords(facts, settings.keywords, place)


def run(work: Work) -> Counter[str]:
    """Writes the captions of all pictures that need them."""
    return stages.run(CaptionStage(), work)


def _with_tags(caption: str, tags: Sequence[str]) -> str:
    """Adds the tags that a caption does not have word for word."""
    new = [tag for tag in tags if tag.lower() not in caption.lower()]
    return ", ".join([caption, *new])


def _pairs(texts: Sequence[str], scores: Sequence[float] | None) -> list[list[Any]]:
    """Texts with their scores, for the ledger; None where nobody scored."""
    return [[text, None if scores is None else scores[n]] for n, text in enumerate(texts)]


def _best(texts: Sequence[str], scores: Sequence[float] | None) -> int | None:
    if not texts:
        return None
    return 0 if scores is None else max(range(len(texts)), key=lambda n: (scores[n], -n))


def _is_answer(text: str) -> bool:
    return not set(text.lower().split()) <= _NO_ANSWERS


def _is_new(phrase: str, caption: str) -> bool:
    """Whether a phrase has a word that the caption lacks; short words say little."""
    known = set(caption.lower().replace(",", " ").split())
    return any(len(w) > 3 and w not in known for w in phrase.lower().replace(",", " ").split())
