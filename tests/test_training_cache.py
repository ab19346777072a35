from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from tests import tiny_world
from training import cache
from training.config import from_mapping
from training.data import Dataset
from training.models import load_base, load_image_encoder
from training.settings import ConfigError
from training.store import Store
from training.train import train
from training.views import View
from training.workers import Workers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_world.write_models(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture
def folder(tmp_path):
    return tiny_world.write_sketches(tmp_path / "data")


class Counted:
    """Opens the caches anew and counts what the encoders are given."""

    def __init__(self, models, folder, output, **sections):
        self.config = from_mapping(tiny_world.settings(models, folder, output, **sections))
        self.base, self.encoder = load_base(models), load_image_encoder("", models)
        self.pictures = self.references = self.captions = 0
        self._count(self.base, "encode_pictures", "pictures")
        self._count(self.base, "encode_text", "captions")
        self._count(self.encoder, "features", "references")
        self.dataset = Dataset(self.config.data)
        self.encoded = cache.Encoded(
            self.config, self.dataset, self.base, self.encoder, Workers("cpu")
        )
        self.captions -= 1  # the empty one, which is made each time

    def _count(self, target, method, counter):
        original = getattr(target, method)

        def counting(batch):
            setattr(self, counter, getattr(self, counter) + len(batch))
            return original(batch)

        setattr(target, method, counting)

    @property
    def encoded_items(self):
        return self.pictures, self.references, self.captions


def test_what_is_cached_equals_what_the_encoders_give(models, folder, tmp_path):
    world = Counted(models, folder, tmp_path / "out")
    names = [View(f"{folder}/05.png"), View(f"{folder}/00.png")]
    pixels = torch.cat([world.dataset.target_pixels(name) for name in names])
    moments = world.base.encode_pictures(pixels)
    assert torch.allclose(world.encoded.moments(names).float(), moments, atol=2e-3, rtol=2e-3)
    sketches = torch.cat([world.dataset.reference_pixels(n, tiny_world.CLIP_SIZE) for n in names])
    features = world.encoder.features(sketches)
    assert torch.allclose(world.encoded.features(names).float(), features, atol=2e-3, rtol=2e-3)
    text = world.base.encode_text(["drawing 5"])
    assert torch.allclose(world.encoded.text(["drawing 5"]).float(), text, atol=2e-3, rtol=2e-3)
    assert world.encoded.no_text.shape == (1, 77, tiny_world.TEXT_WIDTH)


def test_nothing_is_computed_twice(models, folder, tmp_path):
    first = Counted(models, folder, tmp_path / "out")
    assert first.encoded_items == (12, 12, 24)
    second = Counted(models, folder, tmp_path / "out")
    assert second.encoded_items == (0, 0, 0)
    names = first.dataset.targets
    assert torch.equal(first.encoded.moments(names), second.encoded.moments(names))


def test_a_changed_picture_is_computed_again_and_no_other(models, folder, tmp_path):
    before = Counted(models, folder, tmp_path / "out").encoded.moments([View(f"{folder}/03.png")])
    Image.new("RGB", (40, 40), "gray").save(folder / "03.png")
    after = Counted(models, folder, tmp_path / "out")
    assert after.encoded_items == (1, 1, 0)
    assert not torch.equal(after.encoded.moments([View(f"{folder}/03.png")]), before)


def test_another_preparation_is_another_cache(models, folder, tmp_path):
    Counted(models, folder, tmp_path / "out")
    padded = Counted(models, folder, tmp_path / "out", data={"fit": "pad"})
    assert padded.encoded_items == (12, 0, 0)
    coarse = Counted(models, folder, tmp_path / "out", cache={"precision": "bf16"})
    assert coarse.encoded_items == (12, 12, 24)


@pytest.mark.parametrize("position", [-5, 5000])  # in a key, in a value
def test_a_damaged_file_is_made_again(models, folder, tmp_path, position):
    first = Counted(models, folder, tmp_path / "out")
    names = first.dataset.targets
    before = first.encoded.moments(names)
    (path,) = (tmp_path / "out" / "cache").glob("moments-*/*.safetensors")
    content = bytearray(path.read_bytes())
    content[position] ^= 1  # one bit
    path.write_bytes(content)
    second = Counted(models, folder, tmp_path / "out")
    assert second.encoded_items == (12, 0, 0)
    assert torch.equal(second.encoded.moments(names), before)
    path.write_bytes(content[:100])
    assert Counted(models, folder, tmp_path / "out").pictures == 12


def test_an_interrupted_build_goes_on_where_it_was(models, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_BYTES", 1)  # a chunk is then as small as a batch
    settings = {"cache": {"batch": 5}}
    monkeypatch.setattr(Store, "add", stop_at(Store.add, 3))
    with pytest.raises(KeyboardInterrupt):
        Counted(models, folder, tmp_path / "out", **settings)
    monkeypatch.undo()
    assert Counted(models, folder, tmp_path / "out", **settings).pictures == 2


def stop_at(add, count):
    calls = []

    def adding(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        add(*arguments)

    return adding


def test_too_many_captions_are_encoded_at_each_step(models, folder, tmp_path, capsys):
    cached = Counted(models, folder, tmp_path / "out")
    small = Counted(models, folder, tmp_path / "out", cache={"text_limit_gb": 1e-6})
    assert "24 captions would take" in capsys.readouterr().out
    captions = ["drawing 3", "a sketch of 4 lines"]
    assert torch.allclose(
        small.encoded.text(captions).float(), cached.encoded.text(captions).float(), atol=2e-3
    )


@pytest.mark.parametrize("keep", ["memory", "device"])
def test_caches_in_memory_are_the_same_and_touch_no_file_any_more(models, folder, tmp_path, keep):
    on_disk = Counted(models, folder, tmp_path / "out")
    held = Counted(models, folder, tmp_path / "out", cache={"keep": keep})
    assert held.encoded_items == (0, 0, 0)
    shutil.rmtree(tmp_path / "out" / "cache")
    names, captions = held.dataset.targets, held.dataset.captions
    assert torch.equal(held.encoded.moments(names), on_disk.encoded.moments(names))
    assert torch.equal(held.encoded.features(names), on_disk.encoded.features(names))
    assert torch.equal(held.encoded.text(captions), on_disk.encoded.text(captions))


def test_training_without_a_cache_is_the_same_training(models, folder, tmp_path):
    trained = {}
    for keep in ("disk", "nothing"):
        sections = {"run": {"max_steps": 4}, "cache": {"keep": keep}, "views": {"count": 3}}
        settings = tiny_world.settings(models, folder, tmp_path / keep, **sections)
        train(from_mapping(settings))
        (path,) = (tmp_path / keep / "checkpoints").glob("*.pt")
        trained[keep] = torch.load(path, weights_only=True)["adapter"]
    assert not (tmp_path / "nothing" / "cache").exists()
    for name, value in trained["disk"].items():
        # Encoded in other company, which moves a last bit of float16 here and there.
        assert torch.allclose(value, trained["nothing"][name], atol=4e-5), name


def test_caches_that_the_gpu_cannot_hold_are_an_error(models, folder, tmp_path, monkeypatch):
    def full(store, device):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Store, "hold", full)
    with pytest.raises(ConfigError, match=r'do not fit.*cache\.keep = "memory"'):
        Counted(models, folder, tmp_path / "out", cache={"keep": "device"})


def test_values_that_are_not_finite_are_refused(tmp_path):
    store = Store(tmp_path / "moments", (2,))
    with pytest.raises(ValueError, match=r"NaN, infinite.*moments.*fp32"):
        store.add([b"k" * 32], torch.tensor([[1.0, 1e6]]))
    assert store.missing([b"k" * 32, b"k" * 32]) == [b"k" * 32]
