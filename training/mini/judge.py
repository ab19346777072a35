"""The judge: a classifier that says what is drawn in a picture, and how; trained on drawings."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from tqdm import trange

from animesketchnet_core.files import write_atomically
from training.files import make_folder
from training.models import fingerprint

from .autoencoder import decode, encode, rate
from .pictures import mirror
from .portraits import Portrait
from .questions import QUESTIONS, Truth
from .styles import Style, render
from .workspace import Progress, load_states, seeded

BATCH = 64
POOL = 4000  # pictures that go through the autoencoder once; in each step it costs the most
LEARNING_RATE = 2e-3
WARM_UP = 50


class Judge(nn.Module):
    """A small residual network with one output for each question."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=sum(QUESTIONS.values()))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Logits for each question, from pictures [b, 3, 128, 128] in [0, 1]."""
        return self.network(pictures * 2 - 1).split(list(QUESTIONS.values()), dim=1)

    @torch.inference_mode()
    def answers(self, pictures: Tensor) -> dict[str, Tensor]:
        """The likeliest answer [b] to each question."""
        logits = [self(part) for part in pictures.split(100)]
        best = [torch.cat(answers).argmax(1) for answers in zip(*logits, strict=True)]
        return dict(zip(QUESTIONS, best, strict=True))


def train_judge(
    portraits: list[Portrait],
    drawings: Tensor,
    autoencoder: AutoencoderKL,
    workspace: Path,
    steps: int,
    seed: int = 5,
) -> Judge:
    """Trains, or goes on training, the judge on the training split in every style.

    Half of what it sees went through the autoencoder, as all that it will judge: a judge that knew
    clean drawings only took one tone of hair in twenty on grey paper for a darker one.

    Args:
        portraits: what is drawn.
        drawings: [n, 256, 256] uint8.
        autoencoder: the finished one.
        workspace: folder of the checkpoint.
        steps: number of steps in all.
        seed: of weights, order and styles.

    Returns:
        The judge, ready to answer.
    """
    torch.manual_seed(seed)
    judge = Judge()
    pool, answers = _pool(portraits, drawings, autoencoder, workspace, seed)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.02, fused=True)
    progress = Progress(workspace / "judge.pt", steps)
    parts = {"judge": judge, "optimizer": optimizer}
    bar = progress.loop(progress.restore(**parts), **parts)
    for step in bar:
        generator, rng = seeded(seed, step), random.Random(seed * 1_000_003 + step)
        chosen = torch.randint(len(portraits), (BATCH // 2,), generator=generator).tolist()
        fresh, truth = _drawn(chosen, portraits, drawings, rng)
        kept = torch.randint(len(pool), (BATCH - len(fresh),), generator=generator)
        truth = torch.cat([truth, answers[kept]])
        pictures = _worn(torch.cat([fresh, pool[kept].float() / 255]), generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(pictures)
        losses = [F.cross_entropy(part.float(), truth[:, k]) for k, part in enumerate(logits)]
        torch.stack(losses).sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate(step, steps, WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            bar.show(
                hair=losses[0].item(), tone=losses[1].item(), all=torch.stack(losses).sum().item()
            )
    return load_judge(workspace)


def _drawn(
    chosen: list[int], portraits: list[Portrait], drawings: Tensor, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Portraits in any style, half of them mirrored, and the true answers [b, questions]."""
    styles = [Style.draw_uniform(rng) for _ in chosen]
    flips = [rng.random() < 0.5 for _ in chosen]
    faces = [
        portraits[index].mirrored() if flip else portraits[index]
        for index, flip in zip(chosen, flips, strict=True)
    ]
    truth = torch.tensor([Truth.of(f, s).answers for f, s in zip(faces, styles, strict=True)])
    return render(mirror(drawings[chosen], flips), styles), truth


def _pool(
    portraits: list[Portrait],
    drawings: Tensor,
    autoencoder: AutoencoderKL,
    workspace: Path,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Pictures out of the autoencoder [n, 3, 128, 128] uint8 and their answers, made once."""
    path = workspace / "judge_pool.pt"
    count = min(POOL, 25 * len(portraits))
    parts = [fingerprint(autoencoder), seed, len(portraits), count]
    if path.is_file() and (kept := torch.load(path, weights_only=True))["of"] == parts:
        return kept["pictures"], kept["answers"]
    rng = random.Random(seed)
    pictures, answers = [], []
    for start in trange(0, count, 50, desc="autoencoded"):
        chosen = [(start + k) % len(portraits) for k in range(50)]
        drawn, truth = _drawn(chosen, portraits, drawings, rng)
        pictures.append((autoencoded(autoencoder, drawn) * 255).round().byte())
        answers.append(truth)
    kept = {"of": parts, "pictures": torch.cat(pictures), "answers": torch.cat(answers)}
    make_folder(path.parent)
    write_atomically(path, lambda temporary: torch.save(kept, temporary))
    return kept["pictures"], kept["answers"]


def load_judge(workspace: Path) -> Judge:
    """The judge, as far as it is trained."""
    judge = Judge()
    load_states(workspace / "judge.pt", judge=judge)
    return judge.eval()


def autoencoded(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures [b, 3, 128, 128] in [0, 1] as they come back from the autoencoder."""
    return decode(autoencoder, encode(autoencoder, pictures * 255))


def _worn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as a model may draw them: shifted a little, blurred a little, with faint noise."""
    shift = torch.randint(-5, 6, (2,), generator=generator).tolist()
    pictures = torch.roll(pictures, shift, dims=(2, 3))
    softness = torch.rand(len(pictures), 1, 1, 1, generator=generator) * 0.7
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = torch.randn(pictures.shape, generator=generator) * 0.03
    return (pictures + softness * (soft - pictures) + noise).clamp(0, 1)


def accuracy(
    judge: Judge,
    portraits: list[Portrait],
    drawings: Tensor,
    autoencoder: AutoencoderKL,
    seed: int = 6,
) -> dict[str, float]:
    """The judge's own accuracy on test pictures out of the autoencoder, for each question."""
    rng = random.Random(seed)
    styles = [Style.draw_uniform(rng) for _ in portraits]
    truth = torch.tensor([Truth.of(f, s).answers for f, s in zip(portraits, styles, strict=True)])
    answers = judge.answers(autoencoded(autoencoder, render(drawings, styles)))
    return {
        question: (answers[question] == truth[:, k]).float().mean().item()
        for k, question in enumerate(QUESTIONS)
    }
