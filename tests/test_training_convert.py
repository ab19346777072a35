"""Checkpoints of the reference trainer's vintages become inference files (training/convert.py).

accelerate itself writes them, from modules that are put together as in tutorial_train_plus.py of
tencent-ailab/IP-Adapter: the UNet and `adapter_modules` share the attention processors.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.resampler import Resampler
from animesketchnet_core.weight_file import read_adapter
from tests.tiny_adapters import TINY_KINDS, TINY_RESAMPLER, TINY_UNET, randomise, tiny_state
from training.convert import main

UNET = {
    "block_out_channels": TINY_UNET.block_out_channels,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": TINY_UNET.cross_attention_dim,
}


class Processor(nn.Module):
    """What the reference trainer puts into each cross-attention layer."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(tokens, width, bias=False)
        self.to_v_ip = nn.Linear(tokens, width, bias=False)


class Trained(nn.Module):
    """The module that the reference trainer hands to accelerate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.unet = UNet2DConditionModel(**UNET)
        layers = {}
        for name in self.unet.attn_processors:
            if name.endswith("attn1.processor"):
                layers[name] = nn.Module()
                continue
            query = self.unet.get_submodule(f"{name.removesuffix('.processor')}.to_q")
            layers[name] = Processor(query.out_features, TINY_UNET.cross_attention_dim)  # type: ignore[arg-type]
        for name, processor in layers.items():
            attention = self.unet.get_submodule(name.removesuffix(".processor"))
            attention.processor = processor  # type: ignore[assignment]
        self.image_proj_model = Resampler(TINY_RESAMPLER)
        self.adapter_modules = nn.ModuleList(layers.values())
        randomise(self.image_proj_model)

    def expected(self) -> dict[str, torch.Tensor]:
        parts = {"image_proj": self.image_proj_model, "ip_adapter": self.adapter_modules}
        return {
            f"{part}.{key}": value.half()
            for part, module in parts.items()
            for key, value in module.state_dict().items()
        }


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


@pytest.fixture(scope="module", params=[True, False], ids=["safetensors", "bin"])
def checkpoint(
    trained: Trained, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoint-300"
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(trained)
    accelerator.save_state(str(folder), safe_serialization=request.param)
    return folder


def test_a_folder_of_accelerate(
    trained: Trained, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "converted.safetensors"
    assert main([str(checkpoint), str(output)]) == 0
    assert "parameters" in capsys.readouterr().out
    state_dict, metadata = read_adapter(output)
    expected = trained.expected()
    assert state_dict.keys() == expected.keys()
    assert all(torch.equal(state_dict[key], value) for key, value in expected.items())
    assert metadata is not None
    assert metadata.training["steps"] == 300
    assert metadata.num_tokens == TINY_RESAMPLER.num_queries
    adapter = AnimeSketchAdapter.from_state_dict(state_dict, dtype=torch.float32)
    assert adapter.tokens(torch.randn(1, 4, TINY_RESAMPLER.embedding_dim)).isfinite().all()


def test_a_runs_folder_gives_its_last_checkpoint(
    trained: Trained, checkpoint: Path, tmp_path: Path
) -> None:
    for step in (20, 1000, 300):
        (tmp_path / f"checkpoint-{step}").mkdir()
    shutil.copytree(checkpoint, tmp_path / "checkpoint-1000", dirs_exist_ok=True)
    output = tmp_path / "a.safetensors"
    assert main([str(tmp_path), str(output), "--image-encoder", "my encoder"]) == 0
    _, metadata = read_adapter(output)
    assert metadata is not None
    assert (metadata.training["steps"], metadata.image_encoder) == (1000, "my encoder")


def test_nothing_is_lost_or_half_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.safetensors"
    output.write_bytes(b"mine")
    assert main([str(checkpoint), str(output)]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for wrong, message in (
        (tmp_path / "nowhere", "There is no"),
        (tmp_path / "empty", "holds no weights. Expected model.safetensors"),
        (output, "not a weight file"),
    ):
        assert main([str(wrong), str(output), "--force"]) == 2
        assert message in capsys.readouterr().err
    assert output.read_bytes() == b"mine"
    assert main([str(checkpoint), str(tmp_path / "a.bin")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert main([str(checkpoint), str(output), "--force"]) == 0
    assert len(read_adapter(output)[0]) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "empty"}


@pytest.mark.parametrize("kind", ["plain", "Full Face"])
def test_other_kinds_are_not_converted_but_named_as_readable(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(tiny_state(TINY_KINDS[kind]), tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]) == 2
    assert "Load AnimeSketchNet reads it as it is" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()
