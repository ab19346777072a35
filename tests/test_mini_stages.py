"""The mini world's stages, each a step or two on a few portraits (training/mini/__main__.py)."""

from __future__ import annotations

import json
import shutil
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.mini import MINI_FOLDER, load_part, load_text_projection
from animesketchnet_core.weight_file import read_adapter
from training.evaluation.cases import Pair
from training.evaluation.methods.controlnet import read_controlnet
from training.loading import ModelError
from training.mini import bundle
from training.mini.__main__ import main
from training.mini.base import Base
from training.mini.encoder import SketchCLIP
from training.mini.judge import Judge
from training.mini.judge_measure import open_judge
from training.mini.measure import FOLLOWED
from training.mini.questions import QUESTIONS
from training.mini.styles import AXES

TRAINED = ("autoencoder", "encoder", "base", "adapter", "decoder", "judge")
RIVALS = ("animesketchnet", "ip_adapter", "controlnet", "alignment")


needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="the encoder is trained with Muon, of torch 2.9"
)


def run(folder: Path, *words: str) -> None:
    folders = {name: str(folder / name) for name in ("workspace", "bundle", "rivals")}
    main([*words, *(word for name, path in folders.items() for word in (f"--{name}", path))])


@needs_muon
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


def test_rivals_are_trained_and_read_back(tmp_path: Path) -> None:
    shutil.copytree(MINI_FOLDER, tmp_path / "bundle")
    run(tmp_path, *RIVALS, "--steps", "1", "--limit", "2")
    folder = tmp_path / "rivals"
    _, ours = read_adapter(folder / "animesketchnet.safetensors")
    plain, theirs = read_adapter(folder / "ip_adapter.safetensors")
    assert ours is not None
    assert theirs is not None
    assert (ours.num_tokens, theirs.num_tokens) == (16, 4)
    assert AnimeSketchAdapter.from_state_dict(plain).reads is ImageFeatures.IMAGE_EMBEDDING
    controlnet = read_controlnet(folder / "controlnet")
    assert sum(p.abs().sum() for p in controlnet.controlnet_mid_block.parameters()) > 0  # trained
    assert not torch.equal(load_text_projection(tmp_path / "bundle"), load_text_projection())


def test_judge_answers_for_what_was_asked(tmp_path: Path) -> None:
    """One who always says "left" is right where left was asked, and sure of it."""
    judge = Judge()
    for parameter in judge.parameters():
        parameter.data.zero_()
    starts = dict(zip(QUESTIONS, accumulate(QUESTIONS.values(), initial=0), strict=False))
    judge.network.fc.bias.data[starts["facing"]] = 100.0
    save_file(judge.state_dict(), tmp_path / "judge.safetensors")
    measure = open_judge(tmp_path / "judge.safetensors")
    pictures = torch.rand(3, 128, 128, 3)
    left = Pair("a", "", None, {"facing": 0, "glasses": 1})
    figures = measure.score(pictures, left)
    assert figures.keys() == {column.key for column in measure.columns}
    assert figures["facing"].tolist() == [1, 1, 1]
    assert torch.allclose(figures["match"], torch.full((3,), 0.5))  # of glasses it knows nothing
    assert figures["hair"].isnan().all()  # nothing was asked
    right = measure.score(pictures, Pair("a", "", None, {"facing": 1}))
    assert right["match"].tolist() == pytest.approx([0, 0, 0])
    with pytest.raises(ModelError, match=r"measures.judge needs. `python -m training.mini judge`"):
        open_judge(tmp_path / "gone")


@needs_muon
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
