from __future__ import annotations

from pathlib import Path

import pytest

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.unet_layers import SD15
from training import config as c
from training.settings import ConfigError
from training.train import main, parse

CONFIGS = Path(c.__file__).parent / "configs"


def test_an_unknown_key_is_an_error_that_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"'run\.batchsize'.*mean 'run\.batch_size'"):
        c.from_mapping({"run": {"batchsize": 4}})
    with pytest.raises(ConfigError, match=r"'optimiser'.*mean 'optimizer'"):
        c.from_mapping({"optimiser": {}})


def test_an_unknown_key_on_the_command_line_is_an_error_too():
    with pytest.raises(ConfigError, match=r"mean 'optimizer\.learning_rate'"):
        parse(["--optimizer.learn_rate", "1e-3"])
    with pytest.raises(ConfigError, match="Known: "):
        parse(["--nonsense", "1"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"batch_size": 2.5}}, r"run\.batch_size is 2\.5; expected an integer"),
        ({"run": {"batch_size": True}}, r"run\.batch_size is True; expected an integer"),
        ({"run": {"batch_size": 0}}, r"run\.batch_size is 0; expected 1 to"),
        ({"data": {"fit": 3}}, r"data\.fit is 3; expected a text"),
        ({"data": {"fit": "squash"}}, r"'squash'; expected one of crop, pad"),
        ({"objective": {"alpha": [0.5]}}, r"expected a list of 2, each a number"),
        ({"objective": {"alpha": [1.0, 0.5]}}, r"\[lowest, highest\]"),
        ({"objective": {"drop_image": 0.7, "drop_both": 0.4}}, "must not exceed 1"),
        ({"run": 3}, r"run is 3; expected a section \[run\]"),
        ({"resampler": {"depht": 3}}, r"mean 'resampler\.depth'"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(values, message):
    with pytest.raises(ConfigError, match=message):
        c.from_mapping(values)


def test_the_command_line_changes_settings_in_every_spelling():
    config, _ = parse(
        ["--config", str(CONFIGS / "mini.toml"), "--set", "run.seed=7", "--run.output=a=b",
         "--data.folders", "12, b c", "--optimizer.learning_rate", "2e-5",
         "--objective.alpha", "0.2,1",
         "--preview.prompts", '["a, b", "c"]']
    )  # fmt: skip
    assert config.run.seed == 7
    assert config.run.output == "a=b"
    assert config.data.folders == ("12", "b c")
    assert config.optimizer.learning_rate == 2e-5
    assert config.objective.alpha == (0.2, 1.0)
    assert config.preview.prompts == ("a, b", "c")
    assert config.resampler.dim == 192  # from the file


def test_a_command_line_value_that_cannot_be_read_is_an_error():
    with pytest.raises(ConfigError, match=r"run\.seed: cannot read 'seven' as an integer"):
        parse(["--run.seed", "seven"])
    with pytest.raises(ConfigError, match="has no value"):
        parse(["--run.seed"])


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_print_config_reads_back_to_the_same_settings(name, tmp_path, capsys):
    assert main(["--config", str(CONFIGS / f"{name}.toml"), "--print-config"]) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    assert c.load_config(printed) == c.load_config(CONFIGS / f"{name}.toml")


def test_a_missing_or_broken_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*absent\.toml"):
        c.load_config(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        c.load_config(tmp_path / "broken.toml")


def test_the_papers_settings():
    config = c.load_config(CONFIGS / "paper.toml")
    adapter = AnimeSketchAdapter.from_unet(SD15, config.resampler, device="meta")
    assert sum(p.numel() for p in adapter.parameters()) == 49_087_488
    assert len(adapter.state_dict()) == 83
    assert config.run.max_steps == 100_000
    assert config.data.resolution == 512
    assert config.data.reference == "self"
    assert config.optimizer == c.OptimizerSettings(learning_rate=1e-4, weight_decay=0.01)
    assert config.objective == c.ObjectiveSettings(drop_image=0.05, drop_text=0.05, drop_both=0.05)


def test_main_prints_an_error_and_gives_2(capsys):
    assert main(["--run.batch", "3"]) == 2
    assert "Did you mean 'run.batch_size'?" in capsys.readouterr().err
