"""Encoded sketches as files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animesketchnet_core.sketch_file import SketchFile, SketchFileError, adapter_fingerprint
from tests.tiny_adapters import tiny_adapter


@pytest.fixture
def sketch() -> SketchFile:
    torch.manual_seed(0)
    return SketchFile(torch.randn(2, 3, 5), torch.randn(1, 3, 5), "abc", "mine.safetensors")


def test_goes_there_and_back_bit_for_bit(sketch: SketchFile, tmp_path: Path):
    sketch.write(tmp_path / "a.safetensors")
    found = SketchFile.read(tmp_path / "a.safetensors")
    assert torch.equal(found.tokens, sketch.tokens)
    assert torch.equal(found.unconditional, sketch.unconditional)
    assert (found.adapter, found.adapter_name) == ("abc", "mine.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_who_may_read_other_new_files_may_read_it(sketch: SketchFile, tmp_path: Path):
    sketch.write(tmp_path / "a.safetensors")
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_another_safetensors_file_is_refused(tmp_path: Path):
    save_file({"tokens": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(SketchFileError, match=r"b.safetensors is no file of encoded sketches"):
        SketchFile.read(tmp_path / "b.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08" + b"\0" * 7 + b"{broken}"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.raises(SketchFileError, match=r"c.safetensors is damaged"):
        SketchFile.read(path)


def test_a_cut_file_is_refused(sketch: SketchFile, tmp_path: Path):
    path = tmp_path / "d.safetensors"
    sketch.write(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SketchFileError, match=r"d.safetensors is damaged"):
        SketchFile.read(path)


@pytest.mark.parametrize(
    ("tokens", "unconditional", "message"),
    [
        (torch.ones(2, 3), torch.ones(1, 3), r"has tokens \[2, 3\]"),
        (torch.ones(2, 3, 5), torch.ones(1, 4, 5), r"unconditional tokens \[1, 4, 5\]"),
        (torch.ones(0, 3, 5), torch.ones(1, 3, 5), r"has tokens \[0, 3, 5\]"),
        (torch.full((1, 3, 5), torch.nan), torch.ones(1, 3, 5), "NaN or infinite"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tmp_path, tokens, unconditional, message):
    path = tmp_path / "e.safetensors"
    SketchFile(tokens, unconditional, "x", "y").write(path)
    with pytest.raises(SketchFileError, match=message):
        SketchFile.read(path)


def test_the_fingerprint_tells_adapters_apart_but_not_their_types():
    first, second = (tiny_adapter(seed=seed).state_dict() for seed in (0, 1))
    assert adapter_fingerprint(first) != adapter_fingerprint(second)
    halves = {key: tensor.half() for key, tensor in first.items()}
    floats = {key: tensor.float() for key, tensor in halves.items()}
    assert adapter_fingerprint(halves) == adapter_fingerprint(floats)
    moved = {**first, "ip_adapter.1.to_k_ip.weight": torch.zeros(1)}
    assert adapter_fingerprint(moved) == adapter_fingerprint(first)  # tokens come before them
