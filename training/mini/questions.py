"""What can be asked about a picture of the mini world, and the true answers."""

from __future__ import annotations

from dataclasses import dataclass

from .portraits import ACCESSORIES, HAIR_VARIANTS, TONES, Portrait
from .styles import AXES, Style

# Every question and its number of answers.
QUESTIONS: dict[str, int] = {
    "hair": HAIR_VARIANTS,
    "tone": len(TONES),
    "facing": 2,
    **dict.fromkeys(ACCESSORIES, 2),
    **{axis: len(words) for axis, words in AXES.items()},
}


@dataclass(frozen=True)
class Truth:
    """What a picture should show, as indices into the answers of QUESTIONS."""

    answers: tuple[int, ...]

    @classmethod
    def of(cls, face: Portrait, style: Style) -> Truth:
        """The answers for a face drawn in a style."""
        worn = [int(name in face.accessories) for name in ACCESSORIES]
        facing = int(face.facing == "right")
        style_answers = [getattr(style, axis) for axis in AXES]
        return cls((face.hair_variant, TONES.index(face.tone), facing, *worn, *style_answers))
