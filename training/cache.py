"""Keeps what the frozen encoders make of the data, so that no training step computes it again.

Three stores: the parameters of the latents' distribution (mean and log variance, not one frozen
sample of it), CLIP's penultimate features, and text embeddings. An item's key is the hash of its
content (the picture file's bytes and the view of it, or the caption); a store's folder is named by
the hash of all else that decides the values (the encoder's weights, the preparation, the
precision). So a changed picture or model can never meet a stale value, and unchanged ones are never
computed twice.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from .config import TrainConfig
from .data import Dataset
from .files import write_atomically
from .models import Base, ImageEncoder, fingerprint
from .views import View
from .workers import Workers

T = TypeVar("T")

VERSION = "1"  # raise it when the code below or in data.py changes what is stored
CHUNK_BYTES = 32 * 1024**2  # an interrupted build loses at most this much


class Store:
    """Tensors of one shape under 32-byte keys, in files that are written once, whole, and mapped.

    Stored as float16. A file that is damaged is deleted when the store is opened, and its items
    are made again.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.folder = folder
        self.shape = shape
        self._chunks: list[Tensor] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._mapped: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def refresh(self) -> None:
        """Maps the chunks that were written since, by other processes too."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._mapped:
                self._map(path)

    @property
    def item_bytes(self) -> int:
        """Size of one item."""
        return 2 * torch.Size(self.shape).numel()

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Lists the keys that the store lacks, each once, in the given order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def add(self, keys: Sequence[bytes], values: Tensor) -> None:
        """Writes a chunk.

        Args:
            keys: n keys.
            values: [n, *shape], finite and within float16's range.
        """
        values = values.detach().to("cpu", torch.float16).contiguous()
        if not values.isfinite().all():
            raise ValueError(
                f"An encoder gave NaN, infinite or too large values for {self.folder.name}; run "
                'it in another precision (cache.precision = "fp32").'
            )
        tensors = {"keys": _pack(keys), "values": values}
        metadata = {"crc32": str(_crc32(**tensors))}
        path = self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:24]}.safetensors"
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
        self._map(path)

    def get(self, keys: Iterable[bytes]) -> Tensor:
        """Collects items: float16 [n, *shape], on the CPU."""
        places = [self._places[key] for key in keys]
        return torch.stack([self._chunks[chunk][row] for chunk, row in places])

    def _map(self, path: Path) -> None:
        """Maps a chunk's file into memory, if it is whole."""
        try:
            with safe_open(path, "pt") as file:
                keys, values = file.get_tensor("keys"), file.get_tensor("values")
                whole = file.metadata()["crc32"] == str(_crc32(keys, values))
        except (SafetensorError, OSError, KeyError, TypeError):
            whole, keys, values = False, torch.empty(0), torch.empty(0)
        if not whole or tuple(values.shape[1:]) != self.shape:
            path.unlink(missing_ok=True)  # another process may have found it too
            return
        self._mapped.add(path)
        for row, key in enumerate(keys):
            self._places[key.numpy().tobytes()] = (len(self._chunks), row)
        self._chunks.append(values)


