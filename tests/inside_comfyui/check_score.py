"""Score Picture: against transformers' CLIP on the same tiny weights, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.cli_args
import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
VISION = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 42,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
PROMPT = "anime sketch of a sad face, grey hair, facing left"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One tiny CLIP, as transformers', and as ComfyUI's CLIP and CLIP_VISION, in float32."""
    args, before = comfy.cli_args.args, comfy.cli_args.args.fp32_text_enc
    args.fp32_text_enc = True  # ComfyUI would halve its weights
    torch.manual_seed(5)
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32)
    model = CLIPModel(config).eval()
    for parameter in model.parameters():  # unlike each other, so that cosines are not all alike
        parameter.data += 0.05 * torch.randn_like(parameter)
    # All texts and pictures have a direction in common, so that no score is cut off at 0.
    for norm, projection in (
        (model.text_model.final_layer_norm, model.text_projection),
        (model.vision_model.post_layernorm, model.visual_projection),
    ):
        norm.bias.data += 1
        projection.weight.data[0] += 0.4
    folder = tmp_path_factory.mktemp("clip")
    vision = {**VISION, "projection_dim": 32, "num_channels": 3, "model_type": "clip_vision_model"}
    (folder / "vision.json").write_text(json.dumps(vision))
    clip_vision = comfy.clip_vision.ClipVisionModel(str(folder / "vision.json"))
    clip_vision.load_sd(model.state_dict())
    clip = text_half(dict(model.state_dict()))
    yield SimpleNamespace(model=model, clip=clip, clip_vision=clip_vision)
    args.fp32_text_enc = before


def text_half(weights: dict[str, torch.Tensor]) -> Any:
    """ComfyUI's CLIP, loaded as Load CLIP does: what is not in the file stays as it is."""

    class TinyText(comfy.sd1_clip.SDClipModel):
        def __init__(self, **options: Any) -> None:
            options.update(textmodel_json_config=TEXT, return_projected_pooled=False)
            super().__init__(**options)

    class TinyClip(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, **options: Any) -> None:
            super().__init__(clip_model=TinyText, **options)

    target = SimpleNamespace(params={}, clip=TinyClip, tokenizer=comfy.sd1_clip.SD1Tokenizer)
    clip = comfy.sd.CLIP(target)
    clip.load_sd(weights)
    return clip


@pytest.fixture
def score(pack: SimpleNamespace) -> Any:
    return lambda *args, **inputs: pack.nodes["AnimeSketchNetScore"].execute(*args, **inputs).args


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(5, 61, 43, 3, generator=torch.Generator().manual_seed(8))


def rows(table: str) -> list[list[str]]:
    """The figures of a Markdown table, heading first."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for k, line in enumerate(lines)
        if k != 1
    ]


def by_transformers(pack: Any, tiny: Any, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
    """100 x cosine by transformers' CLIPModel, [n]."""
    tokenizer = CLIPTokenizer.from_pretrained(
        Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")
    )
    ids = tokenizer([prompt], truncation=True, max_length=77, return_tensors="pt").input_ids
    clip_input = pack.module("animesketchnet_core.clip_input")
    pixels = clip_input.pixel_values(clip_input.fit_sketch(pictures, 42))
    out = tiny.model(input_ids=ids, pixel_values=pixels)
    return 100 * out.logits_per_image[:, 0] / tiny.model.logit_scale.exp()


def test_the_prompts_score_is_transformers_cosine(pack, tiny, score, pictures):
    expected = by_transformers(pack, tiny, pictures, PROMPT)
    assert expected.std() > 0.1
    assert expected.min() > 0
    order = expected.argsort(descending=True)
    images, table, best, sheet = score(pictures, tiny.clip_vision, clip=tiny.clip, prompt=PROMPT)
    assert torch.equal(images, pictures[order])
    assert best == pytest.approx(expected.max().item(), abs=1e-3)
    heading, *found = rows(table)
    assert heading == ["picture", "prompt", "sketch", "ink"]
    assert [int(row[0]) - 1 for row in found] == order.tolist()
    shown = [float(row[1]) for row in found]
    assert shown == pytest.approx(expected[order].tolist(), abs=0.006)
    assert sheet.shape[2] == 5 * 61


def test_weights_in_the_prompt_do_not_count_and_clip_skip_does_not(pack, tiny, score, pictures):
    expected = by_transformers(pack, tiny, pictures, "a sad face, grey hair").max().item()
    weighted = score(
        pictures, tiny.clip_vision, clip=tiny.clip, prompt=" a (sad:1.7) face,\n(grey) hair "
    )
    skipping = tiny.clip.clone()
    skipping.clip_layer(-2)
    skipped = score(pictures, tiny.clip_vision, clip=skipping, prompt="a sad face, grey hair")
    assert weighted[2] == pytest.approx(expected, abs=1e-3)
    assert skipped[2] == pytest.approx(expected, abs=1e-3)


