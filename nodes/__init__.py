"""The pack's nodes: the one list of them, and what has to be known before any of them runs."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .alpha_over_layers import AlphaOverLayers
from .alpha_over_steps import AlphaOverSteps
from .apply import ApplyAnimeSketchNet
from .attention_map import AttentionMap
from .clean_sketch import CleanSketch
from .combine import CombineSketches
from .compare import CompareSketches
from .encode import EncodeSketch
from .encoder_loader import LoadSketchEncoder
from .example_pictures import offer_pictures
from .folders import register_folders
from .info import AdapterInfo
from .load import LoadAnimeSketchNet
from .mini_loader import LoadMiniModels
from .prompt import SketchPrompt
from .score import ScorePicture
from .sketch_files import LoadSketch, SaveSketch
from .sketch_from_image import SketchFromImage
from .sketch_model import LoadSketchModel
from .sweep import AlphaSweep

register_folders()
offer_pictures()


class AnimeSketchNetExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Lists the node classes; their ids are in the workflows that people saved, for good."""
        return [
            LoadAnimeSketchNet,
            LoadSketchEncoder,
            EncodeSketch,
            ApplyAnimeSketchNet,
            AlphaOverSteps,
            AlphaOverLayers,
            CombineSketches,
            SketchFromImage,
            SketchPrompt,
            SaveSketch,
            LoadSketch,
            AlphaSweep,
            AttentionMap,
            CompareSketches,
            ScorePicture,
            AdapterInfo,
            LoadSketchModel,
            CleanSketch,
            LoadMiniModels,
        ]
