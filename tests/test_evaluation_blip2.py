"""BLIP-2's scores on tiny networks, computed anew from the Q-Former as LAVIS defines them."""

import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dataset_networks import QUERIES, SIDE, write_blip2_itm, write_blip_itm
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms
from transformers import BertTokenizer

from training.dataset.captions.itm import open_matcher
from training.dataset.config import CaptionSettings
from training.evaluation.cases import Pair
from training.evaluation.measures.blip2 import clean_prompt, open_blip2_measure, squash
from training.loading import ModelError

CPU = torch.device("cpu")
SETTING = "measures.blip2"
PROMPT = "A girl sits in the garden; with a RED hat, and (a dog)!"


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A network and its folder; read only."""
    folder = tmp_path_factory.mktemp("networks") / "itm"
    return write_blip2_itm(folder), folder


@pytest.fixture(scope="module")
def measure(tiny):
    return open_blip2_measure(str(tiny[1]), SETTING, CPU, "float32")


def pictures(count=1, height=37, width=53, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def lavis_pixels(picture):
    """LAVIS, processors/blip_processors.py, BlipImageEvalProcessor."""
    image = Image.fromarray((picture * 255).round().byte().numpy())
    prepare = transforms.Compose([
        transforms.Resize((SIDE, SIDE), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073),
                             (0.26862954, 0.26130258, 0.27577711)),
    ])  # fmt: skip
    return prepare(image)[None]


def lavis_text(prompt):
    """LAVIS, processors/blip_processors.py, BlipCaptionProcessor.pre_caption."""
    caption = re.sub(r"([.!\"()*#:;~])", " ", prompt.lower())
    caption = re.sub(r"\s{2,}", " ", caption)
    caption = caption.rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:50])


@torch.no_grad()
def lavis(model, folder, picture, prompt):
    """LAVIS, blip2_image_text_matching.py: the probability of "itm" and the cosine of "itc"."""
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    ids = torch.tensor([tokenizer(lavis_text(prompt), truncation=True, max_length=32).input_ids])
    image = model.vision_model(lavis_pixels(picture)).last_hidden_state
    queries = model.query_tokens
    both = model.qformer(
        query_embeds=model.embeddings(input_ids=ids, query_embeds=queries),
        query_length=QUERIES,
        attention_mask=torch.ones(1, QUERIES + ids.shape[1]),
        encoder_hidden_states=image,
    ).last_hidden_state
    no, yes = model.itm_head(both[:, :QUERIES]).mean(1)[0].double().numpy()
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
    read = model.qformer(
        query_embeds=model.embeddings(input_ids=ids), query_length=0,
        attention_mask=torch.ones_like(ids),
    ).last_hidden_state  # fmt: skip
    seen = F.normalize(model.vision_projection(seen[0]), dim=-1)
    read = F.normalize(model.text_projection(read[0, 0]), dim=-1)
    return 1 / (1 + np.exp(no - yes)), float((seen @ read).max())


@pytest.mark.parametrize("prompt", [PROMPT, "a girl", "a red hat and a dog " * 20, "..."])
def test_both_are_lavis_own(tiny, measure, prompt):
    drawn = pictures(3)
    found = measure.score(drawn, Pair("p", prompt))
    for n, picture in enumerate(drawn):
        itm, cosine = lavis(*tiny, picture, prompt)
        assert float(found["blip_itm"][n]) == pytest.approx(itm, abs=1e-4)
        assert float(found["blip_cosine"][n]) == pytest.approx(cosine, abs=1e-4)
    assert {column.key for column in measure.columns} == set(found)


def test_softmax_is_taken_once(tiny, tmp_path):
    """A softmax of a softmax lies between 1 / (1 + e) = 0.269 and 0.731."""
    folder = shutil.copytree(tiny[1], tmp_path / "b")
    weights = load_file(folder / "model.safetensors")
    found = []
    for shift in (6.0, -6.0):
        shifted = weights | {"itm_head.bias": torch.tensor([-shift, shift])}
        save_file(shifted, folder / "model.safetensors", {"format": "pt"})
        measure = open_blip2_measure(str(folder), SETTING, CPU)
        found.append(float(measure.score(pictures(), Pair("p", PROMPT))["blip_itm"]))
    assert found[0] > 0.9
    assert found[1] < 0.1


def test_prompts_are_cleaned_as_lavis_does():
    assert clean_prompt(PROMPT) == "a girl sits in the garden with a red hat, and a dog"
    for prompt in (PROMPT, "  A\t\tb \n", "a" + " b" * 70, "x~y*z#1", "What? 'Yes' - no, 50%\n"):
        assert clean_prompt(prompt) == lavis_text(prompt)


def test_pictures_are_squashed_as_lavis_does(tiny):
    measure = open_blip2_measure(str(tiny[1]), SETTING, CPU)
    seen = []
    patches = measure._matcher.model.vision_model.embeddings.patch_embedding
    patches.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    [picture] = pictures(1, 101, 31)
    measure.score(picture[None], Pair("p", "a girl"))
    assert len(seen) == 1  # both answers come from one look
    torch.testing.assert_close(seen[0], lavis_pixels(picture), atol=1e-5, rtol=0)
    assert squash(picture, 7).shape == (7, 7, 3)


def test_what_is_not_read_is_counted(tiny, measure):
    assert measure.truncated(PROMPT) == 0
    assert measure.truncated("a " * 30) == 0  # and [CLS], [SEP]
    assert measure.truncated("a " * 37) == 7
    assert measure.truncated("a " * 60) == 30  # 10 as words, 20 as tokens
    read = ["a girl " * 15, "a girl " * 15 + "and a dog"]
    one, other = (measure.score(pictures(), Pair("p", prompt)) for prompt in read)
    assert one == other


def test_a_picture_is_scored_alike_in_any_company(measure):
    drawn, asked = pictures(35), Pair("p", PROMPT)
    together = measure.score(drawn, asked)
    for n in (0, 31, 32, 34):
        alone = measure.score(drawn[n : n + 1], asked)
        for key in together:
            assert float(together[key][n]) == pytest.approx(float(alone[key]), abs=1e-5)


def test_bfloat16_is_the_vision_transformers_alone(tiny, measure):
    rough = open_blip2_measure(str(tiny[1]), SETTING, CPU, "bfloat16")
    model = rough._matcher.model
    assert {w.dtype for w in model.vision_model.parameters()} == {torch.bfloat16}
    others = {w.dtype for n, w in model.named_parameters() if not n.startswith("vision_model.")}
    assert others == {torch.float32}
    found = rough.score(pictures(5), Pair("p", PROMPT))
    exact = measure.score(pictures(5), Pair("p", PROMPT))
    for key in found:
        assert (found[key] - exact[key]).abs().max() < 0.1
        assert not torch.equal(found[key], found[key].bfloat16().float())
    assert rough.recipe != measure.recipe


def test_the_recipe_follows_from_folder_and_weights(tiny, measure, tmp_path):
    folder = shutil.copytree(tiny[1], tmp_path / "b")
    assert open_blip2_measure(str(folder), SETTING, CPU).recipe == measure.recipe
    weights = load_file(folder / "model.safetensors")
    weights["itm_head.bias"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert open_blip2_measure(str(folder), SETTING, CPU).recipe != measure.recipe


def test_what_is_no_blip2_says_what_to_get(tmp_path):
    with pytest.raises(ModelError, match=r"measures\.blip2 is empty.*Salesforce/blip2-itm-vit-g"):
        open_blip2_measure("", SETTING, CPU)
    with pytest.raises(ModelError, match=r"no config\.json.*Salesforce/blip2-itm-vit-g"):
        open_blip2_measure(str(tmp_path), SETTING, CPU)
    write_blip_itm(tmp_path / "blip")
    with pytest.raises(ModelError, match=r"holds a 'blip' network\. Use a copy of Salesforce/"):
        open_blip2_measure(str(tmp_path / "blip"), SETTING, CPU)


def test_blips_similarity_is_the_cosine_of_its_projections(tmp_path):
    model = write_blip_itm(tmp_path)
    matcher = open_matcher(CaptionSettings(itm=str(tmp_path)), CPU)
    seen = [squash(picture, SIDE) for picture in pictures(3)]
    ids = torch.tensor([matcher.processor.tokenizer("a girl").input_ids])
    pixels = matcher.processor.image_processor(seen, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        image = model.vision_proj(model.vision_model(pixels).last_hidden_state[:, 0])
        text = model.text_proj(model.text_encoder(ids).last_hidden_state[:, 0])
    expected = F.cosine_similarity(image, text)
    torch.testing.assert_close(matcher.cosines(seen, "a girl"), expected)
