"""The nodes Save Sketch and Load Sketch: encoded sketches as files."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..animesketchnet_core.files import writing
from ..animesketchnet_core.sketch_file import SketchFile, SketchFileError, adapter_fingerprint
from .folders import SKETCHES, file_stamp, sketch_folder
from .links import AnimeSketchNetType, EncodedSketch, LoadedAdapter, SketchType
from .schema import schema


class SaveSketch(io.ComfyNode):
    """Encoded sketch in, file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetSaveSketch",
            display_name="Save Sketch",
            category="AnimeSketchNet",
            description="Saves an encoded sketch, so that it can be used again and shared without "
            "the picture and without CLIP.",
            search_aliases=["save embeds", "ipadapter embeds", "store", "export"],
            is_output_node=True,
            inputs=[
                SketchType.Input("sketch", tooltip="From Encode Sketch or Combine Sketches."),
                io.String.Input(
                    "filename_prefix",
                    default="sketch",
                    tooltip="Name of the file in output/animesketchnet; a number is added. May "
                    "hold folders, and %year%, %month%, %day%.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, sketch: EncodedSketch, filename_prefix: str) -> io.NodeOutput:
        """Writes the file."""
        with writing(Path(sketch_folder())):
            folder, name, counter, *_ = folder_paths.get_save_image_path(
                filename_prefix, sketch_folder()
            )
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        adapter = sketch.adapter
        fingerprint = adapter_fingerprint(adapter.patcher.model.state_dict())
        SketchFile(sketch.tokens, sketch.unconditional, fingerprint, adapter.name).write(path)
        shown = path.relative_to(Path(folder_paths.get_output_directory()).parent)
        return io.NodeOutput(ui=ui.PreviewText(f"Saved {shown}"))


class LoadSketch(io.ComfyNode):
    """File and adapter in, encoded sketch out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetLoadSketch",
            display_name="Load Sketch",
            category="AnimeSketchNet",
            description="Loads an encoded sketch that Save Sketch has written.",
            search_aliases=["load embeds", "ipadapter embeds", "import"],
            inputs=[
                AnimeSketchNetType.Input(
                    "animesketchnet", tooltip="The adapter that the sketch was encoded with."
                ),
                io.Combo.Input(
                    "sketch_name",
                    options=folder_paths.get_filename_list(SKETCHES),
                    tooltip="A file of output/animesketchnet.",
                ),
            ],
            outputs=[
                SketchType.Output(
                    "sketch", display_name="sketch", tooltip="For Apply AnimeSketchNet."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, sketch_name: str | None) -> bool | str:
        """Reads the file, which is small, so that a wrong one is named before anything runs."""
        if sketch_name is None:  # comes over a link, not known yet
            return True
        try:
            SketchFile.read(sketch_path(sketch_name))
        except (OSError, SketchFileError) as error:
            return f"Load Sketch: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, animesketchnet: LoadedAdapter, sketch_name: str) -> str:
        """Changes when the file does."""
        return file_stamp(sketch_path(sketch_name))

    @classmethod
    def execute(cls, animesketchnet: LoadedAdapter, sketch_name: str) -> io.NodeOutput:
        """Reads the file, if it is for this adapter."""
        stored = SketchFile.read(sketch_path(sketch_name))
        if stored.adapter != adapter_fingerprint(animesketchnet.patcher.model.state_dict()):
            raise SketchFileError(
                f"Load Sketch: {sketch_name} was encoded with {stored.adapter_name}, but the "
                f"input animesketchnet is {animesketchnet.name}, whose tokens mean other things. "
                "Load that adapter, or encode the sketch again with this one."
            )
        return io.NodeOutput(EncodedSketch(animesketchnet, stored.tokens, stored.unconditional))


def sketch_path(sketch_name: str) -> Path:
    """Finds a listed file.

    Raises:
        FileNotFoundError: there is no such file; says where it is looked for.
    """
    path = folder_paths.get_full_path(SKETCHES, sketch_name)
    if path is None:
        raise FileNotFoundError(
            f"{sketch_name!r} is not in {sketch_folder()}. Write it there with Save Sketch, or "
            "choose another file."
        )
    return Path(path)
