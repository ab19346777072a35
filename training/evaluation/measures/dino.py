"""Do pictures look like their reference? What DINO says, which was trained without any text.

CLIP finds two pictures alike that could have one caption; DINO's class token tells more of what
they look like. As a measure of likeness to a reference it is from DreamBooth (Ruiz et al., 2023,
arXiv:2208.12242, section 4.1), which took DINO ViT-S/16; DINOv2 (arXiv:2304.07193) is read, too.
Figures of different networks cannot be compared.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animesketchnet_core.contact_sheet import to_image
from animesketchnet_core.scores import clip_image_similarity
from training import networks
from training.loading import ModelError
from training.models import fingerprint
from training.networks import ERRORS, check_folder, check_sight, open_network, unreadable

from ..cases import Pair
from .measure import Column

SOURCE = "a copy of facebook/dinov2-base or facebook/dino-vits16 from huggingface.co"
BATCH = 32  # pictures at once
VERSION = 1  # of what is below; another one measures anew


class DinoMeasure:
    """A vision transformer's similarities of pictures with their reference.

    Attributes:
        recipe: the weights and how they are used.
        columns: what it gives.
    """

    columns: tuple[Column, ...] = (
        Column(
            "dino", "DINO", 1,
            "Cosine of the class tokens of picture and reference, -1 to 1 (DreamBooth, "
            "arXiv:2208.12242).",
            digits=4,
        ),
    )  # fmt: skip

    def __init__(self, model: Any, processor: Any, folder: Path, device: torch.device) -> None:
        """Takes an open network and its folder; `open_dino_measure` opens one."""
        self._model = model
        self._processor = processor
        self._device = device
        self.recipe = (
            f"dino {VERSION}, folder {networks.fingerprint(str(folder))}, "
            f"weights {fingerprint(model)}, float32"
        )

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Compares pictures [n, h, w, 3] with their reference; NaN where there is none."""
        if pair.reference is None:
            return {"dino": torch.full((len(pictures),), math.nan)}
        reference = self.embed(pair.reference_picture())
        return {"dino": clip_image_similarity(self.embed(pictures), reference)}

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """Class tokens after the last norm.

        Args:
            pictures: [n, h, w, 3] in [0, 1], on the CPU; what of them is seen is up to the
                folder's preprocessor_config.json (DINOv2: the middle, 224 of 256 pixels).

        Returns:
            float32 [n, e] on the CPU, not normalised.
        """
        found = []
        for part in pictures.split(BATCH):
            images = [to_image(picture) for picture in part]
            pixels = self._processor(images, return_tensors="pt")["pixel_values"]
            with torch.autocast(self._device.type, enabled=False):
                states = self._model(pixels.to(self._device)).last_hidden_state
            found.append(states[:, 0].float().cpu())
        return torch.cat(found)


def open_dino_measure(folder: str, setting: str, device: torch.device) -> DinoMeasure:
    """Opens a vision transformer with a class token, and tries it.

    Args:
        folder: in transformers' layout, with preprocessor_config.json.
        setting: that names the folder, for messages.
        device: where it computes.

    Raises:
        ModelError: there is none, it is damaged, or of another kind.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel  # takes seconds

    path = check_folder(folder, setting, SOURCE)
    if not (path / "preprocessor_config.json").is_file():
        raise ModelError(
            f"{setting} is {path}, where there is no preprocessor_config.json, which says how "
            f"pictures are prepared. Use {SOURCE}."
        )
    try:  # a folder may name code of its own, which is never run
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except (*ERRORS, ImportError) as error:
        raise unreadable(setting, path, SOURCE, error) from error
    # DINO's published weights have no pooler, and the class token does not pass through it.
    model = open_network(
        AutoModel, path, setting, SOURCE, torch.float32, device, pickles=True, unused=("pooler.",)
    )
    _check_kind(model, config.model_type, path, setting)
    measure = DinoMeasure(model, processor, path, device)
    tones = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 64, 64, 3)
    check_sight(lambda n: measure.embed(tones[n : n + 1]), setting, path)
    return measure


def _check_kind(model: Any, kind: str, folder: Path, setting: str) -> None:
    """Refuses networks whose first token is a patch or a word."""
    if getattr(getattr(model, "embeddings", None), "cls_token", None) is None:
        raise ModelError(
            f"{setting} is {folder}, which holds a {kind!r} network; it has to be a vision "
            f"transformer with a class token. Use {SOURCE}."
        )
