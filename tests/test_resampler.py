import pytest
import torch
from torch import nn

from animesketchnet_core.resampler import Resampler, ResamplerConfig

PRIMES = ResamplerConfig(
    dim=11, depth=2, dim_head=7, heads=3, num_queries=5, embedding_dim=13, output_dim=17, ff_mult=2
)


def test_tokens_have_the_configured_shape():
    assert Resampler(PRIMES)(torch.randn(19, 23, 13)).shape == (19, 5, 17)


def test_sd15_has_the_published_number_of_parameters():
    resampler = Resampler(ResamplerConfig(), device="meta")
    assert sum(p.numel() for p in resampler.parameters()) == 29_918_208


def test_parameter_names_and_shapes_are_those_of_the_weight_file():
    layer = {
        "0.norm1.weight": (11,),
        "0.norm1.bias": (11,),
        "0.norm2.weight": (11,),
        "0.norm2.bias": (11,),
        "0.to_q.weight": (21, 11),
        "0.to_kv.weight": (42, 11),
        "0.to_out.weight": (11, 21),
        "1.0.weight": (11,),
        "1.0.bias": (11,),
        "1.1.weight": (22, 11),
        "1.3.weight": (11, 22),
    }
    expected = {
        "latents": (1, 5, 11),
        "proj_in.weight": (11, 13),
        "proj_in.bias": (11,),
        "proj_out.weight": (17, 11),
        "proj_out.bias": (17,),
        "norm_out.weight": (17,),
        "norm_out.bias": (17,),
    } | {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    state_dict = Resampler(PRIMES).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state_dict.items()} == expected


def test_one_layer_by_hand():
    """Equal attention: the latent (5, 2) reads the mean of three normed vectors.

    The norm of (a, b) is (1, -1) for a > b and (-1, 1) otherwise; features (3, 1), (0, 4) and the
    latent itself average to (1/3, -1/3), so the latent becomes (16/3, 5/3). proj_out makes it
    (16/3, 5/3, 0), whose mean is 7/3 and variance 134/27.
    """
    config = ResamplerConfig(
        dim=2, depth=1, dim_head=2, heads=1, num_queries=1, embedding_dim=2, output_dim=3, ff_mult=1
    )
    resampler = Resampler(config)
    attention, ff = resampler.layers[0]
    weights = {
        resampler.latents: [[[5, 2]]],
        resampler.proj_in.weight: [[1, 0], [0, 1]],
        resampler.proj_in.bias: [0, 0],
        resampler.proj_out.weight: [[1, 0], [0, 1], [0, 0]],
        resampler.proj_out.bias: [0, 0, 0],
        attention.to_q.weight: [[0, 0], [0, 0]],
        attention.to_kv.weight: [[0, 0], [0, 0], [1, 0], [0, 1]],
        attention.to_out.weight: [[1, 0], [0, 1]],
        ff[3].weight: [[0, 0], [0, 0]],
    }
    with torch.no_grad():
        for parameter, value in weights.items():
            parameter.copy_(torch.tensor(value))
    tokens = resampler(torch.tensor([[[3.0, 1.0], [0.0, 4.0]]]))
    expected = torch.tensor([[[3.0, -2 / 3, -7 / 3]]]) / (134 / 27) ** 0.5
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=0)


def test_the_order_of_the_features_does_not_matter():
    resampler = Resampler(PRIMES)
    features = torch.randn(2, 23, 13)
    torch.testing.assert_close(resampler(features), resampler(features.flip(1)))


def test_one_sample_does_not_see_another():
    resampler = Resampler(PRIMES)
    features = torch.randn(3, 23, 13)
    torch.testing.assert_close(resampler(features)[1:2], resampler(features[1:2]))


class CastingOperations:
    """Layers that cast their weights to the input's type, as comfy.ops.manual_cast does."""

    class Linear(nn.Linear):
        def forward(self, x):
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return nn.functional.linear(x, self.weight.to(x.dtype), bias)

    class LayerNorm(nn.LayerNorm):
        def forward(self, x):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return nn.functional.layer_norm(x, self.normalized_shape, weight, bias)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_weights_serve_float32_features(stored):
    half = Resampler(PRIMES, operations=CastingOperations, dtype=stored)
    full = Resampler(PRIMES)
    full.load_state_dict(half.state_dict())
    features = torch.randn(2, 23, 13)
    tokens = half(features)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, full(features))


def test_every_parameter_learns_under_autocast():
    resampler = Resampler(PRIMES)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = resampler(torch.randn(2, 23, 13).bfloat16())
    tokens.float().pow(3).sum().backward()
    for name, parameter in resampler.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
