"""Alpha over the layers: names, beginnings of names, presets."""

from __future__ import annotations

import pytest

from animesketchnet_core.layer_alphas import PRESETS, LayerAlphas, layer_name
from animesketchnet_core.unet_layers import SD15, UNetShape, cross_attention_layers

SDXL = UNetShape(  # stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
    block_out_channels=(320, 640, 1280),
    layers_per_block=(2, 2, 2),
    transformer_depth=(0, 2, 10),
    mid_depth=10,
    cross_attention_dim=2048,
)
SD15_LAYERS = cross_attention_layers(SD15)
SDXL_LAYERS = cross_attention_layers(SDXL)


def factors(text: str, layers=SD15_LAYERS, preset: str = "all") -> dict[str, float]:
    by_index = LayerAlphas.from_text(text, preset).by_index(layers)
    return {layer_name(layer): by_index[layer.index] for layer in layers}


def test_layers_are_named_by_their_place():
    names = [layer_name(layer) for layer in SD15_LAYERS]
    assert names[:3] == ["down.0.0.0", "down.0.1.0", "down.1.0.0"]
    assert names[-1] == "mid.0"
    assert names[6] == "up.1.0.0"  # the first up block of SD v1.5 has no attention
    assert len(set(names)) == 16
    assert "down.2.1.9" in {layer_name(layer) for layer in SDXL_LAYERS}


def test_the_beginning_of_a_name_stands_for_all_that_begin_so():
    found = factors("down:0, down.2:0.5, mid:2")
    assert found["down.0.1.0"] == 0
    assert found["down.2.0.0"] == found["down.2.1.0"] == 0.5
    assert found["mid.0"] == 2
    assert found["up.3.2.0"] == 1


def test_a_number_is_not_the_beginning_of_another():
    found = factors("down.2.1.1:0", SDXL_LAYERS)
    assert found["down.2.1.1"] == 0
    assert found["down.2.1.0"] == 1
    many = factors("mid.1:0", SDXL_LAYERS)
    assert many["mid.1"] == 0
    assert many["mid.0"] == 1


def test_a_later_entry_wins():
    assert factors("mid:0, all:0.3")["mid.0"] == 0.3
    assert factors("all:0.3, mid:0")["mid.0"] == 0


def test_entries_change_the_preset():
    plain, changed = factors("", preset="composition"), factors("mid:0.7", preset="composition")
    assert changed.pop("mid.0") == 0.7
    plain.pop("mid.0")
    assert changed == plain


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "all"])
@pytest.mark.parametrize("layers", [SD15_LAYERS, SDXL_LAYERS], ids=["SD v1.5", "SDXL"])
def test_a_preset_leaves_some_layers_and_stills_others(preset: str, layers):
    values = factors("", layers, preset).values()
    assert max(values) == 1
    assert min(values) == 0


def test_style_and_composition_share_no_layer_at_full_strength():
    for layers in (SD15_LAYERS, SDXL_LAYERS):
        style, composition = (factors("", layers, name) for name in ("style", "composition"))
        assert not {n for n in style if style[n] == 1} & {n for n in composition if composition[n]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("down", r"'down' is no entry.*name:factor"),
        ("down:much", r"'down:much' is no entry"),
        ("down:-1", r"gives down the factor -1"),
        ("down:nan", r"gives down the factor nan"),
        ("mid:9", r"gives mid the factor 9; it must be 0 to 4"),
    ],
)
def test_a_wrong_text_is_named(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        LayerAlphas.from_text(text)


def test_a_layer_that_the_model_lacks_is_named_with_those_that_it_has():
    with pytest.raises(ValueError, match=r"'down.3'.*It has down.0.0, down.0.1.*up.3.2, mid"):
        factors("down.3:1")


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"'styles'.*all, style"):
        LayerAlphas.from_text("", "styles")
