"""Draws latents with diffusers' own pipeline and IP-Adapter: `python with_diffusers.py FOLDER`.

Reads the folder's weights and inputs.safetensors, writes diffusers.safetensors (see ../parity.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

FOLDER = Path(sys.argv[1])
torch.set_num_threads(1)


def load_part(name: str, model_class: Any, config_class: Any = dict) -> torch.nn.Module:
    config = json.loads((FOLDER / name / "config.json").read_text())
    made = config_class(**config)
    model = model_class.from_config(config) if config_class is dict else model_class(made)
    weights = load_file(FOLDER / name / "model.safetensors")
    model.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    return model.eval()


Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


def load_pipeline(size: int) -> Pipeline:
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,  # ComfyUI's last step goes to no noise at all
    )
    crop = {"height": size, "width": size}
    unet = load_part("unet", UNet2DConditionModel)
    is_sdxl = unet.config.addition_embed_type == "text_time"
    absent = {"safety_checker": None, "requires_safety_checker": False}
    if is_sdxl:
        absent = {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    pipeline = (StableDiffusionXLPipeline if is_sdxl else StableDiffusionPipeline)(
        unet=unet,
        image_encoder=load_part("image_encoder", CLIPVisionModelWithProjection, CLIPVisionConfig),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": size}, crop_size=crop),
        scheduler=scheduler,
        vae=None,
        text_encoder=None,
        tokenizer=None,
        **absent,
    )
    pipeline.load_ip_adapter(
        str(FOLDER), subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None
    )
    return pipeline


def pooled_text(pipeline: Pipeline, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What SDXL is given besides the text's tokens."""
    if isinstance(pipeline, StableDiffusionPipeline):
        return {}
    return {
        "pooled_prompt_embeds": given["positive_pooled"],
        "negative_pooled_prompt_embeds": given["negative_pooled"],
    }


@torch.inference_mode()
def main() -> None:
    given = load_file(FOLDER / "inputs.safetensors")
    size = given["picture"].shape[1]
    pipeline = load_pipeline(size)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray((given["picture"][0] * 255).round().byte().numpy())
    steps = int(given["steps"])
    signal = pipeline.scheduler.alphas_cumprod[1000 // steps * (steps - 1) + 1]
    start = given["noise"] * (1 - signal).sqrt()  # as ComfyUI starts at the first step's sigma
    drawn = {}
    for alpha in given["alphas"].tolist():
        pipeline.set_ip_adapter_scale(alpha)
        drawn[f"{alpha:g}"] = pipeline(
            prompt_embeds=given["positive"],
            negative_prompt_embeds=given["negative"],
            **pooled_text(pipeline, given),
            ip_adapter_image=picture,
            latents=start.clone(),
            num_inference_steps=steps,
            guidance_scale=float(given["guidance"]),
            height=8 * start.shape[2],
            width=8 * start.shape[3],
            output_type="latent",
            return_dict=False,
        )[0].contiguous()
    save_file(drawn, FOLDER / "diffusers.safetensors")


main()
