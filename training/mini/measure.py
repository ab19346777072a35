"""Measures the mini world: hair and style come from the reference, all else from the prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.clip_input import fit_sketch
from animesketchnet_core.weight_file import read_adapter
from training.models import Base, ImageEncoder, load_base, load_image_encoder
from training.sample import ddim_sample

from .judge import Judge, accuracy, load_judge
from .portraits import TONES, Portrait, load_portraits
from .questions import QUESTIONS, Truth
from .styles import AXES, Style, render

ALPHAS = (0.0, 0.5, 1.0)
STEPS, GUIDANCE = 50, 3.0
BATCH = 50  # pictures drawn at once
ACCESSORY_ODDS = {"earrings": 0.2, "freckles": 0.15, "flowers": 0.1}  # as in the data set
FOLLOWED = ("facing", "glasses", "beard", "tone")


@dataclass
class Drawer:
    """The mini world's models, ready to draw."""

    base: Base
    encoder: ImageEncoder
    adapter: AnimeSketchAdapter | None

    @classmethod
    def load(cls, folder: Path, adapter: bool = True) -> Drawer:
        """Loads a bundle."""
        base = load_base(folder).to("cpu", torch.bfloat16)
        weights = None
        if adapter:
            state_dict, _ = read_adapter(folder / "adapter.safetensors")
            weights = AnimeSketchAdapter.from_state_dict(state_dict, dtype=torch.float32).eval()
        return cls(base, load_image_encoder("", folder), weights)

    @torch.inference_mode()
    def draw(
        self, prompts: Sequence[str], references: Tensor | None, alpha: float, seed: int
    ) -> Tensor:
        """Draws one picture for each prompt.

        Args:
            prompts: b prompts.
            references: [b, 3, h, w] in [0, 1]; not needed at alpha 0.
            alpha: strength of the sketch.
            seed: of the noise.

        Returns:
            [b, 3, 128, 128] in [0, 1].
        """
        noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        no_features = None if references is None else self.encoder.unconditional()
        pictures = []
        with tqdm(total=len(prompts), desc=f"drawing at alpha {alpha:g}", leave=False) as bar:
            for start in range(0, len(prompts), BATCH):
                part = slice(start, start + BATCH)
                features = None
                if references is not None:
                    fitted = fit_sketch(references[part].permute(0, 2, 3, 1), self.encoder.size)
                    features = self.encoder.features(fitted)
                latents = ddim_sample(
                    self.base, self.adapter, prompts[part], features, no_features, alpha,
                    noise[part], steps=STEPS, guidance=GUIDANCE,
                )  # fmt: skip
                pictures.append(self.base.decode_latents(latents).float())
                bar.update(len(latents))
        return torch.cat(pictures)


def ask_for(reference: Portrait, number: int, rng: random.Random) -> Portrait:
    """What a prompt asks for, so that nothing but hair can come from the reference by chance.

    Every second one looks the other way; glasses are asked exactly where the reference has none;
    the hair's tone is another one; a beard is asked in half of the prompts.
    """
    worn = {name for name, odds in ACCESSORY_ODDS.items() if rng.random() < odds}
    worn |= {"glasses"} - reference.accessories
    worn |= {"beard"} if rng.random() < 0.5 else set()
    other = "right" if reference.facing == "left" else "left"
    return replace(
        reference,
        mood=rng.choice(("happy", "sad")),
        facing=other if number % 2 else reference.facing,
        tone=rng.choice([tone for tone in TONES if tone != reference.tone]),
        accessories=frozenset(worn),
    )


def measure(folder: Path, workspace: Path, limit: int | None = None) -> dict[str, Any]:
    """Measures the bundle on the test pictures, prints the table and writes figures.json.

    Args:
        folder: the bundle; figures.json is written there.
        workspace: holds the judge's checkpoint.
        limit: use only so many references.
    """
    judge = load_judge(workspace)
    portraits, drawings = load_portraits("test", limit)
    drawer = Drawer.load(folder)
    figures: dict[str, Any] = {
        "pictures": len(portraits),
        "steps": STEPS,
        "guidance": GUIDANCE,
        "judge": accuracy(judge, portraits, drawings),
        "base": measure_base(drawer, judge, portraits),
        "adapter": measure_adapter(drawer, judge, portraits, drawings),
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    return figures


def measure_base(drawer: Drawer, judge: Judge, portraits: list[Portrait]) -> dict[str, float]:
    """How often the base alone draws what its caption says."""
    pictures = drawer.draw([face.caption() for face in portraits], None, 0.0, seed=7)
    answers = judge.answers(pictures)
    truth = torch.tensor([Truth.of(face, Style()).answers for face in portraits])
    shown = tone_shown(portraits)
    return {
        question: agreement(answers[question], truth[:, k], shown if question == "tone" else None)
        for k, question in enumerate(QUESTIONS)
        if question not in AXES
    }


def measure_adapter(
    drawer: Drawer, judge: Judge, portraits: list[Portrait], drawings: Tensor
) -> dict[str, dict[str, float]]:
    """For each alpha: what came from the reference, and what from the prompt."""
    rng = random.Random(8)
    styles = [Style.draw_uniform(rng) for _ in portraits]
    asked = [ask_for(face, number, rng) for number, face in enumerate(portraits)]
    prompts = [face.caption(hair=False) for face in asked]
    references = render(drawings, styles)
    truth = torch.tensor([Truth.of(face, s).answers for face, s in zip(asked, styles, strict=True)])
    shown = tone_shown(portraits)
    figures = {}
    for alpha in ALPHAS:
        answers = judge.answers(drawer.draw(prompts, references, alpha, seed=9))
        figures[f"{alpha:g}"] = {
            question: agreement(
                answers[question], truth[:, k], shown if question in ("tone", "grain") else None
            )
            for k, question in enumerate(QUESTIONS)
            if question in ("hair", *FOLLOWED, *AXES)
        }
    return figures


def tone_shown(portraits: list[Portrait]) -> Tensor:
    """Which faces have hair enough to show its tone (and hatching): all but the bald ones, [n]."""
    return torch.tensor([face.hair != "bald" for face in portraits])


def agreement(answers: Tensor, truth: Tensor, counted: Tensor | None = None) -> float:
    """Share of answers that are true, among those that count."""
    right = (answers == truth).float()
    return (right if counted is None else right[counted]).mean().item()


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    per_alpha = figures["adapter"]
    lines = [
        f"{figures['pictures']} test pictures, DDIM {figures['steps']}, "
        f"guidance {figures['guidance']:g}",
        "",
        "| | " + " | ".join(f"alpha {alpha}" for alpha in per_alpha) + " | base alone | judge |",
        "|---" * (3 + len(per_alpha)) + "|",
    ]
    for question in ("hair", *FOLLOWED, *AXES):
        cells = [f"{100 * row[question]:.1f}" for row in per_alpha.values()]
        base = figures["base"].get(question)
        cells += [
            "" if base is None else f"{100 * base:.1f}",
            f"{100 * figures['judge'][question]:.1f}",
        ]
        lines.append(f"| {question} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
