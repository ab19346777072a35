"""Load Sketch Encoder in a running ComfyUI: the encoder is missing, is put there, and is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_adapters import tiny_state

from animesketchnet_core.image_projection import PatchProjectionConfig
from comfyui_server import ComfyUIError, ComfyUIServer

GRAPH = {
    "1": {"class_type": "AnimeSketchNetLoader", "inputs": {"adapter_name": "h.safetensors"}},
    "2": {"class_type": "AnimeSketchNetEncoderLoader", "inputs": {"animesketchnet": ["1", 0]}},
    "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}},
}


def named(file: str) -> dict[str, dict]:
    inputs = {"animesketchnet": ["1", 0], "clip_vision_name": file}
    return {**GRAPH, "2": {**GRAPH["2"], "inputs": inputs}}


def vit_h() -> dict[str, torch.Tensor]:
    """As much of CLIP ViT-H/14 as ComfyUI's loader tells its size by."""
    embeddings = "vision_model.embeddings."
    layers = (f"vision_model.encoder.layers.{layer}.layer_norm1.weight" for layer in range(32))
    return {
        f"{embeddings}class_embedding": torch.zeros(1280),
        f"{embeddings}patch_embedding.weight": torch.zeros(1280, 3, 14, 14),
        f"{embeddings}position_embedding.weight": torch.zeros(257, 1280),
        **{key: torch.ones(1280) for key in layers},
    }


def test_a_download_is_found_without_a_restart(comfyui: ComfyUIServer) -> None:
    models: Path = comfyui.base / "models"  # type: ignore[attr-defined]
    adapters, encoders = models / "animesketchnet", models / "clip_vision"
    for folder in (adapters, encoders):
        folder.mkdir(parents=True, exist_ok=True)
    state = tiny_state(PatchProjectionConfig(embedding_dim=1280, output_dim=37))
    save_file(state, adapters / "h.safetensors")
    save_file({"x_lora_down.weight": torch.zeros(1)}, encoders / "l.safetensors")
    try:
        with pytest.raises(
            ComfyUIError, match=r"(?s)EncoderLoader.*input animesketchnet"
        ) as caught:
            comfyui.run(GRAPH)
        assert "l.safetensors: This is a LoRA, not an image encoder" in str(caught.value)
        assert "model.safetensors into ComfyUI/models/clip_vision" in str(caught.value)
        with pytest.raises(ComfyUIError, match=r"(?s)node 2.*l\.safetensors: This is a LoRA"):
            comfyui.submit(named("l.safetensors"))
        save_file(vit_h(), encoders / "anything.safetensors")
        [text] = comfyui.run(GRAPH)["outputs"]["3"]["text"]
        assert text.startswith("anything.safetensors: CLIP ViT-H/14 (32 layers")
        [text] = comfyui.run(named("anything.safetensors"))["outputs"]["3"]["text"]
        assert text.startswith("anything.safetensors: CLIP ViT-H/14")
    finally:
        for file in (adapters / "h.safetensors", *encoders.iterdir()):
            file.unlink()
