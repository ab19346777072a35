"""The node Load Mini Models: a whole small world that comes with the pack."""

from __future__ import annotations

import os
from pathlib import Path

from comfy_api.latest import io

from ..animesketchnet_core.mini import MINI_FOLDER, adapter_path
from ..animesketchnet_core.weight_file import read_adapter
from .folders import file_stamp
from .links import AnimeSketchNetType, LoadedAdapter
from .mini_models import load_clip, load_clip_vision, load_unet, load_vae
from .schema import schema

FOLDER_VARIABLE = "ANIMESKETCHNET_MINI"


class LoadMiniModels(io.ComfyNode):
    """Nothing in, everything out that a graph needs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetMiniLoader",
            display_name="Load Mini Models (no download)",
            category="AnimeSketchNet",
            description="Small models of SD v1.5's architecture that come with AnimeSketchNet and "
            "draw portraits of 128 x 128 pixels: try a graph before you download gigabytes.",
            search_aliases=["quickstart", "embedded", "tiny", "demo", "checkpoint"],
            inputs=[],
            outputs=[
                io.Model.Output("model", tooltip="For Apply AnimeSketchNet or a sampler."),
                io.Clip.Output("clip", tooltip="For CLIP Text Encode."),
                io.Vae.Output("vae", tooltip="For VAE Decode."),
                io.ClipVision.Output("clip_vision", tooltip="For Encode Sketch."),
                AnimeSketchNetType.Output("animesketchnet", tooltip="For Encode Sketch."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        """Changes when a file of the bundle does."""
        return " ".join(file_stamp(file) for file in sorted(mini_folder().rglob("*.*")))

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Builds the models out of ComfyUI's own classes."""
        folder = mini_folder()
        tensors, metadata = read_adapter(adapter_path(folder))
        return io.NodeOutput(
            load_unet(folder),
            load_clip(folder),
            load_vae(folder),
            load_clip_vision(folder),
            LoadedAdapter.from_tensors(tensors, metadata, "the mini adapter"),
        )


def mini_folder() -> Path:
    """Returns the bundle's folder; a variable names another, e.g. one that is being trained."""
    return Path(os.environ.get(FOLDER_VARIABLE, MINI_FOLDER))
