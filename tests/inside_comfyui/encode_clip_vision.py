"""Run in ComfyUI's folder: encodes pictures with ComfyUI's own CLIP vision model.

python encode_clip_vision.py WEIGHTS.safetensors CONFIG.json IMAGES.safetensors OUT.safetensors

WEIGHTS is in transformers' or open_clip's layout; CONFIG "auto" lets ComfyUI tell the size itself.
"""

from __future__ import annotations

import sys

from comfy.cli_args import args
from safetensors.torch import load_file, save_file

args.cpu = True  # before comfy.model_management looks for a device

from comfy.clip_vision import (  # noqa: E402
    ClipVisionModel,
    convert_to_transformers,
    load_clipvision_from_sd,
)


def main(weights: str, config: str, images: str, out: str) -> None:
    sd = convert_to_transformers(load_file(weights), "visual.")
    if config == "auto":
        model = load_clipvision_from_sd(sd)
    else:
        model = ClipVisionModel(config)
        missing, unexpected = model.load_sd(sd)
        if missing or unexpected:
            raise KeyError(f"ComfyUI misses {missing} and does not know {unexpected}")
    encoded = model.encode_image(load_file(images)["images"])
    save_file({"penultimate": encoded["penultimate_hidden_states"].contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
