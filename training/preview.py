"""The preview grid: what the adapter draws by now, for fixed prompts, references and noise."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from animesketchnet_core import clip_input
from animesketchnet_core.adapter import AnimeSketchAdapter

from . import draws
from .cache import Encoded
from .config import TrainConfig
from .copying import NearestPicture
from .data import Dataset
from .draws import Purpose
from .models import Base, ImageEncoder
from .sample import ddim_sample

_LABEL = 14  # height of the line of text above the grid and above each prompt's rows, in pixels


class Previews:
    """Draws one grid: for each prompt a row per reference, with a column per alpha.

    All that does not change during the run (features, text, noise) is made once.

    Attributes:
        nearest: measures whether training pictures are repeated.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        encoded: Encoded,
        base: Base,
        encoder: ImageEncoder,
    ) -> None:
        self._settings = config.preview
        self._base = base
        self._encoder = encoder
        self.nearest = NearestPicture(encoded, dataset.shown_references)
        pictures = _references(config, dataset)
        self._thumbnails = [clip_input.fit_sketch(p, config.data.resolution) for p in pictures]
        fitted = [clip_input.fit_sketch(picture, encoder.size) for picture in pictures]
        self._features = torch.cat([encoder.features(picture) for picture in fitted])
        self._no_features = encoder.unconditional()
        self._text = base.encode_text(config.preview.prompts)
        side = config.data.resolution // base.latent_scale
        shape = (int(base.unet.config["in_channels"]), side, side)
        places = list(range(len(pictures)))  # a reference keeps its noise under every prompt
        self._noise = draws.normal(config.run.seed, Purpose.PREVIEW, places, shape)

    def draw(self, adapter: AnimeSketchAdapter) -> tuple[Image.Image, float]:
        """Draws the grid with an adapter.

        Returns:
            The grid, and the mean similarity of what was drawn at the highest alpha to the
            nearest training picture.
        """
        blocks = [self._row_block(adapter, text) for text in self._text]
        strongest = max(range(len(self._settings.alphas)), key=self._settings.alphas.__getitem__)
        drawn = torch.cat([columns[strongest] for columns in blocks])  # [b, 3, size, size]
        fitted = clip_input.fit_sketch(drawn.permute(0, 2, 3, 1), self._encoder.size)
        self._encoder.model.to(self._base.device)  # type: ignore[arg-type]
        similarity = self.nearest.similarity(self._encoder.features(fitted)).mean().item()
        self._encoder.model.to("cpu")  # type: ignore[arg-type]
        return self._grid(blocks), similarity

    def _row_block(self, adapter: AnimeSketchAdapter, text: Tensor) -> list[Tensor]:
        """Draws one prompt's block: for each alpha the pictures [references, 3, size, size]."""
        s, count = self._settings, len(self._noise)
        columns = []
        for alpha in s.alphas:
            latents = ddim_sample(
                self._base,
                adapter,
                text.expand(count, -1, -1),
                self._features,
                self._no_features,
                alpha,
                self._noise,
                steps=s.steps,
                guidance=s.guidance,
                batch=16,
            )
            columns.append(self._base.decode_latents(latents).cpu())
        return columns

    def _grid(self, blocks: list[list[Tensor]]) -> Image.Image:
        size, rows = self._thumbnails[0].shape[1], len(self._thumbnails)
        width = size * (1 + len(self._settings.alphas))
        height = _LABEL + len(blocks) * (_LABEL + rows * size)
        sheet = Image.new("RGB", (width, height), "white")
        pen = ImageDraw.Draw(sheet)
        for column, alpha in enumerate(self._settings.alphas):
            pen.text((size * (column + 1) + 2, 1), f"alpha {alpha:g}", fill="black")
        for number, (prompt, columns) in enumerate(
            zip(self._settings.prompts, blocks, strict=True)
        ):
            top = _LABEL + number * (_LABEL + rows * size)
            label = prompt.encode("ascii", "replace").decode()  # the built-in font has no more
            pen.text((2, top + 1), label, fill="black")
            for row in range(rows):
                tiles = [self._thumbnails[row][0].permute(2, 0, 1), *(c[row] for c in columns)]
                for column, tile in enumerate(tiles):
                    sheet.paste(_image(tile), (column * size, top + _LABEL + row * size))
        return sheet


def _references(config: TrainConfig, dataset: Dataset) -> list[Tensor]:
    """Opens the reference pictures: the configured files, or some of the data's."""
    if config.preview.references:
        return [dataset.pictures.open(name) for name in config.preview.references]
    names = [view.picture for view in dataset.shown_references]
    count = min(config.preview.reference_count, len(names))
    # Evenly spread: neighbours in the list often show the same thing.
    return [dataset.pictures.open(names[n * len(names) // count]) for n in range(count)]


def _image(tile: Tensor) -> Image.Image:
    pixels = (tile.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))
