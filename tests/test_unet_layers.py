import pytest
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from animesketchnet_core.unet_layers import (
    SD15,
    CrossAttentionLayer,
    UNetShape,
    cross_attention_layers,
)

SD15_DIFFUSERS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
}
SD15_COMFY = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
}
SDXL_DIFFUSERS = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
}
SDXL_COMFY = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
}


def test_sd15_has_the_sixteen_layers_of_the_published_files():
    layers = cross_attention_layers(SD15)
    assert [layer.index for layer in layers] == list(range(1, 32, 2))
    assert [layer.channels for layer in layers] == (
        [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
    )
    assert [layer.comfy[:2] for layer in layers] == (
        [("input", n) for n in (1, 2, 4, 5, 7, 8)]
        + [("output", n) for n in range(3, 12)]
        + [("middle", 0)]
    )
    assert layers[8] == CrossAttentionLayer(
        17, 1280, "up_blocks.1.attentions.2.transformer_blocks.0.attn2", ("output", 5, 0)
    )
    assert layers[-1].diffusers == "mid_block.attentions.0.transformer_blocks.0.attn2"


def test_both_configurations_of_sd15_give_the_same_shape():
    assert UNetShape.from_diffusers(SD15_DIFFUSERS) == SD15
    assert UNetShape.from_comfy(SD15_COMFY) == SD15


def test_sdxl_has_seventy_layers_under_the_same_rules():
    shape = UNetShape.from_diffusers(SDXL_DIFFUSERS)
    assert UNetShape.from_comfy(SDXL_COMFY) == shape
    layers = cross_attention_layers(shape)
    assert len(layers) == 70
    assert layers[0] == CrossAttentionLayer(
        1, 640, "down_blocks.1.attentions.0.transformer_blocks.0.attn2", ("input", 4, 0)
    )
    assert layers[4].comfy == ("input", 7, 0)
    assert layers[24] == CrossAttentionLayer(
        49, 1280, "up_blocks.0.attentions.0.transformer_blocks.0.attn2", ("output", 0, 0)
    )
    assert layers[-1] == CrossAttentionLayer(
        139, 1280, "mid_block.attentions.0.transformer_blocks.9.attn2", ("middle", 0, 9)
    )


@pytest.mark.parametrize("depth", [1, (1, 2, 3)])
def test_the_order_is_that_of_diffusers_attention_processors(depth):
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8, 12),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=depth,
        cross_attention_dim=7,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    processors = [name.removesuffix(".processor") for name in unet.attn_processors]
    layers = cross_attention_layers(UNetShape.from_diffusers(unet.config))
    assert [layer.diffusers for layer in layers] == [n for n in processors if n.endswith("attn2")]
    for layer in layers:
        # the index is the place among all processors, self-attention included
        assert processors.index(layer.diffusers) == layer.index
        assert unet.get_submodule(layer.diffusers).to_k.out_features == layer.channels


def test_a_shape_with_levels_that_do_not_match_is_refused():
    with pytest.raises(ValueError, match="each of the 2 levels"):
        UNetShape((4, 8), (1, 1), (1, 1, 0), 1, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up_block_types": ["UpBlock2D"] * 4}, "do not mirror"),
        ({"reverse_transformer_layers_per_block": [1, 2, 3, 4]}, "on the way up"),
        ({"cross_attention_dim": [768, 1024]}, r"several widths \[768, 1024\]"),
    ],
)
def test_other_diffusers_unets_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UNetShape.from_diffusers(SD15_DIFFUSERS | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer_depth": [1, 1, 1, 1, 1, 2, 0, 0]}, "differ within one UNet level"),
        ({"transformer_depth_output": [1] * 9 + [2] * 3}, "pruned"),
        ({"transformer_depth": [1, 1]}, "Expected 8 transformer depths"),
    ],
)
def test_other_comfy_unets_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UNetShape.from_comfy(SD15_COMFY | change)


def test_a_model_without_unet_configuration_is_refused_by_name_of_what_is_missing():
    with pytest.raises(ValueError, match="has no channel_mult, context_dim"):
        UNetShape.from_comfy({"image_model": "flux", "model_channels": 1})


def test_no_middle_attention_in_either_configuration():
    comfy = UNetShape.from_comfy(SD15_COMFY | {"transformer_depth_middle": -1})
    diffusers = UNetShape.from_diffusers(SD15_DIFFUSERS | {"mid_block_type": "UNetMidBlock2D"})
    assert comfy == diffusers
    assert len(cross_attention_layers(comfy)) == 15
