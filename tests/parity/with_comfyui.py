"""Draws latents with ComfyUI and our nodes: `python with_comfyui.py FOLDER`, in ComfyUI's folder.

Reads the folder's weights and inputs.safetensors, writes comfyui.safetensors (see ../parity.py).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

FOLDER, ROOT = Path(sys.argv[1]), Path(__file__).resolve().parents[2]
sys.path[0] = str(Path.cwd())  # ComfyUI's modules, not this file's neighbours

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.clip_vision  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

torch.set_num_threads(1)


def load_pack():
    name = "/custom_nodes/AnimeSketchNet"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
    sys.modules[name] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    extension = asyncio.run(pack.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in nodes}


def load_models(nodes):
    """SD v1.5 and ViT-H by ComfyUI's own loaders, which know sizes; others are put together."""
    if (FOLDER / "text_encoder").exists():
        model, _, _, clip_vision, adapter = nodes["AnimeSketchNetMiniLoader"].execute().args
        return model, clip_vision, adapter
    folder_paths.folder_names_and_paths["animesketchnet"] = ([str(FOLDER)], {".safetensors"})
    adapter = nodes["AnimeSketchNetLoader"].execute("adapter.safetensors").args[0]
    if (FOLDER / "comfyui_shape.json").exists():
        return load_narrow_sdxl(), load_clip_vision(), adapter
    model = comfy.sd.load_diffusion_model(str(FOLDER / "unet" / "model.safetensors"))
    clip_vision = comfy.clip_vision.load(str(FOLDER / "image_encoder" / "model.safetensors"))
    return model, clip_vision, adapter


def load_narrow_sdxl():
    """SDXL's classes with the configuration that ComfyUI itself reads off the weights."""
    weights = load_file(FOLDER / "unet" / "model.safetensors")
    shape = json.loads((FOLDER / "comfyui_shape.json").read_text())
    names = comfy.utils.unet_to_diffusers(shape)
    renamed = {names[key]: tensor.float() for key, tensor in weights.items()}
    found = comfy.model_detection.detect_unet_config(renamed, "")
    assert shape.items() <= found.items(), found
    config = comfy.supported_models.SDXL(found)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    model.diffusion_model.load_state_dict(renamed)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def load_clip_vision():
    config = FOLDER / "image_encoder" / "config.json"
    clip_vision = comfy.clip_vision.ClipVisionModel(str(config))
    missing, unexpected = clip_vision.load_sd(
        load_file(FOLDER / "image_encoder" / "model.safetensors")
    )
    assert not missing, missing
    assert not unexpected, unexpected
    return clip_vision


def conditioning(given, side):
    return [[given[side], {"pooled_output": given[f"{side}_pooled"]}]]


@torch.inference_mode()
def main() -> None:
    nodes = load_pack()
    given = load_file(FOLDER / "inputs.safetensors")
    model, clip_vision, adapter = load_models(nodes)
    sketch = nodes["AnimeSketchNetEncode"].execute(adapter, clip_vision, given["picture"]).args[0]
    drawn = {}
    for alpha in given["alphas"].tolist():
        patched = nodes["AnimeSketchNetApply"].execute(model, sketch, alpha, 0.0, 1.0).args[0]
        latents = comfy.sample.sample(
            patched,
            given["noise"],
            int(given["steps"]),
            float(given["guidance"]),
            "ddim",
            "ddim_uniform",
            conditioning(given, "positive"),
            conditioning(given, "negative"),
            torch.zeros_like(given["noise"]),
            seed=1,
        )
        drawn[f"{alpha:g}"] = model.model.process_latent_in(latents).contiguous()
    save_file(drawn, FOLDER / "comfyui.safetensors")


main()