def test_a_prompt_of_more_than_75_tokens_is_cut_and_that_is_told(pack, tiny, score, pictures):
    fits, long = "hat " * 75, "hat " * 75 + "cat " * 9
    one, two = (
        score(pictures, tiny.clip_vision, clip=tiny.clip, prompt=prompt) for prompt in (fits, long)
    )
    assert (
        one[2]
        == two[2]
        == pytest.approx(by_transformers(pack, tiny, pictures, long).max().item(), abs=1e-3)
    )
    assert "too long" not in one[1]
    assert "The prompt is too long for CLIP, which left out its last 9 tokens." in two[1]


def test_references_are_dealt_out_and_sort_without_a_prompt(pack, tiny, score, pictures):
    references = pictures[[0, 3]]
    images, table, best, sheet = score(pictures, tiny.clip_vision, references)
    heading, *found = rows(table)
    assert heading == ["picture", "reference", "sketch", "ink"]
    assert {found[0][0], found[1][0]} == {"1", "4"}  # each is its own reference
    assert float(found[2][1]) < 0.999
    assert best == pytest.approx(1, abs=1e-5)
    assert [float(row[1]) for row in found] == sorted((float(r[1]) for r in found), reverse=True)
    assert torch.equal(images, pictures[[int(row[0]) - 1 for row in found]])
    mean = pack.nodes["AnimeSketchNetCompare"].execute(tiny.clip_vision, references, pictures)
    assert sum(float(row[1]) for row in found) / 5 == pytest.approx(mean.args[1], abs=1e-3)
    assert sheet.shape[1] > 2 * 61  # the references above the pictures


def test_without_models_a_sketch_comes_before_noise(score, pictures):
    drawn = torch.ones(1, 61, 43, 3)
    drawn[:, 30] = 0
    images, table, best, _ = score(torch.cat([pictures, drawn]))
    heading, first, *others = rows(table)
    assert heading == ["picture", "sketch", "ink"]
    assert first == ["6", "1.00", "1.6%"]
    assert best == 1
    assert torch.equal(images[:1], drawn)
    assert [row[0] for row in others] == ["1", "2", "3", "4", "5"]  # equals keep their order


@pytest.mark.parametrize("left", ["identity", "nothing", "part", "numbers", "infinite"])
def test_a_projection_that_no_file_has_filled_is_told(tiny, score, pictures, left):
    weights = dict(tiny.model.state_dict())
    weights["text_projection.weight"] = {
        "identity": torch.eye(32),
        "nothing": torch.zeros(32, 32),
        "part": torch.cat([torch.rand(9, 32), torch.zeros(23, 32)]),
        "numbers": torch.rand(32, 32) * 1e3,
        "infinite": torch.rand(32, 32) / torch.ones(32, 32).triu(-20),
    }[left]
    with pytest.raises(ValueError, match=r"text projection is missing.*clip-vit-large-patch14"):
        score(pictures, tiny.clip_vision, clip=text_half(weights), prompt="a")


def test_the_mini_models_are_a_whole_clip(mini, score, pictures):
    images, table, _, _ = score(pictures, mini.clip_vision, clip=mini.clip, prompt=PROMPT)
    assert rows(table)[0][:2] == ["picture", "prompt"]
    assert len(images) == len(pictures)


def test_halves_of_different_clips_are_told(mini, tiny, score, pictures):
    with pytest.raises(ValueError, match=r"clip are 32 wide, those of clip_vision 128"):
        score(pictures, mini.clip_vision, clip=tiny.clip, prompt="a")


def test_scores_of_chance_are_told(tiny, score, pictures):
    weights = dict(tiny.model.state_dict())
    weights["text_projection.weight"] = -weights["text_projection.weight"]
    _, table, best, _ = score(pictures, tiny.clip_vision, clip=text_half(weights), prompt=PROMPT)
    assert best == 0
    assert "halves of the same CLIP?" in table


def test_what_lacks_its_encoder_is_told(tiny, score, pictures):
    with pytest.raises(ValueError, match="the prompt is compared through clip_vision"):
        score(pictures, clip=tiny.clip, prompt="a")
    with pytest.raises(ValueError, match="the sketch is compared through clip_vision"):
        score(pictures, sketch=pictures)
    with pytest.raises(ValueError, match=r"read by clip.*Connect Load CLIP"):
        score(pictures, tiny.clip_vision, prompt="a")


def test_a_text_encoder_that_is_no_clip_is_told(pack, tiny):
    embed = pack.module("nodes.clip_embeddings").embed_prompt
    t5 = SimpleNamespace(
        tokenize=lambda text: {"t5xxl": [[(3, 1.0)]]},
        encode_from_tokens=lambda tokens, return_pooled: (None, None),
        cond_stage_model=torch.nn.Module(),
    )
    with pytest.raises(ValueError, match="not the text half of one CLIP"):
        embed(t5, "a", 32)
