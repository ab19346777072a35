"""The node Score Picture: do pictures follow prompt and reference, are they sketches at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.scores import clip_image_similarity, clip_score
from ..animesketchnet_core.sketch_likeness import SketchLikeness, sketch_likeness
from .clip_embeddings import deal_out, embed_pictures, embed_prompt
from .compare import laid_out
from .pictures import preview, stoppable_bar
from .schema import schema


class ScorePicture(io.ComfyNode):
    """Pictures in, the same sorted best first out, and what was measured."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetScore",
            display_name="Score Picture",
            category="AnimeSketchNet",
            description="Measures whether pictures follow the prompt and the reference, and "
            "whether they are sketches, and sorts them, the best one first.",
            search_aliases=["clip score", "rank", "best of batch", "evaluate", "is it a sketch"],
            is_output_node=True,  # it shows what it found
            inputs=[
                io.Image.Input("images", tooltip="What was drawn, one or many."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder that judges; for prompt and sketch.",
                ),
                io.Image.Input(
                    "sketch",
                    optional=True,
                    tooltip="The reference. Several go one to a picture, and start over when "
                    "there are more pictures.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that judges the prompt: the other half of "
                    "clip_vision's CLIP, with its text projection, which checkpoints and "
                    "clip_l.safetensors lack (see the help page).",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What was to be drawn; empty: prompts are not scored. CLIP reads 75 "
                    "tokens, some 50 words; the node tells if there are more.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sorted",
                    display_name="images",
                    tooltip="The pictures, the best one first: by the prompt's score, without a "
                    "prompt by likeness to the reference, with neither by how much it is a sketch.",
                ),
                io.String.Output(
                    "scores", display_name="scores", tooltip="All figures, a Markdown table."
                ),
                io.Float.Output("best", display_name="best", tooltip="The first picture's score."),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The sorted pictures, labelled, below their references.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        clip_vision: Any = None,
        sketch: Tensor | None = None,
        clip: Any = None,
        prompt: str | None = None,
    ) -> io.NodeOutput:
        """Scores all pictures, sorts them, and tells about it."""
        prompt = (prompt or "").strip()
        check_inputs(clip_vision, sketch, clip, prompt)
        sketch = None if sketch is None else deal_out(sketch, len(images))
        scores = score(images, clip_vision, sketch, clip, prompt)
        order = scores.ranking.argsort(descending=True, stable=True)
        images, sketch = images[order], None if sketch is None else sketch[order]
        sheet = laid_out(scores.titles(order), scores.line(prompt), sketch, images)
        best = float(scores.ranking[order[0]])
        return io.NodeOutput(images, scores.table(order), best, sheet, ui=preview(sheet))


@dataclass(frozen=True)
class Scores:
    """What was measured of n pictures.

    Attributes:
        likeness: ink, paper, and whether they are sketches.
        prompt: CLIP score of the prompt, 100 x cosine, [n]; None: there is no prompt.
        reference: CLIP's similarity to the reference, [n]; None: there is none.
        unread: tokens of the prompt that CLIP did not read.
    """

    likeness: SketchLikeness
    prompt: Tensor | None = None
    reference: Tensor | None = None
    unread: int = 0

    @property
    def ranking(self) -> Tensor:
        """What pictures are sorted by, [n]."""
        given = (x for x in (self.prompt, self.reference) if x is not None)
        return next(given, self.likeness.likeness)

    @property
    def notes(self) -> list[str]:
        """What has to be known to read the figures."""
        notes = []
        if self.unread:
            notes.append(
                f"The prompt is too long for CLIP, which left out its last {self.unread} tokens."
            )
        if self.prompt is not None and self.prompt.max() < _UNRELATED:
            notes.append(
                "The scores of the prompt are those of chance: are clip and clip_vision halves of "
                "the same CLIP?"
            )
        return notes

    def columns(self) -> dict[str, list[str]]:
        """The figures of each picture by their names."""
        named = {"prompt": self.prompt, "reference": self.reference}
        digits = {"prompt": 2, "reference": 3}
        shown = {
            name: [f"{x:.{digits[name]}f}" for x in values.tolist()]
            for name, values in named.items()
            if values is not None
        }
        shown["sketch"] = [f"{x:.2f}" for x in self.likeness.likeness.tolist()]
        shown["ink"] = [f"{x:.1%}" for x in self.likeness.ink_ratio.tolist()]
        return shown

    def titles(self, order: Tensor) -> list[str]:
        """A label for each picture: what they are sorted by, as there is little room."""
        name, values = next(iter(self.columns().items()))
        return [f"{name} {values[k]}" for k in order.tolist()]

    def line(self, prompt: str) -> str:
        """The line above the pictures."""
        return " ".join([*self.notes, *prompt.split()])

    def table(self, order: Tensor) -> str:
        """All figures as a Markdown table, the notes below it."""
        columns = self.columns()
        rows = [["picture", *columns], ["---:"] * (1 + len(columns))]
        rows += [[str(k + 1), *(values[k] for values in columns.values())] for k in order.tolist()]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


_UNRELATED = 5  # vectors of 768 numbers that have nothing to do with each other: 0, +- 3.6


def score(
    images: Tensor, clip_vision: Any, sketch: Tensor | None, clip: Any, prompt: str
) -> Scores:
    """Measures what can be measured with what is there (see `Scores`).

    Args:
        images: [n, h, w, c].
        clip_vision: needed for sketch and prompt.
        sketch: a reference for each picture [n, h, w, c].
        clip: needed for the prompt.
        prompt: "" for none.
    """
    show = stoppable_bar(len(images))
    likeness = sketch_likeness(images.cpu(), lambda done, _: show(done))
    if clip_vision is None:
        return Scores(likeness)
    embedded = embed_pictures(clip_vision, images)
    by_prompt, by_reference, unread = None, None, 0
    if prompt:
        text, unread = embed_prompt(clip, prompt, embedded.shape[-1])
        by_prompt = clip_score(embedded, text)
    if sketch is not None:
        by_reference = clip_image_similarity(embedded, embed_pictures(clip_vision, sketch))
    return Scores(likeness, by_prompt, by_reference, unread)


def check_inputs(clip_vision: Any, sketch: Tensor | None, clip: Any, prompt: str) -> None:
    """Refuses inputs that nothing could come of without another one."""
    if clip_vision is None and (prompt or sketch is not None):
        what = "prompt" if prompt else "sketch"
        raise ValueError(
            f"Score Picture: the {what} is compared through clip_vision, which is not connected. "
            f"Connect Load CLIP Vision, or leave the {what} away."
        )
    if prompt and clip is None:
        raise ValueError(
            "Score Picture: the prompt is read by clip, which is not connected. Connect Load CLIP "
            "with the text half of the same CLIP, or leave the prompt empty."
        )
