"""The pictures that the shipped workflows load."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path

import folder_paths

from ..animesketchnet_core.files import StorageError, write_atomically

_WORKFLOWS = Path(__file__).parents[1] / "workflows"


def offer_pictures() -> None:
    """Puts the pictures into ComfyUI's input folder, so that a template runs as it is opened.

    A file of the same name stays as it is. Where the folder cannot be written, ComfyUI starts all
    the same, and the log says what is missing.
    """
    folder = Path(folder_paths.get_input_directory())
    for picture in _WORKFLOWS.glob("animesketchnet_*.png"):
        if (folder / picture.name).exists():
            continue
        try:
            write_atomically(folder / picture.name, partial(shutil.copyfile, picture))
        except StorageError as error:
            logging.getLogger(__name__).warning("AnimeSketchNet's example pictures: %s", error)
