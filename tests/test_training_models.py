from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler

from tests import tiny_world
from training import models as m


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_world.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def base(folder):
    return m.load_base(folder)


def test_the_tokenizer_gives_clips_numbers():
    open_clip = pytest.importorskip("open_clip.tokenizer")
    texts = [
        "a girl, long hair",
        "It's 3 CATS  &amp; [don't]",
        "smörgåsbord 猫耳 ♥",
        "x " * 100,
        "",
    ]
    ours = m.clip_tokenizer()(
        texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids
    theirs = open_clip.SimpleTokenizer()(texts)
    html = 1  # open_clip mends HTML entities first, transformers' tokenizer does not
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        end = int((other == 49407).nonzero()[0])  # after it open_clip writes 0, SD the end token
        if number != html:
            assert torch.equal(own[: end + 1], other[: end + 1])
            assert own[end:].eq(49407).all()


def test_token_rows_that_were_stored_come_back(folder, base):
    stored = m.load_file(folder / "text_encoder" / "model.safetensors")
    table = base.text_encoder.get_input_embeddings().weight
    rows = stored["text_model.embeddings.token_embedding.weight"]
    assert torch.equal(table[stored["token_ids"]], rows)
    assert torch.allclose(table[5000], rows.mean(0))
    assert base.encode_text(["a cat", "two"]).shape == (2, 77, tiny_world.TEXT_WIDTH)


def test_everything_is_frozen_in_float32(base):
    for model in (base.unet, base.vae, base.text_encoder):
        assert not model.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())


def test_a_diffusers_folder_gives_the_same_models(folder, base, tmp_path):
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        shutil.copy(folder / part / "config.json", tmp_path / part)
        weights = tmp_path / part / "diffusion_pytorch_model.safetensors"
        shutil.copy(folder / part / "model.safetensors", weights)
    shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")
    other = m.load_base(tmp_path)
    assert m.fingerprint(other.unet) == m.fingerprint(base.unet)
    assert m.fingerprint(other.vae) == m.fingerprint(base.vae)
    assert m.fingerprint(other.unet) != m.fingerprint(other.vae)


def test_the_schedule_is_stable_diffusions(base):
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.allclose(base.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-5)
    assert base.alphas_cumprod[999].item() == pytest.approx(0.00466, abs=1e-5)


def test_another_schedule_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "v2")
    (tmp_path / "v2" / "scheduler").mkdir()
    path = tmp_path / "v2" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"prediction_type": "v_prediction"}))
    with pytest.raises(m.ModelError, match="prediction_type 'v_prediction'"):
        m.load_base(tmp_path / "v2")


def test_image_features_are_the_penultimate_hidden_states(folder):
    encoder = m.load_image_encoder("", folder)
    fitted = torch.rand(2, tiny_world.CLIP_SIZE, tiny_world.CLIP_SIZE, 3)
    features = encoder.features(fitted)
    assert features.shape == (2, *encoder.shape) == (2, 5, tiny_world.IMAGE_WIDTH)
    layers = encoder.model.vision_model.encoder.layers
    del layers[-1]  # now the last layer is the one before
    pixels = m.clip_input.pixel_values(fitted)
    last = encoder.model(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(features, last, atol=1e-6)
    assert encoder.unconditional().shape == (1, 5, tiny_world.IMAGE_WIDTH)


def test_latents_go_there_and_back(base):
    moments = base.encode_pictures(torch.rand(3, 3, 32, 32) * 2 - 1)
    assert moments.shape == (3, 8, 16, 16)
    assert base.latent_scale == 2
    pictures = base.decode_latents(moments[:, :4] * 0.18215)
    assert pictures.shape == (3, 3, 32, 32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_a_missing_part_is_named(folder, tmp_path):
    with pytest.raises(m.ModelError, match=r"has no unet/config\.json.*diffusers"):
        m.load_base(tmp_path)
    (tmp_path / "sd.safetensors").touch()
    with pytest.raises(m.ModelError, match=r"sd\.safetensors cannot be read .* an empty file"):
        m.load_base(tmp_path / "sd.safetensors")
    with pytest.raises(m.ModelError, match=r"no config\.json.*model\.image_encoder"):
        m.load_image_encoder(tmp_path)


def test_weights_of_another_size_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "vae" / "config.json").read_text())
    (tmp_path / "b" / "vae" / "config.json").write_text(json.dumps(config | {"latent_channels": 3}))
    with pytest.raises(m.ModelError, match=r"do not fit AutoencoderKL"):
        m.load_base(tmp_path / "b")
