"""CLIP's scores, by hand from a tiny CLIP's raw outputs, and alike through both libraries."""

import json
import math
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from training.evaluation.cases import Pair
from training.evaluation.measures.clip import PREFIX, open_clip_measure
from training.loading import ModelError
from training.models import clip_tokenizer

CPU = torch.device("cpu")
SIDE, WIDTH, LAYERS = 32, 16, 2
SETTING = "measures.clip"
PROMPT = "anime sketch of a girl, facing left"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_clip():
    part = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "hidden_act": "quick_gelu",
    }  # fmt: skip
    config = CLIPConfig(
        text_config={**part, "projection_dim": 8},
        vision_config={**part, "image_size": SIDE, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    model = CLIPModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_((1 + 0.1 * noise if "norm" in name else 0.5 * noise).half())
    return model


def to_open_clip(weights):
    """Renames all of transformers' CLIP to open_clip's names."""
    found = {
        "logit_scale": weights["logit_scale"],
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T,
        "visual.proj": weights["visual_projection.weight"].T,
        "visual.class_embedding": weights["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
    }
    names = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    norms = {
        "ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        found |= {f"{a}.{kind}": weights[f"{b}.{kind}"] for a, b in norms.items()}
        for ours, theirs in (("", "text_model"), ("visual.", "vision_model")):
            for i in range(LAYERS):
                a, b = f"{ours}transformer.resblocks.{i}", f"{theirs}.encoder.layers.{i}"
                found |= {f"{a}.{x}.{kind}": weights[f"{b}.{y}.{kind}"] for x, y in names.items()}
                parts = [weights[f"{b}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                found[f"{a}.attn.in_proj_{kind}"] = torch.cat(parts)
    return {key: value.contiguous() for key, value in found.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The model, its folder, and its open_clip file under a name that open_clip knows."""
    folder = tmp_path_factory.mktemp("clip")
    model = tiny_clip()
    model.save_pretrained(folder / "clip")
    clip_tokenizer().save_pretrained(folder / "clip")
    save_file(to_open_clip(model.state_dict()), folder / "tiny.safetensors")
    for name, quick in (("ViT-tiny-quickgelu", True), ("ViT-tiny", False)):
        config = {
            "embed_dim": 8, "quick_gelu": quick,
            "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "patch_size": 8,
                           "head_width": 8},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2,
                         "layers": LAYERS},
        }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    return model, folder


@pytest.fixture(scope="module")
def measure(tiny):
    return open_clip_measure(str(tiny[1] / "clip"), SETTING, CPU)


def pictures(count=1, height=37, width=53, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def pair(folder=None, prompt=PROMPT):
    if folder is None:
        return Pair("p", prompt)
    Image.fromarray(eight_bit(pictures(1, 41, 41, seed=9)[0])).save(folder / "reference.png")
    return Pair("p", prompt, folder / "reference.png")


def eight_bit(picture):
    return (picture * 255).round().byte().numpy()


def prepared(picture):
    """OpenAI's: the shorter side to 32, bicubic, the middle square of the longer one."""
    image = Image.fromarray(eight_bit(picture))
    scale = SIDE / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.BICUBIC)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    pixels = np.array(image.crop((left, top, left + SIDE, top + SIDE))) / 255
    return torch.tensor((pixels - MEAN) / STD).float().movedim(-1, 0)[None]


def raw(model, picture, text):
    """A picture's and a text's embeddings by the model's own forward pass."""
    ids = clip_tokenizer()(text, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=prepared(picture))
    return out.image_embeds[0].double().numpy(), out.text_embeds[0].double().numpy()


def test_the_scores_are_those_of_the_raw_embeddings(tiny, measure, tmp_path):
    model, _ = tiny
    drawn, asked = pictures(3), pair(tmp_path)
    found = measure.score(drawn, asked)
    reference, _ = raw(model, asked.reference_picture()[0], PROMPT)
    for n, picture in enumerate(drawn):
        image, text = raw(model, picture, PROMPT)
        _, with_prefix = raw(model, picture, "A photo depicts " + PROMPT)
        assert found["clip_score"][n] == pytest.approx(max(0, 100 * image @ text), abs=1e-3)
        hessel = 2.5 * max(0, image @ with_prefix)
        assert found["clip_score_hessel"][n] == pytest.approx(hessel, abs=1e-5)
        assert found["clip_i"][n] == pytest.approx(image @ reference, abs=1e-5)
    assert found["clip_score"].max() > 1  # not all of them cut off at 0
    assert {column.key for column in measure.columns} == set(found)
    assert PREFIX == "A photo depicts "


def test_both_libraries_give_the_same(tiny, measure, tmp_path):
    _, folder = tiny
    other = open_clip_measure(f"ViT-tiny-quickgelu:{folder / 'tiny.safetensors'}", SETTING, CPU)
    for prompt in (PROMPT, "Two   dogs & a cat!", "a girl " * 60):
        ours, theirs = (
            each.score(pictures(3), pair(tmp_path, prompt)) for each in (measure, other)
        )
        for key in ours:
            assert ours[key].numpy() == pytest.approx(theirs[key].numpy(), abs=1e-4), key
    assert measure.truncated("a girl " * 60) == other.truncated("a girl " * 60) == 45
    assert measure.recipe != other.recipe


def test_openai_weights_are_refused_without_quickgelu(tiny):
    _, folder = tiny
    with pytest.raises(ModelError, match=r"Set it to ViT-tiny-quickgelu:.*tiny\.safetensors"):
        open_clip_measure(f"ViT-tiny:{folder / 'tiny.safetensors'}", SETTING, CPU)


def test_weights_that_float16_does_not_hold_are_read_with_gelu(tiny, measure, tmp_path):
    _, folder = tiny
    weights = load_file(folder / "tiny.safetensors")
    weights = {key: value * (1 + 1e-5) for key, value in weights.items()}
    save_file(weights, tmp_path / "other.safetensors")
    other = open_clip_measure(f"ViT-tiny:{tmp_path / 'other.safetensors'}", SETTING, CPU)
    quick = open_clip_measure(f"ViT-tiny-quickgelu:{tmp_path / 'other.safetensors'}", SETTING, CPU)
    ours, gelu, again = (each.embed(pictures()) for each in (measure, other, quick))
    assert (ours - again).abs().max() < 1e-3 < (ours - gelu).abs().max()
    assert other.recipe != quick.recipe  # equal weights, another activation


def test_without_a_reference_there_is_no_clip_i(measure):
    found = measure.score(pictures(2), pair())
    assert found["clip_i"].isnan().tolist() == [True, True]
    assert not found["clip_score"].isnan().any()


def test_a_picture_is_scored_alike_in_any_company(measure, tmp_path):
    drawn, asked = pictures(35), pair(tmp_path)
    together = measure.score(drawn, asked)
    for n in (0, 31, 32, 34):
        alone = measure.score(drawn[n : n + 1], asked)
        for key in together:
            assert float(together[key][n]) == pytest.approx(float(alone[key]), abs=1e-4)


def test_reference_and_prompt_are_encoded_once(tiny, tmp_path):
    measure = open_clip_measure(str(tiny[1] / "clip"), SETTING, CPU)
    seen = []
    model = measure._network.model
    model.vision_model.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    model.text_model.register_forward_hook(lambda m, i, o: seen.append("text"))
    measure.score(pictures(5), pair(tmp_path))
    assert seen == [5, 1, "text", "text"]


def test_float32_whatever_the_caller_computes_in(measure):
    with torch.autocast("cpu", torch.bfloat16):
        inside = measure.score(pictures(), pair())
    assert torch.equal(inside["clip_score"], measure.score(pictures(), pair())["clip_score"])


def test_words_beyond_77_tokens_are_not_read_and_counted(measure):
    full = "girl " * 75
    assert measure.truncated(full) == 0
    assert measure.truncated(full + "cat dog") == 2
    # The last place is the end's, so that cutting is not the same as cutting off the end.
    assert torch.equal(measure.embed_text(full), measure.embed_text(full + "cat dog"))
    assert not torch.equal(measure.embed_text(full), measure.embed_text("girl " * 74))


def test_a_folder_without_tokenizer_gets_clips(tiny, measure, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny[1] / "clip" / name, tmp_path)
    other = open_clip_measure(str(tmp_path), SETTING, CPU)
    assert torch.equal(other.embed_text(PROMPT), measure.embed_text(PROMPT))


def test_a_folder_has_its_own_mean(tiny, measure, tmp_path):
    folder = shutil.copytree(tiny[1] / "clip", tmp_path / "c")
    given = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    other = open_clip_measure(str(folder), SETTING, CPU)
    white = Image.new("RGB", (SIDE, SIDE), "white")
    assert other._network.prepare(white) == pytest.approx(torch.ones(3, SIDE, SIDE))
    assert other.recipe != measure.recipe


@pytest.mark.skipif(
    torch.__version__ < (2, 6), reason="transformers reads no pickles with it (CVE-2025-32434)"
)
def test_pickled_tensors_are_read_and_nothing_else(tiny, measure, tmp_path):
    folder = shutil.copytree(tiny[1] / "clip", tmp_path / "c")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    other = open_clip_measure(str(folder), SETTING, CPU)
    torch.testing.assert_close(other.embed(pictures()), measure.embed(pictures()))
    torch.save({"weights": weights, "code": pytest.approx}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"measures\.clip is .*could run code"):
        open_clip_measure(str(folder), SETTING, CPU)
    torch.save({"code": pytest.approx}, tmp_path / "code.pt")
    with pytest.raises(ModelError, match="could run code"):
        open_clip_measure(f"ViT-tiny:{tmp_path / 'code.pt'}", SETTING, CPU)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", r"measures\.clip is empty.*openai/clip-vit-base-patch32.*ViT-B-32-quickgelu:FILE"),
        ("/nowhere", r"measures\.clip is /nowhere, which is no folder.*clip-vit-base-patch32"),
        ("C:/models/clip", "which is no folder"),
        ("ViT-B-33:/x.safetensors", "which open_clip does not know.*ViT-B-32-quickgelu"),
        ("ViT-B-16-SigLIP:/x.safetensors", "CLIP's own text part"),
        ("ViT-B-32-quickgelu:/x.safetensors", r"is /x\.safetensors, which cannot be read.*timm/"),
    ],
)
def test_what_is_no_clip_says_what_to_get(source, message):
    with pytest.raises(ModelError, match=message):
        open_clip_measure(source, SETTING, CPU)


def test_folders_and_files_of_other_things(tiny, tmp_path):
    folder = shutil.copytree(tiny[1] / "clip", tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(ModelError, match="holds a 'siglip' network"):
        open_clip_measure(str(folder), SETTING, CPU)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_clip_measure(str(folder), SETTING, CPU)
    weights = load_file(tiny[1] / "tiny.safetensors")
    del weights["visual.proj"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match=r"is .*part\.safetensors, which cannot be loaded"):
        open_clip_measure(f"ViT-tiny-quickgelu:{tmp_path / 'part.safetensors'}", SETTING, CPU)


def test_position_embeddings_are_not_stretched(tiny, tmp_path):
    weights = load_file(tiny[1] / "tiny.safetensors")
    weights["visual.positional_embedding"] = torch.randn(1 + 36, WIDTH)  # of 48 x 48 pixels
    save_file(weights, tmp_path / "larger.safetensors")
    with pytest.raises(ModelError, match=r"visual\.positional_embedding has the shape \[37, 16\]"):
        open_clip_measure(f"ViT-tiny-quickgelu:{tmp_path / 'larger.safetensors'}", SETTING, CPU)


def test_a_network_that_does_not_look_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny[1] / "clip", tmp_path / "c")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] *= math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        open_clip_measure(str(folder), SETTING, CPU)
