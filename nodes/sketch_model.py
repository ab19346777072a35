"""The node Load Sketch Model: Anime2Sketch's generator, for Sketch from Image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.anime2sketch import draw_with, seen_size
from ..animesketchnet_core.anime2sketch_file import (
    WHERE,
    WrongSketcherError,
    check_anime2sketch,
    read_anime2sketch,
)
from ..animesketchnet_core.anime2sketch_strips import memory_needed
from ..animesketchnet_core.progress import OnProgress
from .folders import file_stamp, sketcher_files, sketcher_path
from .links import Patcher
from .memory import first_that_fits
from .schema import schema

SketchModelType = io.Custom("ANIMESKETCHNET_SKETCHER")


@dataclass(frozen=True, eq=False)
class LoadedSketchModel:
    """A generator in ComfyUI's care (link type ANIMESKETCHNET_SKETCHER).

    Attributes:
        patcher: ComfyUI's handle on the generator, which moves its weights between devices.
    """

    patcher: Any

    def draw(self, image: Tensor, resolution: int, on_progress: OnProgress) -> Tensor:
        """Draws pictures [b, h, w, c] within the memory that is free, or as little as can be."""
        device = self.patcher.load_device
        height, width = seen_size(image.shape[1], image.shape[2], resolution)
        wanted = memory_needed(height, width, streamed=0)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=wanted)
        free = comfy.model_management.get_free_memory(device)

        def draw(memory: int) -> Tensor:
            return draw_with(
                self.patcher.model,
                image,
                resolution=resolution,
                memory=memory,
                device=device,
                on_progress=on_progress,
            )

        return first_that_fits(lambda: draw(int(0.7 * free)), lambda: draw(0))


class LoadSketchModel(io.ComfyNode):
    """File in, generator out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetSketchModelLoader",
            display_name="Load Sketch Model",
            category="AnimeSketchNet",
            description="Loads Anime2Sketch's generator (netG.pth), which Sketch from Image needs "
            "for its method neural.",
            search_aliases=["anime2sketch", "netG", "line art model", "lineart anime"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=sketcher_files(),
                    tooltip="A file of models/animesketchnet_sketchers (netG.pth, or the same as "
                    "safetensors), or the one that comfyui_controlnet_aux has downloaded. What it "
                    "is, is read from its contents; its name does not matter.",
                ),
            ],
            outputs=[
                SketchModelType.Output("sketch_model", tooltip="For Sketch from Image."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        """Looks into the file's header, so that a wrong file is named before anything runs."""
        if model_name is None:  # comes over a link, not known yet
            return True
        try:
            path = found_sketcher(model_name)
            check_anime2sketch(path)
        except WrongSketcherError as error:
            return f"Load Sketch Model: {model_name}: {error}"
        except OSError as error:
            return f"Load Sketch Model: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str) -> str:
        """Changes when the file does."""
        return file_stamp(found_sketcher(model_name))

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        """Reads the file."""
        load_device = comfy.model_management.get_torch_device()
        offload_device = comfy.model_management.unet_offload_device()
        path = found_sketcher(model_name)
        try:
            net = read_anime2sketch(path, operations=comfy.ops.manual_cast, device=offload_device)
        except WrongSketcherError as error:
            raise WrongSketcherError(f"Load Sketch Model: {model_name}: {error}") from error
        patcher = Patcher(net, load_device=load_device, offload_device=offload_device)
        return io.NodeOutput(LoadedSketchModel(patcher))


def found_sketcher(model_name: str) -> Path:
    """Finds a listed sketch model.

    Raises:
        FileNotFoundError: it is not there; says what there is, and where to get one.
    """
    path = sketcher_path(model_name)
    if path is not None:
        return Path(path)
    listed = ", ".join(sketcher_files()) or "no file at all"
    raise FileNotFoundError(
        f"{model_name!r} is not in models/animesketchnet_sketchers, which has {listed}. {WHERE}"
    )
