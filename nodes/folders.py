"""Where adapter files lie: models/animesketchnet, and models/ipadapter, which many already have."""

from __future__ import annotations

import os

import folder_paths

FOLDERS = ("animesketchnet", "ipadapter")
EXTENSIONS = frozenset({".safetensors", ".bin"})


def register_folders() -> None:
    """Tells ComfyUI of the two folders, keeping what extra_model_paths.yaml or a pack has added."""
    for name in FOLDERS:
        # A name that only extra_model_paths.yaml knows has an empty set here: any file at all.
        paths, extensions = folder_paths.folder_names_and_paths.get(name, ([], set()))
        default = os.path.join(folder_paths.models_dir, name)
        paths = [*paths, *([] if default in paths else [default])]
        folder_paths.folder_names_and_paths[name] = (paths, {*extensions, *EXTENSIONS})


def adapter_files() -> list[str]:
    """Lists the files of both folders, each name once."""
    return sorted({file for name in FOLDERS for file in folder_paths.get_filename_list(name)})


def adapter_path(file: str) -> str | None:
    """Finds a listed file; models/animesketchnet wins where both folders have the name."""
    paths = (folder_paths.get_full_path(name, file) for name in FOLDERS)
    return next((path for path in paths if path is not None), None)