class Encoded:
    """The data as the training step wants it: moments, features and text by name."""

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
        self._precision = config.cache.precision
        self._key = dataset.key
        folder = Path(config.cache.folder or Path(config.run.output) / "cache")
        self._workers = workers
        self._moments = self._build_moments(folder, config, dataset)
        self._features = self._build_features(folder, config, dataset, encoder)
        self._text = self._build_text(folder, config, dataset)
        with self._autocast():
            self.no_features = encoder.unconditional().to("cpu", torch.float16)
            self.no_text = base.encode_text([""]).to("cpu", torch.float16)

    def moments(self, views: Sequence[View]) -> Tensor:
        """Mean and log variance of the pictures' latents: [b, 8, h, w]."""
        return self._moments.get(map(self._key, views))

    def features(self, views: Sequence[View]) -> Tensor:
        """CLIP's penultimate features of the pictures: [b, tokens, width]."""
        return self._features.get(map(self._key, views))

    def text(self, captions: Sequence[str]) -> Tensor:
        """Text embeddings: [b, 77, cross_attention_dim]."""
        if self._text is not None:
            return self._text.get(_text_key(caption) for caption in captions)
        with self._autocast():
            return self._base.encode_text(captions).half()  # the type that the cache has

    @property
    def moments_shape(self) -> tuple[int, ...]:
        """Of one picture: (8, h, w)."""
        return self._moments.shape

    def _autocast(self) -> torch.autocast:
        device = self._base.text_encoder.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._precision == "bf16")

    def _build_moments(self, folder: Path, config: TrainConfig, dataset: Dataset) -> Store:
        side = config.data.resolution // self._base.latent_scale
        recipe = [fingerprint(self._base.vae), config.data.resolution, config.data.fit]
        channels = 2 * self._base.vae.config["latent_channels"]
        store = self._open(folder, "moments", recipe, (channels, side, side))

        def encode(views: Sequence[View]) -> Tensor:
            pixels = torch.cat([dataset.target_pixels(view) for view in views])
            return self._base.encode_pictures(pixels)

        self._fill(store, "latents", dataset.targets, encode, config.cache.batch, dataset.key)
        return store

    def _build_features(
        self, folder: Path, config: TrainConfig, dataset: Dataset, encoder: ImageEncoder
    ) -> Store:
        recipe = [fingerprint(encoder.model), "penultimate", "pad white"]
        store = self._open(folder, "features", recipe, (encoder.tokens, encoder.width))

        def encode(views: Sequence[View]) -> Tensor:
            return encoder.features(
                torch.cat([dataset.reference_pixels(view, encoder.size) for view in views])
            )

        batch = config.cache.batch
        self._fill(store, "image features", dataset.references, encode, batch, dataset.key)
        return store

    def _build_text(self, folder: Path, config: TrainConfig, dataset: Dataset) -> Store | None:
        captions = dataset.captions
        text_config = self._base.text_encoder.config
        shape = (text_config.max_position_embeddings, text_config.hidden_size)
        size = 2 * shape[0] * shape[1] * len(captions) / 1024**3
        if size > config.cache.text_limit_gb:
            print(
                f"text: {len(captions)} captions would take {size:.1f} GB, more than "
                f"cache.text_limit_gb = {config.cache.text_limit_gb:g}; they are encoded at each "
                "step instead."
            )
            return None
        tokenizer = hashlib.sha256(repr(sorted(self._base.tokenizer.get_vocab().items())).encode())
        recipe = [fingerprint(self._base.text_encoder), tokenizer.hexdigest()]
        store = self._open(folder, "text", recipe, shape)
        batch = 8 * config.cache.batch  # a caption costs far less than a picture
        self._fill(store, "text", captions, self._base.encode_text, batch, _text_key)
        return store

    def _open(self, folder: Path, kind: str, recipe: list, shape: tuple[int, ...]) -> Store:
        parts = [VERSION, kind, self._precision, *map(str, recipe), str(shape)]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        store = Store(folder / f"{kind}-{digest[:16]}", shape)
        self._workers.wait()  # all must find the same items missing
        return store

    def _fill(
        self,
        store: Store,
        label: str,
        items: Sequence[T],
        encode: Callable[[Sequence[T]], Tensor],
        batch: int,
        key_of: Callable[[T], bytes],
    ) -> None:
        """Encodes the items that a store lacks, in batches, and writes them chunk by chunk."""
        by_key = {key_of(item): item for item in items}
        missing = self._workers.share(store.missing(by_key))
        per_chunk = max(batch, CHUNK_BYTES // store.item_bytes)
        with tqdm(total=len(missing), desc=f"encoding {label}", disable=not missing) as bar:
            for start in range(0, len(missing), per_chunk):
                keys = missing[start : start + per_chunk]
                values = []
                for first in range(0, len(keys), batch):
                    part = [by_key[key] for key in keys[first : first + batch]]
                    with self._autocast():
                        values.append(encode(part).to("cpu", torch.float16))
                    bar.update(len(part))
                store.add(keys, torch.cat(values))
        self._workers.wait()
        store.refresh()


def cache_bytes(config: TrainConfig, dataset: Dataset, base: Base, encoder: ImageEncoder) -> int:
    """Size of the caches of latents, image features and text embeddings."""
    side = config.data.resolution // base.latent_scale
    text = base.text_encoder.config
    numbers = (
        len(dataset.targets) * 2 * base.vae.config["latent_channels"] * side**2
        + len(dataset.references) * encoder.tokens * encoder.width
        + len(dataset.captions) * text.max_position_embeddings * text.hidden_size
    )
    return 2 * numbers  # float16


def _text_key(caption: str) -> bytes:
    return hashlib.sha256(caption.encode()).digest()


def _pack(keys: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), 32)


def _crc32(keys: Tensor, values: Tensor) -> int:
    checksum = 0
    for tensor in (keys, values):
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(content, checksum)  # type: ignore[arg-type]
    return checksum
