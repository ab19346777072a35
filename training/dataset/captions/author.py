"""Makes a picture's two captions of what a writer, a matching network and a tagger say of it.

The writer gives candidates; of each sentence the matching network says how well it fits, and the
best one is kept. Answers to questions are phrases that follow it, if they fit and say something
new. Tags come last. What is doubtful goes to review, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from animesketchnet_core.prompt_keywords import Place
from training.matching import Matcher

from ..config import CaptionSettings
from ..images import Pixels
from ..ledger import Decision, Outcome, Picture, Text
from .agreement import contradictions
from .blip2 import Captioner, asked
from .cleanup import clean_caption
from .clip_tokens import Count
from .colour_words import word_set
from .sketch_caption import fit, remove_keywords, sketch_caption
from .template import Template
from .wd14 import Tagger, Tags

COLOUR, SKETCH = "caption_color", "caption_sketch"
COLOURS = "colours"  # the check that concerns the sketch's caption alone
_NO_ANSWERS = word_set("no none nothing nobody unknown yes unanswerable n/a anime it")


@dataclass
class Draft:
    """A caption in the making.

    Attributes:
        text: so far.
        written: by whom: "template", "blip2" or "sidecar".
        details: for the ledger.
        decisions: what was found.
    """

    text: str
    written: str
    details: dict[str, Any] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)


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

    def draft(self, picture: Picture, pixels: Pixels) -> Draft:
        """Looks at a picture: what is seen in it, whatever the keywords are."""
        draft = self._written(picture, pixels)
        if self.tagger is not None:
            self._compare(draft, tags := self.tagger.tags(pixels))
            draft.text = _with_tags(draft.text, [*tags.characters, *tags.general])
        return draft

    def outcome(self, picture: Picture, draft: Draft, origin: str) -> Outcome:
        """Makes both captions of a draft.

        Args:
            picture: whose they are.
            draft: of `draft`, or an earlier one of the same origin.
            origin: tells what the draft follows from.
        """
        decisions = list(draft.decisions)
        # The keywords have no place here: "lineart" is not true of a colour picture.
        colour = remove_keywords(draft.text, self.settings.keywords)
        colour = fit(colour, self.count) or self.template.write(picture)
        sketch = self._sketch(colour, picture, decisions)
        details = {
            "writer": draft.written, "draft": draft.text, "origin": origin, **draft.details
        }  # fmt: skip
        tokens = {"tokens": self.count(sketch), "tokens_exact": self.exact}
        return Outcome(
            decisions or [Decision("caption", "keep")],
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

    def _sketch(self, colour: str, picture: Picture, decisions: list[Decision]) -> str:
        """The sketch's caption, short enough for CLIP with its keywords."""
        settings = self.settings
        place = cast(Place, settings.place)

        def whole(caption: str) -> str:
            return sketch_caption(caption, settings.keywords, place, settings.keep_tones)

        body = fit(colour, lambda text: self.count(whole(text)))
        if remove_keywords(whole(body), settings.keywords):
            return whole(body)
        reason = "The caption spoke of colours alone; a template's is used."
        decisions.append(Decision(COLOURS, "review", reason))
        return whole(fit(self.template.write(picture), lambda text: self.count(whole(text))))


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
