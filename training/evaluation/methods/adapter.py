"""AnimeSketchNet, IP-Adapter and IP-Adapter-Plus on a frozen base; or the base with text alone.

Drawn with the trainer's own DDIM (training/sample.py); the attention is diffusers' to the last bit
(tests/test_diffusers_parity.py). All of them see the whole reference on white, not a square cut out
of it, as the nodes show it to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.clip_input import fit_sketch
from animesketchnet_core.weight_file import check_fits, read_adapter
from training.models import Base, ImageEncoder, fingerprint, load_image_encoder

from ..cases import Case
from ..config import DrawSettings
from .on_base import draw_on, recipe_of


@dataclass
class AdapterMethod:
    """A base and, unless it draws from text alone, an adapter with its image encoder.

    Attributes:
        base: on the device that draws, in the precision that it draws in.
        adapter: float32, on the same device; None: text alone.
        encoder: the one whose features the adapter reads; None: text alone.
        alpha: strength of the reference.
        settings: size, steps, guidance and batch.
        weights: hashes of all weights.
    """

    base: Base
    adapter: AnimeSketchAdapter | None
    encoder: ImageEncoder | None
    alpha: float
    settings: DrawSettings
    weights: str

    @property
    def recipe(self) -> str:
        """All that decides a picture beside its case."""
        drawn = recipe_of(self.base, self.settings)
        return f"adapter 1, {self.weights}, {drawn}, alpha {self.alpha:g}"

    @torch.inference_mode()
    def draw(self, cases: Sequence[Case]) -> list[Tensor]:
        """Draws one picture for each case, [h, w, 3] float32 in [0, 1] on the CPU.

        Raises:
            DataError: a reference cannot be read.
            ValueError: a pair has none.
        """
        if self.adapter is None or self.encoder is None or not self.alpha:
            return draw_on(self.base, self.settings, cases)
        return draw_on(
            self.base,
            self.settings,
            cases,
            adapter=self.adapter,
            features=read(self.encoder, cases),
            no_features=self.encoder.unconditional(),
            alpha=self.alpha,
        )


def read(encoder: ImageEncoder, cases: Sequence[Case]) -> Tensor:
    """What an adapter reads of the cases' references [n, *encoder.shape], each encoded once."""
    pairs = {case.pair.id: case.pair for case in cases}
    fitted = [fit_sketch(pair.reference_picture(), encoder.size) for pair in pairs.values()]
    places = {name: number for number, name in enumerate(pairs)}
    return encoder.features(torch.cat(fitted))[[places[case.pair.id] for case in cases]]


def open_text(base: Base, base_weights: str, settings: DrawSettings) -> AdapterMethod:
    """The base alone (arguments as in `open_adapter`)."""
    return AdapterMethod(base, None, None, 0.0, settings, base_weights)


def open_adapter(
    base: Base, base_weights: str, weights: Path, alpha: float, settings: DrawSettings
) -> AdapterMethod:
    """Loads an adapter of any kind and the image encoder that it reads.

    Args:
        base: on its device, in its precision.
        base_weights: hash of the base's weights.
        weights: the adapter's file.
        alpha: strength of the reference.
        settings: how it draws, and with which image encoder.

    Raises:
        WrongAdapterError: the file is no adapter, or does not fit base or encoder.
        ModelError: the image encoder is missing.
        FileNotFoundError: there is no such file.
    """
    state_dict, _ = read_adapter(weights)
    adapter = AnimeSketchAdapter.from_state_dict(state_dict, dtype=torch.float32).eval()
    encoder = load_image_encoder(settings.image_encoder, settings.base, adapter.reads)
    check_fits(state_dict, base.shape, encoder.width)
    encoder.model.to(base.device)  # type: ignore[arg-type]
    hashes = " ".join([base_weights, fingerprint(adapter), fingerprint(encoder.model)])
    return AdapterMethod(base, adapter.to(base.device), encoder, alpha, settings, hashes)
