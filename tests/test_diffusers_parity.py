"""Our adapter against diffusers' own `load_ip_adapter`, from one weight file.

Each kind of file, on UNets shaped as SD v1.5's, the mini model's and SDXL's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterFullImageProjection,
    IPAdapterPlusImageProjection,
)
from safetensors.torch import save_file
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.adapter_metadata import AdapterMetadata
from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.image_projection import (
    EmbeddingProjectionConfig,
    PatchProjectionConfig,
    ProjectionConfig,
)
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.unet_layers import UNetShape, cross_attention_layers
from animesketchnet_core.weight_file import read_adapter, write_adapter
from tests.tiny_adapters import randomise
from training.unet import AdaptedUNet, Sketch, install

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
# SDXL's: no attention on the finest level, deeper below, sizes and a pooled text embedding as well.
SDXL_SHAPED: dict[str, Any] = {
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "cross_attention_dim": 40,
    "attention_head_dim": (2, 4, 6),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 11,
    "norm_num_groups": 8,
    "sample_size": 16,
}
TINY_RESAMPLER = ResamplerConfig(
    dim=24, depth=4, heads=3, num_queries=5, embedding_dim=29, output_dim=40
)
TINY_PLAIN = EmbeddingProjectionConfig(embedding_dim=31, output_dim=40)  # diffusers: 4 tokens only
TINY_FULL_FACE = PatchProjectionConfig(embedding_dim=29, output_dim=40)

CASES = [
    pytest.param(SD15_SHAPED, TINY_RESAMPLER, 16, id="SD v1.5 shaped"),
    pytest.param(MINI_SHAPED, TINY_RESAMPLER, 17, id="mini shaped"),
    pytest.param(SD15_FULL, ResamplerConfig(), 8, id="SD v1.5", marks=pytest.mark.slow),
]


def random_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    torch.manual_seed(2)
    return UNet2DConditionModel(**config).eval().requires_grad_(False)


def random_file(unet: UNet2DConditionModel, config: ProjectionConfig, folder: Path) -> Path:
    """Writes a random adapter for the UNet, in float32: a Plus one as ours, the rest as theirs."""
    torch.manual_seed(3)
    adapter = AnimeSketchAdapter.from_unet(UNetShape.from_diffusers(unet.config), config)
    randomise(adapter)
    path = folder / "sketch.safetensors"
    if isinstance(config, ResamplerConfig):
        metadata = AdapterMetadata(num_tokens=config.num_queries, image_encoder="random")
        write_adapter(path, adapter.state_dict(), metadata, torch.float32)
    else:
        save_file(adapter.state_dict(), path)
    return path


def random_inputs(
    unet: UNet2DConditionModel, config: ProjectionConfig, side: int
) -> dict[str, Tensor]:
    torch.manual_seed(5)
    width = config.embedding_dim
    of_patches = config.reads is ImageFeatures.HIDDEN_STATES
    return {
        "latents": torch.randn(2, 4, side, side),
        "timesteps": torch.tensor([7, 701]),
        "text": torch.randn(2, 77, unet.config["cross_attention_dim"]),
        "features": torch.randn((2, 257, width) if of_patches else (2, width)),
    }


def load_in_diffusers(unet: UNet2DConditionModel, path: Path) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    none = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(), unet=unet, scheduler=scheduler, requires_safety_checker=False, **none
    )
    pipeline.load_ip_adapter(
        str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None
    )
    return pipeline


def sizes_and_pooled_text(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """What an SDXL UNet is given besides the text; other UNets ignore it."""
    torch.manual_seed(7)
    time_ids = torch.tensor([[64.0, 48, 3, 5, 64, 48]]).repeat(2, 1)
    width = unet.config["projection_class_embeddings_input_dim"] or 0
    return {"time_ids": time_ids, "text_embeds": torch.randn(2, max(0, width - 6 * 8))}


@torch.no_grad()
def predict_in_diffusers(
    pipeline: StableDiffusionPipeline, inputs: dict[str, Tensor], alpha: float
) -> Tensor:
    pipeline.set_ip_adapter_scale(alpha)
    image = {"image_embeds": [inputs["features"][:, None]]}
    return pipeline.unet(
        inputs["latents"],
        inputs["timesteps"],
        inputs["text"],
        added_cond_kwargs=image | sizes_and_pooled_text(pipeline.unet),
    ).sample


@torch.no_grad()
def predict_with_ours(
    unet: UNet2DConditionModel, adapter: AnimeSketchAdapter, inputs: dict[str, Tensor], alpha: float
) -> Tensor:
    """The core's tokens, K', V' and equation in diffusers' UNet, through our processor."""
    install(unet)
    keys_values = adapter.keys_values(adapter.tokens(inputs["features"]))
    return unet(
        inputs["latents"],
        inputs["timesteps"],
        inputs["text"],
        added_cond_kwargs=sizes_and_pooled_text(unet),
        cross_attention_kwargs=Sketch(keys_values, alpha).kwargs(),
    ).sample


KINDS = [
    pytest.param(SD15_SHAPED, TINY_PLAIN, ImageProjection, 16, id="SD, plain"),
    pytest.param(SD15_SHAPED, TINY_RESAMPLER, IPAdapterPlusImageProjection, 16, id="SD, Plus"),
    pytest.param(SD15_SHAPED, TINY_FULL_FACE, IPAdapterFullImageProjection, 16, id="SD, Full Face"),
    pytest.param(SDXL_SHAPED, TINY_PLAIN, ImageProjection, 28, id="SDXL, plain"),
    pytest.param(SDXL_SHAPED, TINY_RESAMPLER, IPAdapterPlusImageProjection, 28, id="SDXL, Plus"),
]


@pytest.mark.parametrize(("unet_config", "config", "their_class", "layers"), KINDS)
def test_every_kind_of_file_predicts_what_diffusers_predicts(
    tmp_path, unet_config, config, their_class, layers, record_property, capsys
):
    unet = random_unet(unet_config)
    path = random_file(unet, config, tmp_path)
    inputs = random_inputs(unet, config, 8)
    adapter = AnimeSketchAdapter.from_state_dict(read_adapter(path)[0])
    assert len(adapter.ip_adapter) == layers
    ours = {alpha: predict_with_ours(unet, adapter, inputs, alpha) for alpha in ALPHAS}
    with torch.no_grad():
        our_tokens = adapter.tokens(inputs["features"])

    unet.set_attn_processor(AttnProcessor2_0())
    pipeline = load_in_diffusers(unet, path)
    processors = [type(processor) for processor in unet.attn_processors.values()]
    assert processors.count(IPAdapterAttnProcessor2_0) == layers
    [projection] = unet.encoder_hid_proj.image_projection_layers
    assert type(projection) is their_class
    theirs = {alpha: predict_in_diffusers(pipeline, inputs, alpha) for alpha in ALPHAS}
    with torch.no_grad():
        their_tokens = projection(inputs["features"])

    differences = {f"alpha {a}": (ours[a] - theirs[a]).abs().max().item() for a in ALPHAS}
    differences["tokens"] = (our_tokens - their_tokens).abs().max().item()
    for name, difference in differences.items():
        record_property(name, difference)
    with capsys.disabled():
        print(f"\n  largest difference to diffusers, float32: {differences}")  # noqa: T201
    assert max(differences.values()) < LIMIT
    assert (ours[1.0] - ours[0.0]).abs().max() > 1000 * LIMIT  # or nothing was compared
    assert (ours[1.0] - ours[0.5]).abs().max() > 100 * LIMIT


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


@pytest.mark.parametrize(("unet_config", "config", "their_class", "layers"), KINDS)
def test_what_diffusers_holds_comes_back_as_the_file(
    tmp_path, unet_config, config, their_class, layers
):
    unet = random_unet(unet_config)
    path = random_file(unet, config, tmp_path)
    written, _ = read_adapter(path)
    load_in_diffusers(unet, path)
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    found, metadata = read_adapter(tmp_path / "unet.safetensors")
    assert metadata is None
    assert found.keys() == written.keys()
    assert all(torch.equal(found[key], written[key]) for key in written)


@pytest.mark.parametrize("config", [TINY_RESAMPLER, TINY_PLAIN, TINY_FULL_FACE])
def test_the_published_bin_layout_loads_in_both(tmp_path, config):
    unet = random_unet(SD15_SHAPED)
    written, _ = read_adapter(random_file(unet, config, tmp_path))
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in written.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    torch.save(parts, tmp_path / "sketch.bin")
    load_in_diffusers(unet, tmp_path / "sketch.bin")
    found, _ = read_adapter(tmp_path / "sketch.bin")
    assert all(torch.equal(found[key], written[key]) for key in written)
