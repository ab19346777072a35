"""Writes captions with BLIP-2 (Li et al., 2023, https://arxiv.org/abs/2301.12597) and flan-t5.

The paper began with BLIP's captions (section 3.1.2). A folder such as a copy of
https://huggingface.co/Salesforce/blip2-flan-t5-xl is read with transformers; its 3.94 billion
weights take 7.9 GB in bfloat16 and 15.8 GB in float32, the five samples of a caption some 0.1 GB.

transformers lets BLIP-2 write captions without looking: where the processor does not know the
number of query tokens, as with folders from before 2024, a text prompt gets no image tokens, the
picture's features go nowhere, and nothing is said. So the number is set from the model, the tokens
are counted in every input, and a black and a white picture must give different logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.loading import ModelError
from training.networks import (
    ERRORS,
    check_folder,
    check_sight,
    dtype_for,
    look_once,
    open_network,
    read_config,
    unreadable,
)

from ..config import CaptionSettings
from ..images import Pixels
from .cleanup import clean_caption

SETTING = "caption.blip2"
SOURCE = "a copy of Salesforce/blip2-flan-t5-xl from huggingface.co, with safetensors weights"
QUESTION = "Question: {} Answer:"  # the form of BLIP-2's paper, section 4.3
REPETITION_PENALTY = 1.5  # LAVIS's default for captions
LEAST_TOKENS = 8  # of a caption, as in LAVIS; an answer may be one word


class Captioner:
    """BLIP-2, checked to look at the picture."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        folder: Path,
        settings: CaptionSettings,
        device: torch.device,
        seed: int,
    ) -> None:
        """Takes a loaded model; `open_captioner` loads one.

        Raises:
            ModelError: it is no BLIP-2 with an encoder-decoder, or does not look at pictures.
        """
        self._model = model
        self._processor = processor
        self._folder = folder
        self._settings = settings
        self._device = device
        self._seed = seed
        self._silent = _make_room(model, processor)

    def check(self) -> None:
        """Tries all prompts in use on a black and a white picture.

        Raises:
            ModelError: one of them gets the same from both.
        """
        for prompt in (self._settings.prompt, *(asked(q)[0] for q in self._settings.questions)):
            check_sight(partial(self._first_logits, prompt), SETTING, self._folder)

    def candidates(self, pixels: Pixels, picture: str, prompt: str) -> list[str]:
        """Writes a caption, or answers a question, several times.

        Args:
            pixels: [h, w, 3] or [h, w].
            picture: its id, from which chance follows: order and number of processes do not matter.
            prompt: what to go on from.

        Returns:
            Cleaned up, the likeliest one first, then the samples; none empty, none twice.
        """
        inputs = self._inputs(pixels, prompt)
        likeliest = self._generate(inputs, prompt, num_beams=self._settings.beams, do_sample=False)
        samples: list[str] = []
        if self._settings.samples:
            with _chance(f"{self._seed} {picture} {prompt}", self._device):
                samples = self._generate(
                    inputs, prompt, num_beams=1, do_sample=True, top_p=self._settings.top_p,
                    top_k=0, temperature=1.0, num_return_sequences=self._settings.samples,
                )  # fmt: skip
        texts = [clean_caption(text, prompt) for text in (*likeliest, *samples)]
        return list(dict.fromkeys(text for text in texts if text))

    def _inputs(self, pixels: Pixels, prompt: str) -> Any:
        """What the model is given; refuses inputs that leave the picture out."""
        rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        inputs = self._processor(images=rgb, text=prompt, return_tensors="pt")
        wanted = self._model.config.num_query_tokens
        given = int((inputs["input_ids"] == self._model.config.image_token_index).sum())
        if given != wanted:
            raise ModelError(
                f"{SETTING} is {self._folder}, whose processor makes {given} image tokens where "
                f"the model expects {wanted}: it would not look at the picture. Use {SOURCE}."
            )
        return inputs.to(self._device, self._model.dtype)

    @torch.no_grad()
    def _first_logits(self, prompt: str, tone: int) -> Tensor:
        """What the model would say first, of a black (0) or a white (1) picture; [v]."""
        side = self._model.config.vision_config.image_size
        inputs = self._inputs(np.full((side, side, 3), 255 * tone, dtype=np.uint8), prompt)
        start = self._model.config.text_config.decoder_start_token_id
        ids = torch.tensor([[start]], device=self._device)
        return self._model(**inputs, decoder_input_ids=ids).logits[0, -1]

    @torch.no_grad()
    def _generate(self, inputs: Any, prompt: str, **options: Any) -> list[str]:
        ids = self._model.generate(
            **inputs, **options, max_new_tokens=self._settings.max_new_tokens,
            min_new_tokens=LEAST_TOKENS if prompt == self._settings.prompt else 1,
            repetition_penalty=REPETITION_PENALTY, length_penalty=1.0,
            suppress_tokens=self._silent,
        )  # fmt: skip
        return self._processor.batch_decode(ids, skip_special_tokens=True)


@contextmanager
def _chance(name: str, device: torch.device) -> Iterator[None]:
    """Seeds torch by a name within a `with` block; outside, all stays as it was."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield


def open_captioner(settings: CaptionSettings, device: torch.device, seed: int) -> Captioner:
    """Loads BLIP-2 from caption.blip2 and tries it.

    Raises:
        ModelError: the folder is missing, damaged, holds another network, or one that does not
            look at pictures.
    """
    from transformers import Blip2ForConditionalGeneration, Blip2Processor  # takes seconds

    folder = check_folder(settings.blip2, SETTING, SOURCE)
    kind = read_config(folder, SETTING, SOURCE).get("model_type")
    if kind != "blip-2":
        raise ModelError(f"{SETTING} is {folder}, which holds a {kind!r} network. Use {SOURCE}.")
    try:
        processor = Blip2Processor.from_pretrained(folder, local_files_only=True)
    except ERRORS as error:
        raise unreadable(SETTING, folder, SOURCE, error) from error
    dtype = dtype_for(settings.precision, device)
    model = open_network(Blip2ForConditionalGeneration, folder, SETTING, SOURCE, dtype, device)
    look_once(model)
    if not model.config.text_config.is_encoder_decoder:
        raise ModelError(
            f"{SETTING} is {folder}, whose language model is "
            f"{model.config.text_config.model_type}; it has to be an encoder-decoder. Use {SOURCE}."
        )
    captioner = Captioner(model, processor, folder, settings, device, seed)
    captioner.check()
    return captioner


def asked(question: str) -> tuple[str, str]:
    """Splits an entry of caption.questions into the prompt and the answer's phrase."""
    text, _, phrase = question.partition("?")
    return QUESTION.format(f"{text.strip()}?"), phrase.strip() or "{}"


def _make_room(model: Any, processor: Any) -> list[int]:
    """Makes the model and the processor agree on the image token.

    Returns:
        The tokens that must never be written: the image's, and rows that were added for it.
    """
    processor.num_query_tokens = model.config.num_query_tokens
    image = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
    model.config.image_token_index = image
    rows = model.get_input_embeddings().weight.shape[0]
    if image >= rows:
        with torch.random.fork_rng([]):  # the new rows are chance, but are never looked at
            model.resize_token_embeddings(image + 1, mean_resizing=False)
    return sorted({image, *range(rows, image + 1)})
