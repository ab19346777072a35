import pytest
import torch

from animesketchnet_core.adapter import AnimeSketchAdapter, sizes_of
from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.image_projection import (
    EmbeddingProjection,
    EmbeddingProjectionConfig,
    PatchProjection,
    PatchProjectionConfig,
    ProjectionConfig,
)
from animesketchnet_core.resampler import Resampler, ResamplerConfig
from animesketchnet_core.unet_layers import SD15, UNetShape
from tests.tiny_adapters import TINY_KINDS, TINY_UNET, tiny_adapter

TINY_WIDTHS = {1: 32, 3: 64, 5: 64, 7: 64, 9: 32, 11: 32, 13: 96}


def test_sd15_is_83_tensors_and_49_087_488_parameters():
    adapter = AnimeSketchAdapter.from_unet(SD15, ResamplerConfig(), device="meta")
    tensors = adapter.state_dict().values()
    assert len(tensors) == 83
    assert sum(tensor.numel() for tensor in tensors) == 49_087_488
    assert sum(p.numel() for p in adapter.ip_adapter.parameters()) == 19_169_280


SDXL = UNetShape((320, 640, 1280), (2, 2, 2), (0, 2, 10), 10, 2048)
# Tensors and parameters of tencent-ailab/IP-Adapter's own classes at these sizes.
PUBLISHED: dict[str, tuple[UNetShape, ProjectionConfig, int, int]] = {
    "ip-adapter_sd15": (SD15, EmbeddingProjectionConfig(), 36, 22_319_616),
    "ip-adapter-plus_sd15": (SD15, ResamplerConfig(), 83, 49_087_488),
    "ip-adapter-full-face_sd15": (SD15, PatchProjectionConfig(), 38, 21_794_304),
    "ip-adapter_sdxl_vit-h": (
        SDXL,
        EmbeddingProjectionConfig(output_dim=2048),
        144,
        349_188_096,
    ),
    "ip-adapter_sdxl": (
        SDXL,
        EmbeddingProjectionConfig(embedding_dim=1280, output_dim=2048),
        144,
        351_285_248,
    ),
    "ip-adapter-plus_sdxl_vit-h": (
        SDXL,
        ResamplerConfig(dim=1280, heads=20, output_dim=2048),
        191,
        423_748_864,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_have_these_sizes_and_tell_them(name):
    shape, projection, count, parameters = PUBLISHED[name]
    state_dict = AnimeSketchAdapter.from_unet(shape, projection, device="meta").state_dict()
    assert len(state_dict) == count
    assert sum(tensor.numel() for tensor in state_dict.values()) == parameters
    found, channels = sizes_of({key: tuple(tensor.shape) for key, tensor in state_dict.items()})
    assert found == projection
    assert len(channels) == (16 if shape is SD15 else 70)


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


@pytest.mark.parametrize(
    ("kind", "module", "reads", "features", "tokens"),
    [
        ("Plus", Resampler, ImageFeatures.HIDDEN_STATES, (2, 23, 29), (2, 5, 37)),
        ("plain", EmbeddingProjection, ImageFeatures.IMAGE_EMBEDDING, (2, 29), (2, 3, 37)),
        ("Full Face", PatchProjection, ImageFeatures.HIDDEN_STATES, (2, 23, 29), (2, 23, 37)),
    ],
)
def test_a_state_dict_rebuilds_the_same_adapter(kind, module, reads, features, tokens):
    adapter = tiny_adapter(TINY_KINDS[kind])
    rebuilt = AnimeSketchAdapter.from_state_dict(adapter.state_dict())
    assert rebuilt.image_proj.config == TINY_KINDS[kind]
    assert type(rebuilt.image_proj) is module
    assert rebuilt.reads is reads
    given = torch.randn(features)
    assert rebuilt.tokens(given).shape == tokens
    assert torch.equal(rebuilt.tokens(given), adapter.tokens(given))


def test_a_plain_projection_cuts_one_product_into_normed_tokens():
    plain = EmbeddingProjection(
        EmbeddingProjectionConfig(num_tokens=2, embedding_dim=1, output_dim=2)
    )
    with torch.no_grad():
        plain.proj.weight.copy_(torch.tensor([[1.0], [3.0], [5.0], [1.0]]))
        plain.proj.bias.zero_()
        plain.norm.bias.copy_(torch.tensor([0.0, 10.0]))
    tokens = plain(torch.tensor([[1.0], [-1.0]]))
    expected = torch.tensor([[[-1.0, 11.0], [1.0, 9.0]], [[1.0, 9.0], [-1.0, 11.0]]])
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-4)


def test_a_full_face_projection_treats_each_patch_alone():
    full = PatchProjection(PatchProjectionConfig(embedding_dim=3, output_dim=5))
    features = torch.randn(2, 7, 3)
    together = full(features)
    assert together.shape == (2, 7, 5)
    torch.testing.assert_close(together[:, 4:5], full(features[:, 4:5]))


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
