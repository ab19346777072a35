"""How well a sentence fits a picture, asked of BLIP or BLIP-2.

Both have two answers. The head for image-text matching (ITM) reads picture and sentence together
and says how probable it is that they belong together. The contrastive part (ITC) reads each alone
and compares: the cosine, in BLIP-2 with the query token that is nearest. Thresholds for one do not
hold for the other. Definitions: BLIP, arXiv:2201.12086, section 3.2; BLIP-2, arXiv:2301.12597,
section 3.2; LAVIS, `blip2_models/blip2_image_text_matching.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .loading import ModelError
from .networks import (
    ERRORS,
    check_folder,
    check_sight,
    dtype_for,
    look_once,
    open_network,
    read_config,
    unreadable,
)

BERT_TOKENS = 512  # that BERT, which reads the sentences, has places for
_PROBES = ("a girl", "two dogs on a street")
_NAMES = {"blip": "Blip", "blip-2": "Blip2"}  # in config.json, and in transformers' classes


@dataclass(frozen=True)
class Matcher:
    """A network that tells how well a sentence fits a picture.

    Attributes:
        model: Blip2ForImageTextRetrieval or BlipForImageTextRetrieval.
        processor: its own.
        device: where it computes.
        option: that asks the model for matching rather than similarity.
        answer: of the model, where it says either.
        queries: tokens before each sentence that the model cuts off.
        most_tokens: of a sentence, [CLS] and [SEP] included; the rest is not read.
    """

    model: Any
    processor: Any
    device: torch.device
    option: str
    answer: str
    queries: int
    most_tokens: int

    def probabilities(self, pixels: NDArray[np.uint8], sentences: Sequence[str]) -> list[float]:
        """How probable it is that each sentence belongs to a picture, [0, 1].

        Args:
            pixels: [h, w, 3] or [h, w].
            sentences: without sketch keywords.
        """
        # One by one: padding a sentence to the length of another would change its score a little.
        return [float(self.matches([pixels], sentence)[0]) for sentence in sentences]

    def matches(self, pictures: Sequence[NDArray[np.uint8]], sentence: str) -> Tensor:
        """How probable it is that a sentence belongs to each picture, float32 [n] in [0, 1]."""
        # One softmax. The example in transformers' documentation takes two, which cannot give
        # less than 0.269 or more than 0.731.
        return self.logits(pictures, sentence).softmax(1)[:, 1]

    def logits(self, pictures: Sequence[NDArray[np.uint8]], sentence: str) -> Tensor:
        """The logits [n, 2] of "does not match" and "matches", float32."""
        return self._ask(pictures, sentence, len(pictures), matching=True)

    def cosines(self, pictures: Sequence[NDArray[np.uint8]], sentence: str) -> Tensor:
        """The similarity of a sentence and each picture, float32 [n] in [-1, 1]."""
        return self._ask(pictures, sentence, 1, matching=False)[:, 0]

    def count(self, sentence: str) -> int:
        """Counts a sentence's tokens, [CLS] and [SEP] included."""
        return len(self.processor.tokenizer(sentence, verbose=False).input_ids)

    @torch.no_grad()
    def _ask(
        self, pictures: Sequence[NDArray[np.uint8]], sentence: str, rows: int, *, matching: bool
    ) -> Tensor:
        """What the model answers to pictures and so many copies of a sentence."""
        rgb = [np.repeat(p[..., None], 3, axis=2) if p.ndim == 2 else p for p in pictures]
        seen = self.processor.image_processor(rgb, return_tensors="pt")["pixel_values"]
        tokens = self.processor.tokenizer(
            sentence, truncation=True, max_length=self.most_tokens
        ).input_ids
        ids = torch.tensor([[0] * self.queries + tokens], device=self.device).expand(rows, -1)
        with self.device:  # BLIP makes its mask where torch makes tensors by default
            answer = self.model(
                pixel_values=seen.to(self.device, self.model.vision_model.dtype),
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **{self.option: matching},
            )
        return getattr(answer, self.answer).float()


def open_matcher(
    folder: str,
    setting: str,
    source: str,
    precision: str,
    device: torch.device,
    most_tokens: int = BERT_TOKENS,
    kinds: Sequence[str] = tuple(_NAMES),
) -> Matcher:
    """Loads a network for image-text matching from a folder and tries it.

    Args:
        folder: in transformers' layout.
        setting: that names the folder, for messages.
        source: where such a folder comes from.
        precision: "bfloat16", "float32", or "auto".
        device: where it computes.
        most_tokens: of a sentence.
        kinds: model types that will do.

    Raises:
        ModelError: the folder is missing, damaged, holds another network, or one that does not
            look at pictures or does not read sentences.
    """
    import transformers  # takes seconds

    path = check_folder(folder, setting, source)
    kind = str(read_config(path, setting, source).get("model_type"))
    if kind not in kinds:
        raise ModelError(f"{setting} is {path}, which holds a {kind!r} network. Use {source}.")
    name = _NAMES[kind]
    try:
        processor = getattr(transformers, f"{name}Processor").from_pretrained(
            path, local_files_only=True
        )
    except ERRORS as error:
        raise unreadable(setting, path, source, error) from error
    networks = getattr(transformers, f"{name}ForImageTextRetrieval")
    model = open_network(networks, path, setting, source, dtype_for(precision, device), device)
    look_once(model)
    if kind == "blip-2":
        # The model cuts so many tokens off each sentence where its config has an image token:
        # without them there, it would judge sentences by their ends, and say nothing of it.
        queries = model.config.num_query_tokens if model.config.image_token_index is not None else 0
        option, answer = "use_image_text_matching_head", "logits_per_image"
    else:
        queries, option, answer = 0, "use_itm_head", "itm_score"
    matcher = Matcher(model, processor, device, option, answer, queries, most_tokens)
    _check(matcher, setting, path)
    return matcher


def _check(matcher: Matcher, setting: str, folder: Path) -> None:
    """Tries the network on two pictures and on two sentences."""
    side = matcher.model.config.vision_config.image_size
    pictures = [np.full((side, side, 3), tone, dtype=np.uint8) for tone in (0, 255)]
    check_sight(lambda n: matcher.logits([pictures[n]], _PROBES[0]), setting, folder)
    check_sight(lambda n: matcher.logits([pictures[1]], _PROBES[n]), setting, folder, "sentence")
