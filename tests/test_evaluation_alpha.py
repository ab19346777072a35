"""Which alpha is recommended, by hand-made figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animesketchnet_core.mini import adapter_path
from animesketchnet_core.weight_file import WrongAdapterError, read_adapter
from training.evaluation.alpha import balance, means, recommended, write_recommendation


def test_balance_is_the_harmonic_mean_of_what_is_kept_and_what_is_won() -> None:
    text = {0.0: 30.0, 0.5: 28.0, 1.0: 20.0}
    fidelity = {0.0: 0.1, 0.5: 0.5, 1.0: 0.9}
    balances = balance(text, fidelity, chance=20.0)
    assert balances == pytest.approx({0.0: 0.0, 0.5: 2 * 0.8 * 0.5 / 1.3, 1.0: 0.0})
    assert recommended(balances) == 0.5


def test_where_the_text_loses_nothing_the_reference_decides() -> None:
    flat = dict.fromkeys((0.0, 0.5, 1.0), 30.0)
    balances = balance(flat, {0.0: 0.1, 0.5: 0.7, 1.0: 0.7}, chance=10.0)
    assert balances[0.5] == balances[1.0] == 1.0
    assert recommended(balances) == 0.5  # of equals the smallest


def test_an_adapter_that_does_nothing_gets_the_least_alpha() -> None:
    balances = balance({0.25: 30.0, 1.0: 30.0}, {0.25: 0.4, 1.0: 0.4}, chance=10.0)
    assert balances == {0.25: 0.0, 1.0: 0.0}
    assert recommended(balances) == 0.25


def test_means_leave_out_what_does_not_apply() -> None:
    assert means({0.5: [1.0, float("nan"), 2.0]}) == {0.5: 1.5}


def test_recommendation_is_all_that_changes_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter_path().read_bytes())
    write_recommendation(path, 0.75)
    (before, old), (after, new) = read_adapter(adapter_path()), read_adapter(path)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(after[key].dtype == before[key].dtype for key in before)
    assert old is not None
    assert new is not None
    assert new.recommended_alpha == 0.75
    assert new.training == old.training


def test_a_file_without_our_metadata_is_left_alone(tmp_path: Path) -> None:
    state_dict, _ = read_adapter(adapter_path())
    path = tmp_path / "theirs.safetensors"
    save_file(state_dict, path)
    before = path.read_bytes()
    with pytest.raises(WrongAdapterError, match=r"Set alpha.write = false, or convert it"):
        write_recommendation(path, 0.75)
    assert path.read_bytes() == before
