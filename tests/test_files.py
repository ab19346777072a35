"""Files are written whole, by one temporary file, and like any other new file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from animesketchnet_core.files import StorageError, write_safetensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(0, dtype=torch.bfloat16)}


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", TENSORS, {"format": "pt"})
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(TENSORS)
        for name, tensor in TENSORS.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype == tensor.dtype


def test_who_may_read_other_new_files_may_read_it(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", TENSORS)
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_had_one_temporary_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old")
    left = []

    def replace(path: Path, target: Path) -> None:
        left.extend(sorted(file.name for file in tmp_path.iterdir()))
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StorageError, match=r"a cannot be written \(no space\)"):
        write_safetensors(tmp_path / "a", TENSORS)
    part, old = left
    assert part.startswith(".a.")
    assert part.endswith(".part")
    assert (old, (tmp_path / "a").read_text()) == ("a", "old")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
