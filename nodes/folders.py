"""Where the pack's files lie.

Adapters: models/animesketchnet, and models/ipadapter, which many already have. Encoded sketches:
output/animesketchnet, where Save Sketch puts them and Load Sketch lists them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import folder_paths

ADAPTERS = ("animesketchnet", "ipadapter")
SKETCHES = "animesketchnet_sketches"


def register_folders() -> None:
    """Tells ComfyUI of the folders, keeping what extra_model_paths.yaml or a pack has added."""
    for name in ADAPTERS:
        _register(name, os.path.join(folder_paths.models_dir, name), {".safetensors", ".bin"})
    _register(SKETCHES, sketch_folder(), {".safetensors"})


def adapter_files() -> list[str]:
    """Lists the files of both folders, each name once."""
    return sorted({file for name in ADAPTERS for file in folder_paths.get_filename_list(name)})


def adapter_path(file: str) -> str | None:
    """Finds a listed file; models/animesketchnet wins where both folders have the name."""
    paths = (folder_paths.get_full_path(name, file) for name in ADAPTERS)
    return next((path for path in paths if path is not None), None)


def sketch_folder() -> str:
    """The folder that encoded sketches are saved to."""
    return os.path.join(folder_paths.get_output_directory(), "animesketchnet")


def _register(name: str, default: str, extensions: Iterable[str]) -> None:
    # A name that only extra_model_paths.yaml knows has an empty set here: any file at all.
    paths, known = folder_paths.folder_names_and_paths.get(name, ([], set()))
    paths = [*paths, *([] if default in paths else [default])]
    folder_paths.folder_names_and_paths[name] = (paths, {*known, *extensions})
