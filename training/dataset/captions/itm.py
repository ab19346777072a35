"""Keeps the caption that fits the picture best: the filter of CapFilt (BLIP, arXiv:2201.12086).

A network with a head for image-text matching (ITM) says how probable it is that a sentence
belongs to a picture. BLIP drops what is more likely not to match (section 3.3 there); here it is
marked for review. Asked is with the colour picture and sentences without sketch keywords, since
"lineart" does not match a colour picture. BLIP-2's network has 1.17 billion weights, 2.3 GB in
bfloat16; BLIP's is smaller. The probabilities are not the cosine similarities that the same
networks give, and thresholds for one do not hold for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.loading import ModelError

from ..config import CaptionSettings
from ..images import Pixels
from .models import (
    ERRORS,
    check_folder,
    check_sight,
    dtype_for,
    open_network,
    read_config,
    unreadable,
)

SETTING = "caption.itm"
SOURCE = (
    "a copy of Salesforce/blip2-itm-vit-g or Salesforce/blip-itm-base-coco from huggingface.co, "
    "with safetensors weights"
)
MOST_TOKENS = 512  # that BERT, which reads the sentences, has places for
_PROBES = ("a girl", "two dogs on a street")


@dataclass(frozen=True)
class Matcher:
    """A network that tells how well a sentence fits a picture.

    Attributes:
        model: Blip2ForImageTextRetrieval or BlipForImageTextRetrieval.
        processor: its own.
        device: where it computes.
        option: that asks the model for matching rather than similarity.
        answer: of the model, the logits [1, 2] of "does not match" and "matches".
    """

    model: Any
    processor: Any
    device: torch.device
    option: str
    answer: str

    def probabilities(self, pixels: Pixels, sentences: Sequence[str]) -> list[float]:
        """How probable it is that each sentence belongs to a picture, [0, 1].

        Args:
            pixels: [h, w, 3] or [h, w].
            sentences: without sketch keywords.
        """
        # One by one: padding a sentence to the length of another would change its score a little.
        rows = [self.logits(pixels, sentence) for sentence in sentences]
        return [float(row.softmax(1)[0, 1]) for row in rows]

    @torch.no_grad()
    def logits(self, pixels: Pixels, sentence: str) -> Tensor:
        """The network's logits [1, 2] of "does not match" and "matches", float32."""
        rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        inputs = self.processor(
            images=rgb, text=sentence, return_tensors="pt", truncation=True, max_length=MOST_TOKENS
        ).to(self.device, self.model.dtype)
        with self.device:  # BLIP makes its mask where torch makes tensors by default
            answer = self.model(**inputs, **{self.option: True})
        return getattr(answer, self.answer).float()


def open_matcher(settings: CaptionSettings, device: torch.device) -> Matcher:
    """Loads a network for image-text matching from caption.itm and tries it.

    Raises:
        ModelError: the folder is missing, damaged, holds another network, or one that does not
            look at pictures or does not read sentences.
    """
    import transformers  # takes seconds

    folder = check_folder(settings.itm, SETTING, SOURCE)
    kind = read_config(folder, SETTING, SOURCE).get("model_type")
    if kind not in ("blip", "blip-2"):
        raise ModelError(f"{SETTING} is {folder}, which holds a {kind!r} network. Use {SOURCE}.")
    second = kind == "blip-2"
    name = "Blip2" if second else "Blip"
    processors = getattr(transformers, f"{name}Processor")
    try:
        processor = processors.from_pretrained(folder, local_files_only=True)
    except ERRORS as error:
        raise unreadable(SETTING, folder, SOURCE, error) from error
    dtype = dtype_for(settings.precision, device)
    networks = getattr(transformers, f"{name}ForImageTextRetrieval")
    model = open_network(networks, folder, SETTING, SOURCE, dtype, device)
    if second:
        # The model cuts so many tokens off each sentence where its config has an image token:
        # without them there, it would judge sentences by their ends, and say nothing of it.
        expected = model.config.image_token_id is not None
        processor.num_query_tokens = model.config.num_query_tokens if expected else 0
        matcher = Matcher(
            model, processor, device, "use_image_text_matching_head", "logits_per_image"
        )
    else:
        matcher = Matcher(model, processor, device, "use_itm_head", "itm_score")
    _check(matcher, folder)
    return matcher


def _check(matcher: Matcher, folder: Path) -> None:
    """Tries the network on two pictures and on two sentences."""
    side = matcher.model.config.vision_config.image_size
    pictures = [np.full((side, side, 3), tone, dtype=np.uint8) for tone in (0, 255)]
    check_sight(lambda n: matcher.logits(pictures[n], _PROBES[0]), SETTING, folder)
    check_sight(lambda n: matcher.logits(pictures[1], _PROBES[n]), SETTING, folder, "sentence")
