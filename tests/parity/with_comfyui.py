"""Draws latents with ComfyUI and our nodes: `python with_comfyui.py FOLDER`, in ComfyUI's folder.

Reads the folder's weights and inputs.safetensors, writes comfyui.safetensors (see ../parity.py).
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

FOLDER, ROOT = Path(sys.argv[1]), Path(__file__).resolve().parents[2]
sys.path[0] = str(Path.cwd())  # ComfyUI's modules, not this file's neighbours

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.clip_vision  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
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
    """SD v1.5 and ViT-H by ComfyUI's own loaders, which know sizes; others by our mini loader."""
    if (FOLDER / "text_encoder").exists():
        model, _, _, clip_vision, adapter = nodes["AnimeSketchNetMiniLoader"].execute().args
        return model, clip_vision, adapter
    folder_paths.folder_names_and_paths["animesketchnet"] = ([str(FOLDER)], {".safetensors"})
    model = comfy.sd.load_diffusion_model(str(FOLDER / "unet" / "model.safetensors"))
    clip_vision = comfy.clip_vision.load(str(FOLDER / "image_encoder" / "model.safetensors"))
    adapter = nodes["AnimeSketchNetLoader"].execute("adapter.safetensors").args[0]
    return model, clip_vision, adapter


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
            [[given["positive"], {}]],
            [[given["negative"], {}]],
            torch.zeros_like(given["noise"]),
            seed=1,
        )
        drawn[f"{alpha:g}"] = model.model.process_latent_in(latents).contiguous()
    save_file(drawn, FOLDER / "comfyui.safetensors")


main()
