"""The mini world's stages, each a step or two on a few portraits (training/mini/__main__.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from animesketchnet_core.mini import MINI_FOLDER, load_part
from training.mini import bundle
from training.mini.__main__ import main
from training.mini.base import Base
from training.mini.encoder import SketchCLIP
from training.mini.measure import FOLLOWED
from training.mini.styles import AXES

TRAINED = ("autoencoder", "encoder", "base", "adapter", "decoder", "judge")


def run(folder: Path, *words: str) -> None:
    main([*words, "--workspace", str(folder / "work"), "--bundle", str(folder / "bundle")])


def test_every_stage_runs_from_nothing(tmp_path: Path) -> None:
    run(tmp_path, "pictures", *TRAINED, "--steps", "1", "--limit", "2")
    run(tmp_path, "measure", "--limit", "2")
    figures = json.loads((tmp_path / "bundle" / "figures.json").read_text())
    assert figures["pictures"] == 2
    assert {*FOLLOWED, *AXES, "hair"} <= figures["adapter"]["0.5"].keys()
    # A trained stage is not trained again.
    written = tmp_path / "bundle" / "image_encoder" / "model.safetensors"
    before = written.read_bytes()
    run(tmp_path, "encoder", "--steps", "1", "--limit", "2")
    assert written.read_bytes() == before


def test_training_goes_on_from_the_weights_of_the_bundle(tmp_path: Path) -> None:
    shutil.copytree(MINI_FOLDER, tmp_path / "bundle")
    run(tmp_path, "autoencoder", "encoder", "--go-on", "--steps", "1", "--limit", "2")
    for part in ("vae", "image_encoder"):
        before, after = (
            load_part(part, folder)[1] for folder in (MINI_FOLDER, tmp_path / "bundle")
        )
        name = next(key for key in before if key.endswith("weight"))
        assert not torch.equal(before[name], after[name])
        assert (before[name] - after[name]).abs().max() < 0.01  # one step of warm-up away


def test_base_and_encoder_are_read_as_they_were_written(tmp_path: Path) -> None:
    torch.manual_seed(5)
    encoder = SketchCLIP()
    written = Base(bundle.read_text_start(encoder))
    bundle.write_base(written, torch.arange(49408), tmp_path)
    bundle.write_image_encoder(encoder, tmp_path)
    other = SketchCLIP()
    bundle.read_image_encoder(other, tmp_path)
    read = Base(bundle.read_text_start(other))
    bundle.read_unet(read, tmp_path)
    for before, after in ((written, read), (encoder.clip.vision_model, other.clip.vision_model)):
        stored = after.state_dict()
        for key, tensor in before.state_dict().items():
            assert torch.equal(tensor.half(), stored[key].half()), key
