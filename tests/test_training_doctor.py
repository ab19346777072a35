"""What the doctor finds (training/doctor.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tiny_world
from training.cache import Encoded, cache_bytes
from training.config import from_mapping
from training.data import Dataset
from training.doctor import examine, main
from training.models import load_base, load_image_encoder
from training.settings import to_toml
from training.workers import Workers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_models(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_world.write_sketches(tmp_path / "data")


def config_of(models: Path, folder: Path, tmp_path: Path, **sections):
    return from_mapping(tiny_world.settings(models, folder, tmp_path / "out", **sections))


def test_nothing_is_wrong_with_a_good_run(
    models: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(models, folder, tmp_path)
    found = [finding.text for finding in examine(config) if "No GPU" not in finding.text]
    assert found == []
    (tmp_path / "x.toml").write_text(to_toml(config))
    assert main(["--config", str(tmp_path / "x.toml")]) == 0
    assert "0 errors" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()  # it looks and leaves nothing


def test_every_fault_is_found_at_once(
    models: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "01.png").write_bytes((folder / "01.png").read_bytes()[:60])
    shutil.copy(folder / "02.png", folder / "03.png")
    Image.new("L", (40, 40), 255).save(folder / "04.png")
    small = Image.new("L", (7, 9), 255)
    small.putpixel((3, 3), 0)
    small.save(folder / "05.png")
    stretched = Image.new("L", (40, 160), 255)
    stretched.putpixel((3, 3), 0)
    stretched.save(folder / "06.png")
    names = [f"{n:02d}.png" for n in range(8)]
    captions = ["x"] * 6 + ["word " * 80, " "]
    lines = [
        {"file_name": name, "text": text, "group": min(n, 6)}
        for n, (name, text) in enumerate(zip(names, captions, strict=True))
    ]
    tiny_world.write_metadata(folder, lines)
    (tmp_path / "out").write_text("a file where the folder should be")
    config = config_of(
        models, folder, tmp_path, data={"reference": "group", "resolution": 34},
        resampler={**tiny_world.SETTINGS["resampler"], "embedding_dim": 1280},
    )  # fmt: skip
    (tmp_path / "x.toml").write_text(to_toml(config))
    assert main(["--config", str(tmp_path / "x.toml")]) == 1
    printed = capsys.readouterr().out
    for text in (
        "01.png cannot be read as a picture",
        "04.png. Remove them",
        "05.png (7 x 9)",
        "06.png (40 x 160)",
        "02.png = ",
        "6 of 8 pictures are alone in their group",
        "07.png. Write them",
        "longer than 77 tokens",
        "resampler.embedding_dim is 1280",
        "34 x 34 pixels, and the UNet needs multiples of 4",
        "cannot be written",
    ):
        assert text in printed, text
    assert printed.index("ERROR") < printed.index("warning")  # the serious ones first


def test_broken_models_do_not_hide_missing_data(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models, broken)
    weights = load_file(broken / "vae" / "model.safetensors")
    name = next(iter(weights))
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, broken / "vae" / "model.safetensors")
    config = config_of(broken, tmp_path / "no-data", tmp_path)
    texts = [finding.text for finding in examine(config) if finding.serious]
    assert any(f"{name} in {broken / 'vae'} holds NaN or infinite" in text for text in texts)
    assert any("There is no" in text and "no-data" in text for text in texts)


def test_missing_models_do_not_hide_missing_data(models: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "no-models", tmp_path / "no-data", tmp_path)
    texts = [finding.text for finding in examine(config) if finding.serious]
    assert any("no-models has no unet/config.json" in text for text in texts)
    assert any("There is no" in text and "no-data" in text for text in texts)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"fit": "bucket", "bucket_step": 8}},
        {"cache": {"text_limit_gb": 1e-9}},
        {"cache": {"keep": "nothing"}},
    ],
)
def test_the_size_of_the_caches_is_foretold(
    models: Path, folder: Path, tmp_path: Path, sections: dict
) -> None:
    Image.new("L", (80, 40), 200).save(folder / "00.png")
    config = config_of(models, folder, tmp_path, **sections)
    dataset, base = Dataset(config.data), load_base(models)
    encoder = load_image_encoder("", models)
    Encoded(config, dataset, base, encoder, Workers("cpu"))
    files = list((tmp_path / "out" / "cache").rglob("*.safetensors"))
    values = sum(load_file(file)["values"].nbytes for file in files)
    assert cache_bytes(config, dataset, base, encoder) == values
    assert all(load_file(file)["values"].dtype == torch.float16 for file in files)
