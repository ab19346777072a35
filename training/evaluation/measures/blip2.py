"""Do pictures follow the prompt? What BLIP-2 says: the paper's BLIP-ITM and BLIP-Cosine.

Computed as LAVIS's `blip2_image_text_matching` does, whose output the paper's table 1 has the form
of: pictures squashed to the model's square, texts cleaned and cut to 32 tokens. The vision
transformer may compute in bfloat16, everything after it does in float32 (in LAVIS float16 and
float32).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from animesketchnet_core.contact_sheet import to_image
from training import networks
from training.matching import Matcher, open_matcher
from training.models import fingerprint

from ..cases import Pair
from .measure import Column

SOURCE = "a copy of Salesforce/blip2-itm-vit-g from huggingface.co, with safetensors weights"
BATCH = 32  # pictures at once
MOST_WORDS = 50  # LAVIS, processors/blip_processors.py, `BlipCaptionProcessor`
MOST_TOKENS = 32  # LAVIS, models/blip2_models/blip2_image_text_matching.py, `max_txt_len`
VERSION = 1  # of what is below; another one measures anew


class Blip2Measure:
    """BLIP-2's opinions on pictures and their prompt.

    Attributes:
        recipe: the weights and how they are used.
        columns: what it gives.
    """

    columns: tuple[Column, ...] = (
        Column(
            "blip_itm", "BLIP-ITM", 1,
            "How probable it is to BLIP-2 that picture and prompt belong together, 0% to 100% "
            "(arXiv:2301.12597, as LAVIS computes it). It saturates: see the median, too.",
            percent=True, digits=2,
        ),
        Column(
            "blip_cosine", "BLIP-Cosine", 1,
            "Cosine of BLIP-2's embeddings of the prompt and of the picture's nearest query token, "
            "-1 to 1 (arXiv:2301.12597, as LAVIS computes it).",
            digits=4,
        ),
    )  # fmt: skip

    def __init__(self, matcher: Matcher, folder: str) -> None:
        """Takes an open network and its folder; `open_blip2_measure` opens one."""
        self._matcher = matcher
        self.recipe = (
            f"blip2 {VERSION}, folder {networks.fingerprint(folder)}, "
            f"weights {fingerprint(matcher.model)}"
        )

    def score(self, pictures: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Compares pictures [n, h, w, 3] with their prompt."""
        sentence = clean_prompt(pair.prompt)
        side = self._matcher.model.config.vision_config.image_size
        matches, cosines = [], []
        for part in pictures.split(BATCH):
            seen = [squash(picture, side) for picture in part]
            with torch.autocast(self._matcher.device.type, enabled=False):
                matches.append(self._matcher.matches(seen, sentence).cpu())
                cosines.append(self._matcher.cosines(seen, sentence).cpu())
        return {"blip_itm": torch.cat(matches), "blip_cosine": torch.cat(cosines)}

    def truncated(self, prompt: str) -> int:
        """Counts the tokens at a prompt's end that are not read, as words or as tokens too many."""
        read = min(self._matcher.count(clean_prompt(prompt)), MOST_TOKENS)
        return self._matcher.count(_without_marks(prompt)) - read


def squash(picture: Tensor, side: int) -> NDArray[np.uint8]:
    """Makes a picture [h, w, 3] in [0, 1] a square [side, side, 3], bicubic; nothing is cut."""
    square = to_image(picture).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(square)


def clean_prompt(prompt: str) -> str:
    """Makes a prompt what BLIP-2 was trained with: lower case, no marks but commas, 50 words."""
    return " ".join(_without_marks(prompt).split(" ")[:MOST_WORDS])


def _without_marks(prompt: str) -> str:
    bare = re.sub(r'[.!"()*#:;~]', " ", prompt.lower())
    return re.sub(r"\s{2,}", " ", bare).rstrip("\n").strip(" ")


def open_blip2_measure(
    folder: str, setting: str, device: torch.device, precision: str = "auto"
) -> Blip2Measure:
    """Opens BLIP-2 and tries it.

    Args:
        folder: of Blip2ForImageTextRetrieval in transformers' layout.
        setting: that names the folder, for messages.
        device: where it computes.
        precision: of the vision transformer: "bfloat16", "float32", or "auto" (bfloat16 on GPUs
            that have it).

    Raises:
        ModelError: there is none, it is damaged, holds another network, or one that does not look
            at pictures or does not read sentences.
    """
    matcher = open_matcher(
        folder, setting, SOURCE, precision, device, most_tokens=MOST_TOKENS, kinds=("blip-2",)
    )
    _judge_in_float32(matcher.model)
    return Blip2Measure(matcher, folder)


def _judge_in_float32(model: Any) -> None:
    """Leaves the vision transformer its type and makes everything after it float32.

    Between 0.25 and 0.5, bfloat16 knows cosines in steps of 0.002; tables show 0.0001.
    """
    for name, part in model.named_children():
        if name != "vision_model":
            part.float()
    model.query_tokens.data = model.query_tokens.data.float()
    model.vision_model.register_forward_hook(_in_float32)


def _in_float32(model: Any, inputs: Any, output: Any) -> Any:
    output["last_hidden_state"] = output.last_hidden_state.float()
    return output
