from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import UNetShape
from tests import tiny_world
from training import unet as u
from training.models import fingerprint

TOKENS = 7
RESAMPLER = ResamplerConfig(
    dim=34, depth=2, dim_head=13, heads=2, num_queries=5, embedding_dim=23,
    output_dim=tiny_world.TEXT_WIDTH, ff_mult=4,
)  # fmt: skip


@pytest.fixture
def unet():
    torch.manual_seed(3)
    return UNet2DConditionModel(**tiny_world.UNET).eval().requires_grad_(False)


@pytest.fixture
def adapter(unet):
    torch.manual_seed(4)
    adapter = AnimeSketchAdapter.from_unet(UNetShape.from_diffusers(unet.config), RESAMPLER)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter


def inputs(batch: int = 3, seed: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(batch, 4, 16, 16, generator=generator),
        "timesteps": torch.tensor([3, 500, 997])[:batch],
        "text": torch.randn(batch, 77, tiny_world.TEXT_WIDTH, generator=generator),
        "features": torch.randn(batch, TOKENS, 23, generator=generator),
    }


def test_alpha_0_is_the_unet_alone_and_more_is_not(unet, adapter):
    given = inputs()  # parity with diffusers' own IP-Adapter: test_diffusers_parity.py
    with torch.no_grad():
        without = unet(given["latents"], given["timesteps"], given["text"]).sample
        model = u.AdaptedUNet(unet, adapter)
        assert (model(**given, alpha=0.0) - without).abs().max() < 1e-5
        assert (model(**given, alpha=0.5) - without).abs().max() > 0.01


def test_each_sample_has_its_own_alpha(unet, adapter):
    given, alpha = inputs(), torch.tensor([0.0, 0.5, 1.0])
    model = u.AdaptedUNet(unet, adapter)
    with torch.no_grad():
        together = model(**given, alpha=alpha)
        for n in range(3):
            single = {name: value[n : n + 1] for name, value in given.items()}
            alone = model(**single, alpha=float(alpha[n]))
            assert (together[n] - alone[0]).abs().max() < 1e-5


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_adapter_tensor_learns_and_nothing_frozen_changes(unet, adapter, precision):
    unet.to(precision)
    frozen = fingerprint(unet)
    model = u.AdaptedUNet(unet, adapter)
    optimizer = torch.optim.AdamW(model.adapter.parameters(), lr=1e-3)
    noise = torch.randn(3, 4, 16, 16)
    predicted = model(**inputs(), alpha=torch.full((3,), 0.8), precision=precision)
    (predicted - noise).square().mean().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    optimizer.step()
    assert fingerprint(unet) == frozen
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_plain_products_equal_the_fused_kernel():
    q, k, v = (torch.randn(2, n, 6, dtype=torch.bfloat16) for n in (11, 13, 13))
    plain = u.multi_head_attention(q, k, v, 3).float()  # gradients are on
    with torch.no_grad():
        fused = u.multi_head_attention(q, k, v, 3).float()
    exact = F.scaled_dot_product_attention(
        *(x.float().unflatten(-1, (3, 2)).transpose(1, 2) for x in (q, k, v))
    )
    exact = exact.transpose(1, 2).flatten(2)
    assert (plain - exact).abs().max() < 0.03
    assert (fused - exact).abs().max() < 0.03


def test_installing_twice_changes_nothing_and_without_a_sketch_nothing_is_added(unet, adapter):
    given = inputs()
    with torch.no_grad():
        before = unet(given["latents"], given["timesteps"], given["text"]).sample
        u.install(unet)
        processors = list(unet.attn_processors.values())
        u.install(unet)
        assert list(unet.attn_processors.values()) == processors
        u.AdaptedUNet(unet, adapter)(**given, alpha=1.0)  # leaves nothing behind
        after = unet(given["latents"], given["timesteps"], given["text"]).sample
        assert (after - before).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:.*cpu.amp.autocast:FutureWarning")  # of torch 2.4's own doing
@pytest.mark.parametrize("blocks", u.CHECKPOINTED)
def test_checkpointing_changes_no_gradient(unet, adapter, blocks):
    def gradients() -> dict[str, torch.Tensor]:
        adapter.zero_grad()
        model(**inputs(), alpha=torch.full((3,), 0.8)).square().mean().backward()
        return {name: parameter.grad for name, parameter in adapter.named_parameters()}

    model = u.AdaptedUNet(unet, adapter)
    plain = gradients()
    calls = []
    unet.conv_in.register_forward_pre_hook(lambda *_: calls.append("whole"))
    for block in unet.down_blocks[0].attentions:
        block.transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append("block"))
    u.checkpoint_blocks(unet, blocks)
    for name, gradient in gradients().items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, plain[name], atol=1e-7, rtol=1e-4), name
    again = 1 if blocks == "none" else 2  # a checkpointed block is computed twice
    assert calls.count("block") == again * len(unet.down_blocks[0].attentions)
    assert calls.count("whole") == 1


def test_the_texts_projections_are_those_of_the_layer_table(unet, adapter):
    weights = u.text_keys_values(unet)
    assert sorted(weights) == [1, 3, 5, 7, 9, 11, 13]
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    assert weights[13][0] is layer.to_k.weight
    adapter.initialise_from_text(weights)
    assert torch.equal(adapter.ip_adapter["13"].to_v_ip.weight, layer.to_v.weight)
