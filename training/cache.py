"""Keeps what the frozen encoders make of the data, so that no training step computes it again.

Three kinds: the parameters of the latents' distribution (mean and log variance, not one frozen
sample of it), CLIP's penultimate features, and text embeddings. An item's key is the hash of its
content (the picture file's bytes and the view of it, or the caption); a store's folder is named by
the hash of all else that decides the values (the encoder's weights, the preparation, the
precision). So a changed picture or model can never meet a stale value, and unchanged ones are never
computed twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from animesketchnet_core.image_features import ImageFeatures

from .config import TrainConfig
from .data import Dataset
from .models import Base, ImageEncoder, fingerprint
from .settings import ConfigError
from .store import Store
from .views import View
from .workers import Workers

T = TypeVar("T")

VERSION = "1"  # raise it when code here, in data.py or framing.py changes what is stored
CHUNK_BYTES = 32 * 1024**2  # an interrupted build loses at most this much
# In the recipe of the features; the names are those of caches that people have.
_READ = {ImageFeatures.HIDDEN_STATES: "penultimate", ImageFeatures.IMAGE_EMBEDDING: "embedding"}


@dataclass
class _Kind(Generic[T]):
    """One kind of encoded items.

    Attributes:
        label: what the progress bar calls them.
        shape: of one item.
        recipe: all that decides their values, but the items' content.
        key_of: hashes an item's content.
        encode: computes them, at most `batch` at once.
        batch: so many.
        store: where they are kept; None: nowhere, they are computed when they are asked for.
    """

    label: str
    shape: tuple[int, ...]
    recipe: list[str]
    key_of: Callable[[T], bytes]
    encode: Callable[[Sequence[T]], Tensor]
    batch: int
    store: Store | None = None

    def get(self, items: Sequence[T]) -> Tensor:
        """float16 [n, *shape]."""
        if self.store is not None:
            return self.store.get(map(self.key_of, items))
        return self.compute(items)

    def compute(
        self, items: Sequence[T], told: Callable[[int], object] = lambda count: None
    ) -> Tensor:
        """Encodes items, and says after each batch how many that were."""
        parts = []
        for start in range(0, len(items), self.batch):
            part = items[start : start + self.batch]
            parts.append(self.encode(part).half())
            told(len(part))
        return torch.cat(parts)


class Encoded:
    """The data as the training step wants it: moments, features and text."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        base: Base,
        encoder: ImageEncoder,
        workers: Workers,
    ) -> None:
        """Opens the stores and fills in what they lack, each process its share.

        The encoders must be on the device that is to do the work.
        """
        self._base = base
        self._encoder = encoder
        self._settings = config.cache
        self._folder = Path(config.cache.folder or Path(config.run.output) / "cache")
        self._workers = workers
        self._dataset = dataset
        targets: dict[tuple[int, int], list[View]] = {}
        for view in dataset.targets:
            targets.setdefault(dataset.size(view.picture), []).append(view)
        self._moments = {size: self._latents(size, config.data.fit) for size in targets}
        for size, views in targets.items():
            self._keep(self._moments[size], views)
        self._features = self._image_features()
        self._keep(self._features, dataset.references)
        self._text = self._text_embeddings()
        if self._text_fits():
            self._keep(self._text, dataset.captions)
        with self._autocast():
            self.no_features = encoder.unconditional().half().cpu()
            self.no_text = base.encode_text([""]).half().cpu()

    def moments(self, views: Sequence[View]) -> Tensor:
        """Mean and log variance of the latents of pictures of one size: [b, 8, h, w]."""
        return self._moments[self._dataset.size(views[0].picture)].get(views)

    def features(self, views: Sequence[View]) -> Tensor:
        """What the adapter reads of the pictures: [b, *encoder.shape]."""
        return self._features.get(views)

    def text(self, captions: Sequence[str]) -> Tensor:
        """Text embeddings: [b, 77, cross_attention_dim]."""
        return self._text.get(captions)

    def latent_shape(self, view: View) -> tuple[int, ...]:
        """Of a picture: (4, h, w)."""
        channels, *size = self._moments[self._dataset.size(view.picture)].shape
        return (channels // 2, *size)

    def _autocast(self) -> torch.autocast:
        device = self._base.text_encoder.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._settings.precision == "bf16")

    def _latents(self, size: tuple[int, int], fit: str) -> _Kind[View]:
        height, width = size
        scale = self._base.latent_scale
        channels = 2 * self._base.vae.config["latent_channels"]

        def encode(views: Sequence[View]) -> Tensor:
            pixels = torch.cat([self._dataset.target_pixels(view) for view in views])
            with self._autocast():
                return self._base.encode_pictures(pixels)

        return _Kind(
            label=f"latents {width}x{height}",
            shape=(channels, height // scale, width // scale),
            recipe=["moments", fingerprint(self._base.vae), f"{size}", fit],
            key_of=self._dataset.key,
            encode=encode,
            batch=self._settings.batch,
        )

    def _image_features(self) -> _Kind[View]:
        encoder = self._encoder

        def encode(views: Sequence[View]) -> Tensor:
            pixels = [self._dataset.reference_pixels(view, encoder.size) for view in views]
            with self._autocast():
                return encoder.features(torch.cat(pixels))

        return _Kind(
            label="image features",
            shape=encoder.shape,
            recipe=["features", fingerprint(encoder.model), _READ[encoder.reads], "pad white"],
            key_of=self._dataset.key,
            encode=encode,
            batch=self._settings.batch,
        )

    def _text_embeddings(self) -> _Kind[str]:
        base, config = self._base, self._base.text_encoder.config
        vocabulary = repr(sorted(base.tokenizer.get_vocab().items()))
        tokenizer = hashlib.sha256(vocabulary.encode()).hexdigest()

        def encode(captions: Sequence[str]) -> Tensor:
            with self._autocast():
                return base.encode_text(captions)

        return _Kind(
            label="text",
            shape=(config.max_position_embeddings, config.hidden_size),
            recipe=["text", fingerprint(base.text_encoder), tokenizer],
            key_of=lambda caption: hashlib.sha256(caption.encode()).digest(),
            encode=encode,
            batch=8 * self._settings.batch,  # a caption costs far less than a picture
        )

    def _text_fits(self) -> bool:
        count = len(self._dataset.captions)
        size = _text_bytes(self._dataset, self._base) / 1024**3
        if size > self._settings.text_limit_gb:
            self._workers.print(
                f"text: {count} captions would take {size:.1f} GB, more than cache.text_limit_gb "
                f"= {self._settings.text_limit_gb:g}; they are encoded at each step instead."
            )
        return size <= self._settings.text_limit_gb

    def _keep(self, kind: _Kind[T], items: Sequence[T]) -> None:
        """Opens a kind's store, fills in what it lacks, and holds it where the settings say."""
        if self._settings.keep == "nothing":
            return
        recipe = [VERSION, self._settings.precision, *kind.recipe, str(kind.shape)]
        digest = hashlib.sha256("\n".join(recipe).encode()).hexdigest()
        store = Store(self._folder / f"{kind.recipe[0]}-{digest[:16]}", kind.shape)
        self._workers.wait()  # all must find the same items missing
        by_key = {kind.key_of(item): item for item in items}
        missing = self._workers.share(store.missing(by_key))
        per_chunk = max(kind.batch, CHUNK_BYTES // store.item_bytes)
        with tqdm(total=len(missing), desc=f"encoding {kind.label}", disable=not missing) as bar:
            for start in range(0, len(missing), per_chunk):
                keys = missing[start : start + per_chunk]
                store.add(keys, kind.compute([by_key[key] for key in keys], bar.update))
        self._workers.wait()
        store.refresh()
        if self._settings.keep != "disk":
            self._hold(store)
        kind.store = store

    def _hold(self, store: Store) -> None:
        on_device = self._settings.keep == "device"
        try:
            store.hold(self._workers.device if on_device else torch.device("cpu"))
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"The caches do not fit into the GPU's memory ({error}). Set cache.keep = "
                '"memory" or "disk".'
            ) from error


def cache_bytes(config: TrainConfig, dataset: Dataset, base: Base, encoder: ImageEncoder) -> int:
    """Size of what is kept of latents, image features and text embeddings."""
    if config.cache.keep == "nothing":
        return 0
    channels = 2 * base.vae.config["latent_channels"]
    sizes = [dataset.size(view.picture) for view in dataset.targets]
    latents = channels * sum(h * w for h, w in sizes) // base.latent_scale**2
    features = len(dataset.references) * math.prod(encoder.shape)
    text = _text_bytes(dataset, base)
    kept_text = text if text <= config.cache.text_limit_gb * 1024**3 else 0
    return 2 * (latents + features) + kept_text  # float16


def _text_bytes(dataset: Dataset, base: Base) -> int:
    config = base.text_encoder.config
    return 2 * len(dataset.captions) * config.max_position_embeddings * config.hidden_size
