"""The preview grid: what the adapter draws by now, for fixed prompts, references and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from animesketchnet_core import clip_input
from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.contact_sheet import contact_sheet

from . import draws
from .cache import Encoded
from .config import TrainConfig
from .copying import NearestPicture, pooled
from .data import Dataset
from .draws import Purpose
from .models import Base, ImageEncoder
from .sample import ddim_sample
from .workers import Workers

_AT_ONCE = 4  # pictures: a GPU that trains has little room beside


@dataclass(frozen=True)
class Drawn:
    """What an adapter draws by now.

    Attributes:
        sheet: the grid.
        nearest: mean similarity of what was drawn at the highest alpha to the nearest training
            picture.
        yardstick: the same of a usual training picture to the others (copying.py).
    """

    sheet: Image.Image
    nearest: float
    yardstick: float


class Previews:
    """Draws one grid: for each prompt a row per reference, with a column per alpha.

    All that does not change during the run (features, text, noise) is made once. The rows are
    shared out to the processes.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        encoded: Encoded,
        base: Base,
        encoder: ImageEncoder,
        workers: Workers,
    ) -> None:
        self._settings = config.preview
        self._base = base
        self._encoder = encoder
        self._workers = workers
        self._nearest = NearestPicture.of_views(encoded, dataset.shown_references)
        pictures = _references(config, dataset)
        self._size = config.data.resolution // base.size_step * base.size_step
        self._thumbnails = [clip_input.fit_sketch(picture, self._size) for picture in pictures]
        fitted = [clip_input.fit_sketch(picture, encoder.size) for picture in pictures]
        self._features = torch.cat([encoder.features(picture) for picture in fitted])
        self._no_features = encoder.unconditional()
        self._text = base.encode_text(config.preview.prompts)
        side = self._size // base.latent_scale
        shape = (int(base.unet.config["in_channels"]), side, side)
        places = list(range(len(pictures)))  # a reference keeps its noise under every prompt
        self._noise = draws.normal(config.run.seed, Purpose.PREVIEW, places, shape)

    def draw(self, shipped: AnimeSketchAdapter, raw: AnimeSketchAdapter | None = None) -> Drawn:
        """Draws the grid; all processes must call it, each draws its share of the rows.

        Args:
            shipped: the adapter that is judged.
            raw: the one whose running average it is, for columns beside.
        """
        columns = [(f"alpha {alpha:g}", shipped, alpha) for alpha in self._settings.alphas]
        if raw is not None:
            alphas = [alpha for alpha in self._settings.alphas if alpha]
            columns += [(f"raw, {alpha:g}", raw, alpha) for alpha in alphas]
        references = len(self._thumbnails)
        rows = len(self._text) * references
        tiles = torch.zeros(rows, len(columns), 3, self._size, self._size)
        strongest = self._settings.alphas.index(max(self._settings.alphas))
        similarity = torch.zeros(rows)
        if mine := list(self._workers.share(range(rows))):
            prompts = self._text[[row // references for row in mine]]
            places = [row % references for row in mine]
            for number, (_, adapter, alpha) in enumerate(columns):
                tiles[mine, number] = self._pictures(adapter, prompts, places, alpha)
            similarity[mine] = self._similarity(tiles[mine, strongest])
        tiles = self._workers.sum(tiles).cpu()
        nearest = self._workers.sum(similarity).mean().item()
        sheet = self._grid([label for label, *_ in columns], tiles)
        return Drawn(sheet, nearest, self._nearest.yardstick)

    def _pictures(
        self, adapter: AnimeSketchAdapter, prompts: Tensor, places: list[int], alpha: float
    ) -> Tensor:
        """Draws a column's pictures, [rows, 3, size, size]."""
        latents = ddim_sample(
            self._base,
            adapter,
            prompts,
            self._features[places],
            self._no_features,
            alpha,
            self._noise[places],
            steps=self._settings.steps,
            guidance=self._settings.guidance,
            batch=_AT_ONCE,
        )
        return torch.cat([self._base.decode_latents(one).cpu() for one in latents.split(1)])

    def _similarity(self, pictures: Tensor) -> Tensor:
        fitted = clip_input.fit_sketch(pictures.permute(0, 2, 3, 1), self._encoder.size)
        home = self._encoder.model.device
        self._encoder.model.to(self._base.device)  # type: ignore[arg-type]
        similarity = self._nearest.similarity(pooled(self._encoder.features(fitted)))
        self._encoder.model.to(home)  # type: ignore[arg-type]
        return similarity

    def _grid(self, labels: list[str], tiles: Tensor) -> Image.Image:
        """Lays out the tiles [rows, columns, 3, size, size], the references before them."""
        references = torch.cat(self._thumbnails)[:, None]  # [references, 1, size, size, 3]
        drawn = tiles.movedim(2, -1).unflatten(0, (len(self._text), -1))
        groups = [
            (prompt, torch.cat([references, pictures], 1))
            for prompt, pictures in zip(self._settings.prompts, drawn, strict=True)
        ]
        return contact_sheet(["reference", *labels], groups)


def _references(config: TrainConfig, dataset: Dataset) -> list[Tensor]:
    """Opens the reference pictures: the configured files, or some of the data's."""
    if config.preview.references:
        return [dataset.pictures.open(name) for name in config.preview.references]
    names = [view.picture for view in dataset.shown_references]
    count = min(config.preview.reference_count, len(names))
    # Evenly spread: neighbours in the list often show the same thing.
    return [dataset.pictures.open(names[n * len(names) // count]) for n in range(count)]
