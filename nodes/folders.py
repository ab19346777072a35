"""Where the pack's files lie.

Adapters: models/animesketchnet, and models/ipadapter, which many already have. Sketch models:
models/animesketchnet_sketchers, and where comfyui_controlnet_aux keeps its download of netG.pth.
Image encoders: ComfyUI's own models/clip_vision.
Encoded sketches: output/animesketchnet, where Save Sketch puts them and Load Sketch lists them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import folder_paths

ADAPTERS = ("animesketchnet", "ipadapter")
ENCODERS = "clip_vision"
SKETCHERS = "animesketchnet_sketchers"
SKETCHES = "animesketchnet_sketches"


def register_folders() -> None:
    """Tells ComfyUI of the folders, keeping what extra_model_paths.yaml or a pack has added."""
    for name in ADAPTERS:
        _register(name, _in_models(name), {".safetensors", ".bin"})
    _register(SKETCHERS, _in_models(SKETCHERS), {".safetensors", ".bin", ".pth", ".pt"})
    _register(SKETCHES, sketch_folder(), {".safetensors"})


def file_stamp(path: Path) -> str:
    """What changes when a file does, for ComfyUI's cache of results.

    Copies bring their old time along, and weight files of one kind have one size: then the time of
    the change itself and the file's number tell.
    """
    status = path.stat()
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} {status.st_size}"


def _in_models(name: str) -> str:
    return os.path.join(folder_paths.models_dir, name)


def _register(name: str, default: str, extensions: Iterable[str]) -> None:
    # A name that only extra_model_paths.yaml knows has an empty set here: any file at all.
    paths, known = folder_paths.folder_names_and_paths.get(name, ([], set()))
    paths = [*paths, *([] if default in paths else [default])]
    folder_paths.folder_names_and_paths[name] = (paths, {*known, *extensions})


def adapter_files() -> list[str]:
    """Lists the files of both folders, each name once."""
    return sorted({file for name in ADAPTERS for file in folder_paths.get_filename_list(name)})


def adapter_path(file: str) -> str | None:
    """Finds a listed file; models/animesketchnet wins where both folders have the name."""
    paths = (folder_paths.get_full_path(name, file) for name in ADAPTERS)
    return next((path for path in paths if path is not None), None)


def encoder_files() -> list[str]:
    """Lists the files of models/clip_vision, whatever they hold."""
    return sorted(folder_paths.get_filename_list(ENCODERS))


def encoder_path(file: str) -> str | None:
    """Finds a listed image encoder."""
    return folder_paths.get_full_path(ENCODERS, file)


def sketch_folder() -> str:
    """The folder that encoded sketches are saved to."""
    return os.path.join(folder_paths.get_output_directory(), "animesketchnet")


CONTROLNET_AUX = "comfyui_controlnet_aux/netG.pth"  # as listed


def sketcher_files() -> list[str]:
    """Lists the sketch models, comfyui_controlnet_aux's download last."""
    files = list(folder_paths.get_filename_list(SKETCHERS))
    return [*files, *([CONTROLNET_AUX] if _controlnet_aux_path() else [])]


def sketcher_path(file: str) -> str | None:
    """Finds a listed sketch model."""
    if file == CONTROLNET_AUX:
        return _controlnet_aux_path()
    return folder_paths.get_full_path(SKETCHERS, file)


def _controlnet_aux_path() -> str | None:
    """Where comfyui_controlnet_aux's nodes download the file to, if they have."""
    packs = folder_paths.folder_names_and_paths.get("custom_nodes", ([], set()))[0]
    folders = [Path(pack, "comfyui_controlnet_aux", "ckpts") for pack in packs]
    elsewhere = os.environ.get("AUX_ANNOTATOR_CKPTS_PATH")  # that pack's own setting
    if elsewhere:
        folders.insert(0, Path(elsewhere))
    files = (folder / "lllyasviel" / "Annotators" / "netG.pth" for folder in folders)
    return next((str(file) for file in files if file.is_file()), None)
