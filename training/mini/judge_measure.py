"""What the mini world's judge says of a picture: does it show what prompt and reference ask for?"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.evaluation.cases import Pair
from training.evaluation.measures.measure import Column
from training.loading import ModelError
from training.models import fingerprint

from .judge import Judge
from .questions import QUESTIONS

PROMPTED = ("facing", "glasses", "beard", "tone")  # named by the prompt, never by the reference
REFERRED = ("hair", "lines", "grain", "ink", "paper")  # of the reference, never in the prompt
MEANINGS = {
    "hair": "hair style of the reference, 1 of 48",
    "lines": "line weight of the reference, 1 of 3",
    "grain": "hatching as in the reference",
    "ink": "ink of the reference, 1 of 2",
    "paper": "paper of the reference, 1 of 2",
    "facing": "direction that the prompt asks for",
    "glasses": "glasses where the prompt asks for them, and only there",
    "beard": "a beard where the prompt asks for one, and only there",
    "tone": "tone of hair that the prompt asks for, 1 of 3",
}


class JudgeMeasure:
    """Answers of the judge against what was asked; needs `Pair.wanted`."""

    columns = (
        Column(
            "match",
            "Match",
            1,
            "Probability, to the judge, that direction, glasses, beard and tone of hair are all as "
            "the prompt asks: what BLIP's matching head says of real pictures.",
            percent=True,
            digits=1,
        ),
        *(
            Column(question, question.capitalize(), 1, f"Share with the {meaning}.", True, 1)
            for question, meaning in MEANINGS.items()
        ),
    )

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.recipe = f"judge 1, {fingerprint(judge)}"

    @torch.inference_mode()
    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Measures pictures [n, h, w, 3] that were drawn for a pair."""
        logits = self._judge(pictures.movedim(-1, 1))
        parts = {
            question: part.float().softmax(1)
            for question, part in zip(QUESTIONS, logits, strict=True)
        }
        nothing = torch.full((len(pictures),), float("nan"))
        figures = {
            question: (parts[question].argmax(1) == pair.wanted[question]).float()
            if question in pair.wanted
            else nothing
            for question in (*REFERRED, *PROMPTED)
        }
        asked = [parts[q][:, pair.wanted[q]] for q in PROMPTED if q in pair.wanted]
        figures["match"] = torch.stack(asked).prod(0) if asked else nothing
        return figures


def open_judge(path: Path) -> JudgeMeasure:
    """Reads the judge that `python -m training.mini judge` wrote.

    Raises:
        ModelError: the file is missing.
    """
    if not path.is_file():
        raise ModelError(
            f"There is no {path}, which measures.judge needs. `python -m training.mini judge` "
            "trains it."
        )
    judge = Judge()
    judge.load_state_dict({key: value.float() if value.is_floating_point() else value
                           for key, value in load_file(path).items()})  # fmt: skip
    return JudgeMeasure(judge.eval())
