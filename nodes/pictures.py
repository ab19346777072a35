"""Works on a batch picture by picture, so that it can be watched and stopped."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

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
    bar = comfy.utils.ProgressBar(STEPS * len(image))
    results = []
    for number, picture in enumerate(image.split(1)):

        def on_progress(done: int, total: int, number: int = number) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(int(STEPS * (number + done / total)))

        on_progress(0, 1)
        results.append(work(picture.to(device), on_progress).to(image.device))
    bar.update_absolute(STEPS * len(image))
    return torch.cat(results)
