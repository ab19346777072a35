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
from animesketchnet_core.files import write_atomically
from animesketchnet_core.weight_file import read_adapter
from training.models import (
    Base,
    ImageEncoder,
    fingerprint,
    load_base,
    load_image_encoder,
)
from training.sample import ddim_sample

from .bundle import read_autoencoder
from .judge import Judge, accuracy, load_judge
from .portraits import TONES, Portrait, load_portraits
from .questions import QUESTIONS, Truth
from .styles import AXES, Style, render

ALPHAS = (0.0, 0.5, 1.0)
STEPS, GUIDANCE = 50, 3.0
BATCH = 50  # references that are answered at once
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
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(prompts), 4, 16, 16, generator=generator)
        features = no_features = None
        if references is not None:
            fitted = fit_sketch(references.permute(0, 2, 3, 1), self.encoder.size)
            features, no_features = self.encoder.features(fitted), self.encoder.unconditional()
        latents = ddim_sample(
            self.base, self.adapter, prompts, features, no_features, alpha, noise,
            steps=STEPS, guidance=GUIDANCE,
        )  # fmt: skip
        return self.base.decode_latents(latents).float()


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

    A stopped measurement of the same bundle goes on; so does one with a higher limit.

    Args:
        folder: the bundle; figures.json is written there.
        workspace: holds the judge's checkpoint, and takes the answers so far.
        limit: use only so many references.
    """
    judge = load_judge(workspace)
    portraits, drawings = load_portraits("test", limit)
    cases = [Case.of(face, number) for number, face in enumerate(portraits)]
    answers = answered(folder, workspace / "answers.pt", judge, cases, drawings)
    drawn = {f"{alpha:g}": answers[f"alpha {alpha:g}"] for alpha in ALPHAS}
    figures: dict[str, Any] = {
        "pictures": len(cases),
        "steps": STEPS,
        "guidance": GUIDANCE,
        "judge": accuracy(judge, portraits, drawings, read_autoencoder(folder)),
        "base": figures_of(answers["base"], [case.captioned for case in cases], portraits, False),
        "adapter": {
            alpha: figures_of(given, [case.wanted for case in cases], portraits, True)
            for alpha, given in drawn.items()
        },
    }
    text = json.dumps(figures, indent=2) + "\n"
    write_atomically(folder / "figures.json", lambda part: part.write_text(text))
    print(table(figures))
    return figures


@dataclass(frozen=True)
class Case:
    """One reference and what is asked of it.

    Attributes:
        face: what the reference shows.
        style: how it is drawn.
        asked: what the prompt asks for.
    """

    face: Portrait
    style: Style
    asked: Portrait

    @classmethod
    def of(cls, face: Portrait, number: int) -> Case:
        """The case of a test picture; it follows from its number alone."""
        rng = random.Random(8_000_000 + number)
        return cls(face, Style.draw_uniform(rng), ask_for(face, number, rng))

    @property
    def captioned(self) -> Truth:
        """What the base should draw from the reference's whole caption."""
        return Truth.of(self.face, Style())

    @property
    def wanted(self) -> Truth:
        """What the adapter should draw: hair and style of the reference, all else as asked."""
        return Truth.of(self.asked, self.style)


def answered(
    folder: Path, path: Path, judge: Judge, cases: list[Case], drawings: Tensor
) -> dict[str, Tensor]:
    """The judge's answers to all that is drawn, batch by batch, kept in a file.

    Returns:
        For "base" and each "alpha 0.5", the answers [cases, len(QUESTIONS)].
    """
    drawer = Drawer.load(folder)
    parts = (drawer.base.unet, drawer.base.vae, drawer.base.text_encoder, drawer.encoder.model)
    bundle = [fingerprint(part) for part in (*parts, drawer.adapter, judge) if part is not None]
    kept: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {}
    if kept.get("bundle") != bundle:
        kept = {"bundle": bundle, "answers": {}}
    answers: dict[str, Tensor] = kept["answers"]
    done = len(answers["base"]) if answers else 0
    with tqdm(total=len(cases), initial=min(done, len(cases)), desc="measuring") as bar:
        for start in range(done, len(cases), BATCH):
            part = cases[start : start + BATCH]
            references = render(drawings[start : start + BATCH], [case.style for case in part])
            captions = [case.face.caption() for case in part]
            prompts = [case.asked.caption(hair=False) for case in part]
            drawn = {"base": drawer.draw(captions, None, 0.0, seed=start)}
            for alpha in ALPHAS:
                drawn[f"alpha {alpha:g}"] = drawer.draw(prompts, references, alpha, seed=start + 1)
            for name, pictures in drawn.items():
                new = torch.stack(list(judge.answers(pictures).values()), dim=1)
                answers[name] = torch.cat([answers[name], new]) if name in answers else new
            write_atomically(path, lambda temporary: torch.save(kept, temporary))
            bar.update(len(part))
    return {name: given[: len(cases)] for name, given in answers.items()}


def figures_of(
    answers: Tensor, truths: list[Truth], portraits: list[Portrait], styled: bool
) -> dict[str, float]:
    """Share of right answers to each question; `styled`: drawn after a reference."""
    truth = torch.tensor([truth.answers for truth in truths])
    shown = tone_shown(portraits)
    asked = ("hair", *FOLLOWED, *AXES) if styled else [q for q in QUESTIONS if q not in AXES]
    return {
        question: agreement(
            answers[:, k], truth[:, k], shown if question in ("tone", "grain") else None
        )
        for k, question in enumerate(QUESTIONS)
        if question in asked
    }


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
