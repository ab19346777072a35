"""Works on pictures one by one, so that it can be watched and stopped, and shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ui
from torch import Tensor

from ..animesketchnet_core.files import writing
from ..animesketchnet_core.progress import OnProgress

STEPS = 1000  # of the progress bar, for each picture


def picture_by_picture(image: Tensor, work: Callable[[Tensor, OnProgress], Tensor]) -> Tensor:
    """Calls work for each picture, on the device where ComfyUI computes.

    Args:
        image: pictures [b, h, w, c].
        work: gets a picture [1, h, w, c] and what to call with (done, total) in between; gives
            [1, h, w, 3].

    Returns:
        Pictures [b, h, w, 3], where the batch lies.
    """
    device = comfy.model_management.get_torch_device()
    show = stoppable_bar(len(image))
    results = []
    for number, picture in enumerate(image.split(1)):

        def on_progress(done: int, total: int, number: int = number) -> None:
            show(number + done / total)

        on_progress(0, 1)
        results.append(work(picture.to(device), on_progress).to(image.device))
    show(len(image))
    return torch.cat(results)


def stoppable_bar(pictures: int) -> Callable[[float], None]:
    """Makes a progress bar: call it with how many pictures are done.

    The call ends the work where the user has stopped it.
    """
    bar = comfy.utils.ProgressBar(STEPS * pictures)

    def show(done: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(int(STEPS * done))

    return show


def preview(image: Tensor) -> ui.PreviewImage:
    """Shows pictures on the node; their files lie in ComfyUI's temp folder.

    Raises:
        StorageError: they cannot be written.
    """
    with writing(Path(folder_paths.get_temp_directory())):
        return ui.PreviewImage(image)
