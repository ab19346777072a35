"""What a run costs, foretold (training/estimate.py)."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from animesketchnet_core.unet_layers import SD15
from tests import tiny_world
from training import train as t
from training.config import from_mapping
from training.estimate import speed, step_cost
from training.settings import to_toml


@pytest.mark.filterwarnings("ignore:.*cpu.amp.autocast:FutureWarning")  # of torch 2.4's own doing
def test_sd15_costs_what_was_counted_by_hand() -> None:
    # At 512 px 0.805 TFLOP forward and 0.92 backward, and at least 0.63 GiB are kept for a sample,
    # by hand from the architecture; checkpointing trades the one for the other.
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
    text = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=77, hidden_size=768))
    base = SimpleNamespace(unet=unet, latent_scale=8, shape=SD15, text_encoder=text)
    encoder = SimpleNamespace(shape=(257, 1280), width=1280)
    costs = {
        blocks: step_cost(from_mapping({"run": {"checkpointing": blocks}}), base, encoder)  # type: ignore[arg-type]
        for blocks in ("none", "largest", "all")
    }
    assert costs["none"].flops == pytest.approx(1.725e12, rel=0.02)
    assert 0.63 < costs["none"].activation_bytes / 2**30 < 1.0
    flops = [cost.flops for cost in costs.values()]
    kept = [cost.activation_bytes for cost in costs.values()]
    assert flops == sorted(flops)
    assert kept == sorted(kept, reverse=True)
    assert kept[2] < 0.3 * kept[0]


def test_a_dry_run_tells_everything_and_leaves_nothing(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tiny_world.write_models(tmp_path / "models")
    folder = tiny_world.write_sketches(tmp_path / "data")
    config = from_mapping(
        tiny_world.settings(models, folder, tmp_path / "out", run={"max_steps": 400})
    )
    (tmp_path / "x.toml").write_text(to_toml(config))
    assert t.main(["--config", str(tmp_path / "x.toml"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    base, encoder = t.load_base(models), t.load_image_encoder("", models)
    trained = sum(p.numel() for p in t.new_adapter(config, base, encoder).parameters())
    assert f"{trained:,} parameters: the image projection, and K', V' of 7 layers" in told
    assert "12 pictures, each shown about 100.0 times" in told
    assert re.search(r"about [\d.]+ hours for 400 steps", told)
    assert not (tmp_path / "out").exists()


def test_speed_is_measured() -> None:
    assert speed(torch.device("cpu"), torch.float32, seconds=0.05) > 1e8
