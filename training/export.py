"""Writes the inference file: what nodes, ComfyUI_IPAdapter_plus and diffusers load as it is."""

from __future__ import annotations

from pathlib import Path

from animesketchnet_core.adapter import AnimeSketchAdapter
from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.weight_file import AdapterMetadata, write_adapter

from .config import TrainConfig
from .files import make_folder
from .models import ImageEncoder
from .settings import flatten

# Paths on the trainer's machine are nobody else's business.
_PRIVATE = ("run.output", "cache.folder", "data.folders", "preview.references", "preview.prompts")


_UNCONDITIONAL = {
    ImageFeatures.HIDDEN_STATES: "zeros after normalisation",
    ImageFeatures.IMAGE_EMBEDDING: "zero embedding",
}


def write_inference_file(
    path: Path,
    adapter: AnimeSketchAdapter,
    config: TrainConfig,
    encoder: ImageEncoder,
    step: int,
    seen: int,
) -> None:
    """Writes the adapter as fp16 safetensors with the facts of its training in the header.

    Args:
        path: the file; it appears whole or not at all.
        adapter: the weights that are shipped, the running average where there is one.
        config: the run's settings.
        encoder: the image encoder that made the features.
        step: steps that are done.
        seen: pictures that these steps have shown.
    """
    settings = {key: value for key, value in flatten(config).items() if key not in _PRIVATE}
    for key in ("model.base", "model.image_encoder", "model.start"):
        settings[key] = Path(settings[key]).name
    metadata = AdapterMetadata(
        num_tokens=adapter.image_proj.config.num_tokens or 0,  # a fixed number of those trained
        image_encoder=encoder.name,
        unconditional=_UNCONDITIONAL[encoder.reads],
        projection=config.model.projection,
        base_model=Path(config.model.base).name,
        training={"steps": step, "pictures_seen": seen, **settings},
    )
    make_folder(path.parent)
    write_adapter(path, adapter.state_dict(), metadata)
