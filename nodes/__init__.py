"""The pack's nodes: the one list of them, and what has to be known before any of them runs."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyAnimeSketchNet
from .clean_sketch import CleanSketch
from .encode import EncodeSketch
from .folders import register_folders
from .load import LoadAnimeSketchNet
from .mini_loader import LoadMiniModels
from .sketch_from_image import SketchFromImage
from .sketch_model import LoadSketchModel

register_folders()


class AnimeSketchNetExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Lists the node classes; their ids are in the workflows that people saved, for good."""
        return [
            LoadAnimeSketchNet,
            EncodeSketch,
            ApplyAnimeSketchNet,
            SketchFromImage,
            LoadSketchModel,
            CleanSketch,
            LoadMiniModels,
        ]
