"""DINO's similarity on tiny networks, by hand from the class tokens."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from training.evaluation.cases import Pair
from training.evaluation.measures.dino import open_dino_measure
from training.loading import ModelError

CPU = torch.device("cpu")
SETTING = "measures.dino"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stir(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def write_dinov2(folder):
    """The class token of patches of 14; 32 pixels of the shorter side, of which 28 are seen."""
    model = stir(Dinov2Model(Dinov2Config(**SIZES, image_size=28, patch_size=14)))
    model.save_pretrained(folder)
    size, crop = {"shortest_edge": 32}, {"height": 28, "width": 28}
    BitImageProcessor(
        size=size, crop_size=crop, image_mean=MEAN, image_std=STD, do_convert_rgb=True
    ).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks") / "dino"
    return write_dinov2(folder), folder


@pytest.fixture(scope="module")
def measure(tiny):
    return open_dino_measure(str(tiny[1]), SETTING, CPU)


def pictures(count=1, height=32, width=53, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def eight_bit(picture):
    return (picture * 255).round().byte().numpy()


def pair(folder):
    Image.fromarray(eight_bit(pictures(seed=9)[0])).save(folder / "reference.png")
    return Pair("p", "a girl", folder / "reference.png")


@torch.no_grad()
def class_token(model, picture):
    """Of a picture of 32 pixels' height, which is not resized: the middle 28 x 28 of it."""
    left = (picture.shape[1] - 28) // 2
    pixels = eight_bit(picture)[2:30, left : left + 28] / 255
    tensor = torch.tensor((pixels - MEAN) / STD).float().movedim(-1, 0)[None]
    return model(tensor).last_hidden_state[0, 0].double().numpy()


def test_it_is_the_cosine_of_the_class_tokens(tiny, measure, tmp_path):
    model, _ = tiny
    drawn, asked = pictures(3), pair(tmp_path)
    found = measure.score(drawn, asked)["dino"]
    reference = class_token(model, asked.reference_picture()[0])
    for n, picture in enumerate(drawn):
        token = class_token(model, picture)
        torch.testing.assert_close(
            measure.embed(drawn)[n].double(), torch.tensor(token), atol=1e-4, rtol=0
        )
        cosine = token @ reference / np.linalg.norm(token) / np.linalg.norm(reference)
        assert float(found[n]) == pytest.approx(cosine, abs=1e-5)
    assert [column.key for column in measure.columns] == ["dino"]


def test_the_reference_itself_has_one(measure, tmp_path):
    asked = pair(tmp_path)
    found = measure.score(asked.reference_picture(), asked)["dino"]
    assert float(found) == pytest.approx(1, abs=1e-6)


def test_without_a_reference_nothing_is_computed(tiny):
    measure = open_dino_measure(str(tiny[1]), SETTING, CPU)
    measure._model = None
    found = measure.score(pictures(2), Pair("p", "a girl"))["dino"]
    assert found.isnan().tolist() == [True, True]


def test_a_picture_is_scored_alike_in_any_company(measure, tmp_path):
    drawn, asked = pictures(35), pair(tmp_path)
    together = measure.score(drawn, asked)["dino"]
    for n in (0, 31, 32, 34):
        alone = measure.score(drawn[n : n + 1], asked)["dino"]
        assert float(together[n]) == pytest.approx(float(alone), abs=1e-5)


def test_dinos_weights_have_no_pooler(tmp_path, capfd):
    model = stir(
        ViTModel(ViTConfig(**SIZES, image_size=28, patch_size=14), add_pooling_layer=False)
    )
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    measure = open_dino_measure(str(tmp_path), SETTING, CPU)
    [picture] = pictures(1, 28, 28)
    pixels = torch.tensor(eight_bit(picture) / 127.5 - 1).float().movedim(-1, 0)[None]
    with torch.no_grad():
        token = model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(measure.embed(picture[None]), token, atol=1e-4, rtol=0)


def test_a_network_without_class_token_is_refused(tmp_path):
    sizes = {"embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2}
    SwinModel(SwinConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds a 'swin' network; .* a class token\. Use .*dino"):
        open_dino_measure(str(tmp_path), SETTING, CPU)


def test_what_is_no_folder_says_what_to_get(tiny, tmp_path):
    with pytest.raises(ModelError, match=r"measures\.dino is empty.*facebook/dinov2-base"):
        open_dino_measure("", SETTING, CPU)
    with pytest.raises(ModelError, match=r"no config\.json.*facebook/dinov2-base"):
        open_dino_measure(str(tmp_path), SETTING, CPU)
    folder = shutil.copytree(tiny[1], tmp_path / "d")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json.*facebook/dinov2-base"):
        open_dino_measure(str(folder), SETTING, CPU)


def test_a_folder_without_a_weight_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny[1], tmp_path / "d")
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .*layernorm\.weight"):
        open_dino_measure(str(folder), SETTING, CPU)


def test_code_in_a_folder_is_not_run(tiny, tmp_path):
    folder = shutil.copytree(tiny[1], tmp_path / "d")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ModelError, match=r"measures\.dino is .*cannot be loaded"):
        open_dino_measure(str(folder), SETTING, CPU)


def test_the_recipe_follows_from_weights_and_preparation(tiny, measure, tmp_path):
    folder = shutil.copytree(tiny[1], tmp_path / "d")
    assert open_dino_measure(str(folder), SETTING, CPU).recipe == measure.recipe
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text().replace("32", "35"))
    assert open_dino_measure(str(folder), SETTING, CPU).recipe != measure.recipe
