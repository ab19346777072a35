"""Our adapter against diffusers' own `load_ip_adapter`, from one weight file that we wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from safetensors.torch import save_file
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.adapter_metadata import AdapterMetadata
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import UNetShape, cross_attention_layers
from animesketchnet_core.weight_file import read_adapter, write_adapter
from tests.tiny_adapters import randomise
from training.unet import AdaptedUNet

LIMIT = 1e-4
ALPHAS = (0.0, 0.25, 0.5, 1.0)

# SD v1.5's four levels, two layers each, none at the bottom but the middle block: 16 layers.
SD15_SHAPED: dict[str, Any] = {
    "block_out_channels": (16, 32, 48, 48),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 40,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
}
MINI_SHAPED = SD15_SHAPED | {
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
    "attention_head_dim": (2, 4, 6),
}
SD15_FULL = SD15_SHAPED | {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "sample_size": 64,
}
TINY_RESAMPLER = ResamplerConfig(
    dim=24, depth=4, heads=3, num_queries=5, embedding_dim=29, output_dim=40
)

CASES = [
    pytest.param(SD15_SHAPED, TINY_RESAMPLER, 16, id="SD v1.5 shaped"),
    pytest.param(MINI_SHAPED, TINY_RESAMPLER, 17, id="mini shaped"),
    pytest.param(SD15_FULL, ResamplerConfig(), 8, id="SD v1.5", marks=pytest.mark.slow),
]


def random_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    torch.manual_seed(2)
    return UNet2DConditionModel(**config).eval().requires_grad_(False)


def random_file(unet: UNet2DConditionModel, config: ResamplerConfig, folder: Path) -> Path:
    """Writes a random adapter for the UNet, in float32."""
    torch.manual_seed(3)
    adapter = AnimeSketchAdapter.from_unet(UNetShape.from_diffusers(unet.config), config)
    randomise(adapter)
    metadata = AdapterMetadata(num_tokens=config.num_queries, image_encoder="random")
    path = folder / "sketch.safetensors"
    write_adapter(path, adapter.state_dict(), metadata, torch.float32)
    return path


def random_inputs(
    unet: UNet2DConditionModel, config: ResamplerConfig, side: int
) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {
        "latents": torch.randn(2, 4, side, side),
        "timesteps": torch.tensor([7, 701]),
        "text": torch.randn(2, 77, unet.config["cross_attention_dim"]),
        "features": torch.randn(2, 257, config.embedding_dim),
    }


def load_in_diffusers(unet: UNet2DConditionModel, path: Path) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    none = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    )
    pipeline = StableDiffusionPipeline(
        unet=unet, scheduler=scheduler, requires_safety_checker=False, **none
    )
    pipeline.load_ip_adapter(
        str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None
    )
    return pipeline


@torch.no_grad()
def predict_in_diffusers(
    pipeline: StableDiffusionPipeline, inputs: dict[str, Tensor], alpha: float
) -> Tensor:
    pipeline.set_ip_adapter_scale(alpha)
    return pipeline.unet(
        inputs["latents"],
        inputs["timesteps"],
        inputs["text"],
        added_cond_kwargs={"image_embeds": [inputs["features"][:, None]]},
    ).sample


@pytest.mark.parametrize(("unet_config", "config", "side"), CASES)
def test_the_unet_with_the_adapter_predicts_what_diffusers_predicts(
    tmp_path, unet_config, config, side, record_property, capsys
):
    unet = random_unet(unet_config)
    path = random_file(unet, config, tmp_path)
    inputs = random_inputs(unet, config, side)

    adapted = AdaptedUNet(unet, AnimeSketchAdapter.from_state_dict(read_adapter(path)[0]))
    with torch.no_grad():
        ours = {alpha: adapted(**inputs, alpha=alpha) for alpha in ALPHAS}
        our_tokens = adapted.adapter.tokens(inputs["features"])

    unet.set_attn_processor(AttnProcessor2_0())
    pipeline = load_in_diffusers(unet, path)
    processors = [type(processor) for processor in unet.attn_processors.values()]
    assert processors.count(IPAdapterAttnProcessor2_0) == len(adapted.adapter.ip_adapter)
    theirs = {alpha: predict_in_diffusers(pipeline, inputs, alpha) for alpha in ALPHAS}
    with torch.no_grad():
        [their_tokens] = unet.encoder_hid_proj([inputs["features"][:, None]])

    differences = {f"alpha {a}": (ours[a] - theirs[a]).abs().max().item() for a in ALPHAS}
    differences["tokens"] = (our_tokens - their_tokens[:, 0]).abs().max().item()
    for name, difference in differences.items():
        record_property(name, difference)
    with capsys.disabled():
        print(f"\n  largest difference to diffusers, float32: {differences}")  # noqa: T201
    assert max(differences.values()) < LIMIT
    # The sketch changes the prediction a thousand times more than that, or nothing was compared.
    assert (ours[1.0] - ours[0.0]).abs().max() > 1000 * LIMIT or unet_config is SD15_FULL
    assert (ours[1.0] - ours[0.0]).abs().max() > 10 * LIMIT


def test_every_layer_takes_part(tmp_path):
    """With K', V' of one layer silenced both change alike, layer by layer."""
    unet = random_unet(SD15_SHAPED)
    path = random_file(unet, TINY_RESAMPLER, tmp_path)
    inputs = {name: x[:1] for name, x in random_inputs(unet, TINY_RESAMPLER, 8).items()}
    state = read_adapter(path)[0]
    adapted = AdaptedUNet(unet, AnimeSketchAdapter.from_state_dict(state))
    layers = cross_attention_layers(UNetShape.from_diffusers(unet.config))
    assert len(layers) == 16
    with torch.no_grad():
        whole = adapted(**inputs, alpha=1.0)
        for layer in layers:
            adapted.adapter.load_state_dict(state)
            adapted.adapter.ip_adapter[str(layer.index)].to_v_ip.weight.zero_()
            assert (adapted(**inputs, alpha=1.0) - whole).abs().max() > LIMIT, layer


def test_what_diffusers_holds_comes_back_as_our_file(tmp_path):
    unet = random_unet(SD15_SHAPED)
    path = random_file(unet, TINY_RESAMPLER, tmp_path)
    written, _ = read_adapter(path)
    load_in_diffusers(unet, path)
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    found, metadata = read_adapter(tmp_path / "unet.safetensors")
    assert metadata is None
    assert found.keys() == written.keys()
    assert all(torch.equal(found[key], written[key]) for key in written)


def test_the_published_bin_layout_loads_in_both(tmp_path):
    unet = random_unet(SD15_SHAPED)
    written, _ = read_adapter(random_file(unet, TINY_RESAMPLER, tmp_path))
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in written.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    torch.save(parts, tmp_path / "sketch.bin")
    load_in_diffusers(unet, tmp_path / "sketch.bin")
    found, _ = read_adapter(tmp_path / "sketch.bin")
    assert all(torch.equal(found[key], written[key]) for key in written)
