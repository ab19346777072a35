"""The mini world's data, styles, stages and measurements (training/mini)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from training.mini.autoencoder import CONFIG, decode, encode, line_loss, rate, rescale
from training.mini.measure import agreement, ask_for, table
from training.mini.pictures import draw_pictures, load_pictures, mirror
from training.mini.portraits import TONES, draw_captions, load_portraits
from training.mini.questions import QUESTIONS, Truth
from training.mini.styles import AXES, PAPER_VALUES, Style, render
from training.mini.workspace import Progress, load_states, seeded


def test_data_set_is_whole() -> None:
    portraits, drawings = load_portraits("test")
    assert drawings.shape == (800, 256, 256)
    assert drawings.dtype == torch.uint8
    assert {face.hair_variant for face in portraits} == set(range(48))


def test_caption_names_what_is_drawn() -> None:
    face = load_portraits("test", 1)[0][0]
    caption = face.caption(style_words=["bold lines"])
    assert face.hair in caption
    assert caption.endswith(f"facing {face.facing}, bold lines")
    assert ("glasses" in caption) == ("glasses" in face.accessories)
    assert face.hair not in face.caption(hair=False)
    assert face.mirrored().facing != face.facing
    assert face.mirrored().mirrored() == face


def test_style_changes_what_it_names_and_nothing_else() -> None:
    _, drawings = load_portraits("test", 3)
    plain = render(drawings, [Style()] * 3)
    assert plain.shape == (3, 3, 128, 128)
    fine, bold = (render(drawings, [Style(lines=k)] * 3) for k in (1, 2))
    assert fine.mean() > plain.mean() > bold.mean()  # less ink, more ink
    grey = render(drawings, [Style(paper=1)] * 3)
    assert grey.amax() == pytest.approx(PAPER_VALUES[1].item())
    assert plain.amax() == 1
    assert render(drawings, [Style(ink=1)] * 3).amin() > plain.amin() + 0.2
    pencil = render(drawings, [Style(grain=1)] * 3)
    assert (pencil - plain).amin() > -1e-6  # a pencil leaves ink out, it adds none
    assert (pencil - plain).amax() > 0.3


def test_pictures_of_a_group_share_hair_and_style(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures", limit=5)
    rows, pictures = load_pictures(tmp_path / "pictures")
    assert pictures.shape == (20, 3, 128, 128)
    portraits, drawings = load_portraits("train", 5)
    for number, row in enumerate(rows):
        variant, code = row["group"].split("/")
        face = portraits[number // 4]
        assert int(variant) == face.hair_variant
        style = Style(**dict(zip(AXES, map(int, code), strict=True)))
        assert row["full_text"].endswith(", ".join(style.words()))
        flipped = row["full_text"].split("facing ")[1].split(",")[0] != face.facing
        drawn = render(mirror(drawings[number // 4][None], [flipped]), [style])[0]
        assert (pictures[number] / 255 - drawn).abs().max() < 0.003


def test_captions_leave_hair_out_as_often_as_asked() -> None:
    face, rng = load_portraits("test", 1)[0][0], random.Random(3)
    captions = [
        text
        for _ in range(700)
        for text in draw_captions(face, Style(), rng, hair=0.3, style_axis=0.15)
    ]
    assert sum(face.hair in text for text in captions) / len(captions) == pytest.approx(
        0.3, abs=0.04
    )


def test_prompt_contradicts_the_reference() -> None:
    portraits, _ = load_portraits("test", 200)
    rng = random.Random(5)
    for number, face in enumerate(portraits):
        asked = ask_for(face, number, rng)
        assert ("glasses" in asked.accessories) != ("glasses" in face.accessories)
        assert asked.tone != face.tone
        assert asked.tone in TONES
        assert (asked.facing != face.facing) == (number % 2 == 1)


def test_truth_answers_every_question() -> None:
    face = load_portraits("test", 1)[0][0]
    answers = dict(zip(QUESTIONS, Truth.of(face, Style(lines=2, paper=1)).answers, strict=True))
    assert answers["hair"] == face.hair_variant
    assert answers["facing"] == (face.facing == "right")
    assert (answers["lines"], answers["paper"], answers["ink"]) == (2, 1, 0)


def test_agreement_counts_only_what_counts() -> None:
    answers, truth = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 0])
    assert agreement(answers, truth) == 0.5
    assert agreement(answers, truth, torch.tensor([True, True, True, False])) == pytest.approx(
        2 / 3
    )


def test_rescaled_autoencoder_draws_the_same_from_unit_latents() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(11)
    small = CONFIG | {"block_out_channels": (32, 32, 32, 32)}
    model = AutoencoderKL(**small).eval()
    pictures = torch.randint(256, (7, 3, 128, 128), dtype=torch.uint8)
    before = decode(model, encode(model, pictures))
    latents = encode(rescale(model, pictures), pictures)
    assert latents.mean((0, 2, 3)).abs().max() < 0.05
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert (decode(model, latents) - before).abs().mean() < 0.005  # bfloat16 rounding
    with torch.no_grad():
        assert model.encode(pictures / 127.5 - 1).latent_dist.std.max() < 1e-6


def test_line_loss_sees_blur() -> None:
    target = torch.ones(1, 3, 16, 16)
    target[..., 7] = -1
    blurred = nn.functional.avg_pool2d(target, (1, 3), 1, (0, 1), count_include_pad=False)
    shifted_paper = target - 0.25
    assert line_loss(target, target) == 0
    # The same L1 costs more in the details of a line than in the tone of the paper.
    assert (blurred - target).abs().mean() == pytest.approx(0.25, abs=0.1)
    assert line_loss(blurred, target) > 1.3 * line_loss(shifted_paper, target)


def test_rate_warms_up_and_falls() -> None:
    rates = [rate(step, 100, 10) for step in range(100)]
    assert rates[:2] == [0.1, 0.2]
    assert max(rates) == pytest.approx(1)
    assert rates[-1] < 0.03


def test_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def run(path: Path, steps: int) -> nn.Linear:
        torch.manual_seed(13)
        layer = nn.Linear(3, 5)
        optimizer = torch.optim.AdamW(layer.parameters())
        progress = Progress(path, steps)
        parts = {"layer": layer, "optimizer": optimizer}
        for step in progress.loop(progress.restore(**parts), **parts):
            layer(torch.randn(7, 3, generator=seeded(17, step))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return layer

    whole = run(tmp_path / "whole.pt", 11)
    run(tmp_path / "parts.pt", 4)
    assert torch.equal(run(tmp_path / "parts.pt", 11).weight, whole.weight)


def test_untrained_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m training\.mini judge"):
        load_states(tmp_path / "judge.pt")


def test_table_lists_every_figure() -> None:
    questions = ("hair", "facing", "glasses", "beard", "tone", *AXES)
    row = dict.fromkeys(questions, 0.5)
    figures = {
        "pictures": 23,
        "steps": 50,
        "guidance": 3.0,
        "judge": dict.fromkeys(QUESTIONS, 0.875),
        "base": {"hair": 0.25},
        "adapter": {"0": row, "1": row},
    }
    text = table(figures)
    assert "| hair | 50.0 | 50.0 | 25.0 | 87.5 |" in text
    assert "23 test pictures" in text
    assert json.dumps(figures)
