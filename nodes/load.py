"""The node Load AnimeSketchNet: a weight file from the model folders."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..animesketchnet_core.weight_file import check_adapter_file, read_adapter
from ..animesketchnet_core.weight_kinds import WHERE, WrongAdapterError
from .folders import adapter_files, adapter_path, file_stamp
from .links import AnimeSketchNetType, LoadedAdapter
from .schema import schema


class LoadAnimeSketchNet(io.ComfyNode):
    """File in, adapter out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetLoader",
            display_name="Load AnimeSketchNet",
            category="AnimeSketchNet",
            description="Loads a sketch adapter: AnimeSketchNet's own weights, or an IP-Adapter "
            "file (plain, Plus, Plus Face, Full Face) for SD v1.5 or SDXL.",
            search_aliases=["ip-adapter", "ipadapter", "adapter loader", "sketch"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_files(),
                    tooltip="A file of models/animesketchnet or models/ipadapter. What it is, is "
                    "read from its contents; its name does not matter.",
                ),
            ],
            outputs=[AnimeSketchNetType.Output("animesketchnet", tooltip="For Encode Sketch.")],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None) -> bool | str:
        """Looks into the file's header, so that a wrong file is named before anything runs."""
        if adapter_name is None:  # comes over a link, not known yet
            return True
        try:
            check_adapter_file(found_file(adapter_name))
        except (OSError, WrongAdapterError) as error:
            return f"Load AnimeSketchNet: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str) -> str:
        """Changes when the file does, so that a newer training run's weights are seen."""
        return file_stamp(found_file(adapter_name))

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        """Reads the file."""
        tensors, metadata = read_adapter(found_file(adapter_name))
        return io.NodeOutput(LoadedAdapter.from_tensors(tensors, metadata, adapter_name))


def found_file(adapter_name: str) -> Path:
    """Finds a file of the model folders.

    Raises:
        FileNotFoundError: no folder has it; says what there is, and where to get one.
    """
    path = adapter_path(adapter_name)
    if path is not None:
        return Path(path)
    listed = ", ".join(adapter_files()) or "no file at all"
    raise FileNotFoundError(
        f"{adapter_name!r} is not in models/animesketchnet or models/ipadapter, which have "
        f"{listed}. {WHERE}"
    )
