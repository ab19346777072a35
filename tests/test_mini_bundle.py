import json

import pytest
import torch
from safetensors.torch import save_file

from animesketchnet_core.mini import (
    TOKEN_IDS,
    TOKEN_TABLE,
    adapter_path,
    compact_token_table,
    expand_token_table,
    load_part,
    load_scheduler_config,
)


def write_part(folder, name, config, tensors):
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / name / "model.safetensors")


def test_untouched_rows_are_the_mean_of_the_touched():
    rows = torch.tensor([[1.0, 2.0], [3.0, 8.0]])
    table = expand_token_table(torch.tensor([4, 1]), rows, 5)
    mean = [2.0, 5.0]
    assert table.tolist() == [mean, [3.0, 8.0], mean, mean, [1.0, 2.0]]


def test_compacting_and_expanding_keeps_the_rows():
    table = torch.randn(11, 3)
    stored = compact_token_table(table, torch.tensor([7, 2, 7, 5]))
    assert stored[TOKEN_IDS].tolist() == [2, 5, 7]
    expanded = expand_token_table(stored[TOKEN_IDS], stored[TOKEN_TABLE], 11)
    assert torch.equal(expanded[[2, 5, 7]], table[[2, 5, 7]])


def test_a_text_encoder_is_loaded_whole_in_float32(tmp_path):
    stored = {
        TOKEN_IDS: torch.tensor([0, 3]),
        TOKEN_TABLE: torch.tensor([[1.0, 0.0], [0.0, 1.0]]).half(),
        "text_model.final_layer_norm.weight": torch.full((2,), 0.5).half(),
    }
    write_part(tmp_path, "text_encoder", {"vocab_size": 7, "hidden_size": 2}, stored)
    config, weights = load_part("text_encoder", tmp_path)
    assert config == {"vocab_size": 7, "hidden_size": 2}
    assert weights.keys() == {TOKEN_TABLE, "text_model.final_layer_norm.weight"}
    assert weights[TOKEN_TABLE].shape == (7, 2)
    assert weights[TOKEN_TABLE][6].tolist() == [0.5, 0.5]
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_other_parts_are_loaded_as_they_are(tmp_path):
    stored = {"weight": torch.randn(3).half(), "position_ids": torch.arange(5)}
    write_part(tmp_path, "vae", {"latent_channels": 4}, stored)
    config, weights = load_part("vae", tmp_path)
    assert config == {"latent_channels": 4}
    assert torch.equal(weights["weight"], stored["weight"].float())
    assert weights["position_ids"].dtype == torch.int64


@pytest.mark.parametrize("ids", [[1, 1], [1, 2, 3]])
def test_ids_that_do_not_name_each_row_once_are_refused(ids):
    with pytest.raises(ValueError, match="each of the 2 stored token rows once"):
        expand_token_table(torch.tensor(ids), torch.zeros(2, 3), 5)


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: load_part("unet", folder),
        load_scheduler_config,
        adapter_path,
    ],
)
def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"python -m training\.mini") as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_the_scheduler_configuration_is_read(tmp_path):
    (tmp_path / "scheduler").mkdir()
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text('{"beta_start": 0.00085}', encoding="utf-8")
    assert load_scheduler_config(tmp_path) == {"beta_start": 0.00085}
