import pytest
import torch

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import SD15
from tests.tiny_adapters import TINY_RESAMPLER, TINY_UNET, tiny_adapter

TINY_WIDTHS = {1: 32, 3: 64, 5: 64, 7: 64, 9: 32, 11: 32, 13: 96}


def test_sd15_is_83_tensors_and_49_087_488_parameters():
    adapter = AnimeSketchAdapter.from_unet(SD15, ResamplerConfig(), device="meta")
    tensors = adapter.state_dict().values()
    assert len(tensors) == 83
    assert sum(tensor.numel() for tensor in tensors) == 49_087_488
    assert sum(p.numel() for p in adapter.ip_adapter.parameters()) == 19_169_280


def test_keys_are_those_of_the_weight_file():
    keys = tiny_adapter().state_dict().keys()
    assert {key for key in keys if key.startswith("ip_adapter.")} == {
        f"ip_adapter.{n}.to_{x}_ip.weight" for n in TINY_WIDTHS for x in "kv"
    }
    assert all(key.startswith(("image_proj.", "ip_adapter.")) for key in keys)


def test_keys_and_values_are_as_wide_as_each_layer():
    adapter = tiny_adapter()
    tokens = adapter.tokens(torch.randn(3, 23, 29))
    assert tokens.shape == (3, 5, 37)
    keys_values = adapter.keys_values(tokens)
    assert {n: key.shape for n, (key, _) in keys_values.items()} == {
        n: (3, 5, width) for n, width in TINY_WIDTHS.items()
    }
    key, value = keys_values[13]
    layer = adapter.ip_adapter["13"]
    torch.testing.assert_close(key, tokens @ layer.to_k_ip.weight.T)
    torch.testing.assert_close(value, tokens @ layer.to_v_ip.weight.T)


def test_a_state_dict_rebuilds_the_same_adapter():
    adapter = tiny_adapter()
    rebuilt = AnimeSketchAdapter.from_state_dict(adapter.state_dict())
    assert rebuilt.image_proj.config == TINY_RESAMPLER
    features = torch.randn(2, 23, 29)
    assert torch.equal(rebuilt.tokens(features), adapter.tokens(features))


def test_a_state_dict_in_half_precision_rebuilds_in_the_type_asked_for():
    half = {key: tensor.half() for key, tensor in tiny_adapter().state_dict().items()}
    same = AnimeSketchAdapter.from_state_dict(half)
    assert {p.dtype for p in same.parameters()} == {torch.float16}
    full = AnimeSketchAdapter.from_state_dict(half, dtype=torch.float32)
    assert {p.dtype for p in full.parameters()} == {torch.float32}


def test_initialise_from_text_copies_the_projections():
    adapter = tiny_adapter()
    text = {n: (torch.randn(c, 37), torch.randn(c, 37)) for n, c in TINY_WIDTHS.items()}
    adapter.initialise_from_text(text)
    assert torch.equal(adapter.ip_adapter["5"].to_k_ip.weight, text[5][0])
    assert torch.equal(adapter.ip_adapter["13"].to_v_ip.weight, text[13][1])
    assert adapter.ip_adapter["5"].to_k_ip.weight.requires_grad


def test_initialise_from_text_refuses_other_layers():
    with pytest.raises(KeyError, match="text projections were given for"):
        tiny_adapter().initialise_from_text({1: (torch.zeros(32, 37), torch.zeros(32, 37))})


def test_tokens_of_another_width_than_the_text_are_refused():
    with pytest.raises(ValueError, match=r"output_dim is 768.*width 37"):
        AnimeSketchAdapter.from_unet(TINY_UNET, ResamplerConfig())
