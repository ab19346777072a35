"""The trainer's settings: typed, read from one TOML file, changed on the command line.

Every setting is listed below with its default and its meaning; settings.py reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.image_projection import EmbeddingProjectionConfig, ProjectionConfig
from animesketchnet_core.resampler import ResamplerConfig

from .settings import ConfigError, check_choices, check_ranges, load_settings
from .settings import from_mapping as settings_from_mapping


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The frozen models and where the adapter starts.

    Attributes:
        base: "mini" (embedded), or a folder with unet/, vae/, text_encoder/ (diffusers or mini).
        image_encoder: a transformers CLIP vision folder; empty: image_encoder/ of the base.
        start: "text" (K', V' copied from the text's K, V; random Resampler), or a weight file.
        projection: "resampler" (AnimeSketchNet, IP-Adapter-Plus), or "linear": the plain
            IP-Adapter's, one layer from the image embedding to four tokens.
    """

    base: str = "mini"
    image_encoder: str = ""
    start: str = "text"
    projection: str = "resampler"

    @property
    def reads(self) -> ImageFeatures:
        """What of the image encoder the projection reads."""
        linear = self.projection == "linear"
        return ImageFeatures.IMAGE_EMBEDDING if linear else ImageFeatures.HIDDEN_STATES


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The training pictures.

    Attributes:
        folders: the data sets, each in a layout that sources.py knows.
        weights: how often an epoch shows each set's pictures, e.g. [1.0, 0.25]; empty: once.
        picture_column: column of file names, where a list describes the pictures.
        caption_column: column of captions.
        teacher_column: column of fuller captions, which also say what the reference shows, for
            objective.taught; empty: none.
        resolution: side of the square training picture, in pixels; of a bucket's size, the square
            root of its area.
        fit: "crop" cuts the longer side, "pad" adds white to the shorter one, "bucket" trains each
            picture at the size that is nearest to its proportions (framing.py).
        bucket_step: sides of buckets are multiples of it, in pixels; Stable Diffusion needs 64.
        reference: what the adapter sees: "self" (the target), "group" (another picture with the
            same value in group_column), or the name of a column that holds a file name.
        group_column: metadata column that names a picture's group.
        self_reference: share of samples whose reference is the target itself, with "group".
    """

    folders: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    picture_column: str = "file_name"
    caption_column: str = "text"
    teacher_column: str = ""
    resolution: int = 512
    fit: str = "crop"
    bucket_step: int = 64
    reference: str = "self"
    group_column: str = "group"
    self_reference: float = 0.33


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Changed views of each picture, against learning it by heart (views.py).

    Attributes:
        count: views of each picture that are cached and drawn from; 1: only the picture as it is.
        flip: mirror half of them, but none whose captions say left or right.
        crop: largest share of a side that is cut away.
        stroke: by how much the reference's lines get thicker or thinner at most, as a share of the
            shorter side.
    """

    count: int = 1
    flip: bool = True
    crop: float = 0.1
    stroke: float = 0.003


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What the frozen encoders made of the data, kept so that no step computes it again.

    Attributes:
        folder: where the caches lie; empty: cache/ in the output folder.
        keep: from where a step reads them: "disk", "memory" (copied into the CPU's), "device" (into
            the GPU's), or "nothing", which keeps none and encodes again in every step.
        precision: "fp32" or "bf16", in which the encoders run; stored as float16 either way.
        batch: pictures that are encoded at once.
        text_limit_gb: above this size text embeddings are not cached but made at each step.
    """

    folder: str = ""
    keep: str = "disk"
    precision: str = "fp32"
    batch: int = 16
    text_limit_gb: float = 3.0


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """The loss and the conditions' dropout.

    The three drops exclude each other: without picture go drop_image + drop_both of the samples.

    Attributes:
        drop_image: share of samples that lose the reference only.
        drop_text: share of samples that lose the caption only.
        drop_both: share of samples that lose both.
        alpha: range from which each sample's alpha is drawn.
        timesteps: "uniform", or "spread": every batch holds little noise and much, which steadies
            the loss.
        taught: share of samples that learn from the captions of data.teacher_column.
        min_snr_gamma: Hang et al. 2023 (arXiv:2303.09556); 0 switches it off, 5 is their value.
        high_noise_weight: more weight where there is more noise than picture, at most so much; 1
            switches it off. What a picture shows as a whole is decided there (objective.py).
    """

    drop_image: float = 0.05
    drop_text: float = 0.05
    drop_both: float = 0.05
    alpha: tuple[float, float] = (1.0, 1.0)
    timesteps: str = "uniform"
    taught: float = 0.0
    min_snr_gamma: float = 0.0
    high_noise_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW, its schedule, and what steadies it.

    Attributes:
        learning_rate: peak rate.
        weight_decay: decoupled weight decay.
        betas: decay of Adam's two moments.
        epsilon: Adam's denominator floor.
        warmup_steps: steps of linear rise to the peak.
        schedule: "constant" or "cosine" (falls to final_rate * learning_rate at max_steps).
        final_rate: where the cosine ends, as a share of learning_rate.
        clip_norm: largest norm of the gradient; 0 switches clipping off.
        ema_decay: decay of the weights' running average that is shipped; 0 switches it off.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    warmup_steps: int = 0
    schedule: str = "constant"
    final_rate: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long, how big, where.

    Attributes:
        output: folder of the run: adapter.safetensors, checkpoints/, previews/, log.jsonl.
        seed: fixes the start, the order, the noise and every drop.
        batch_size: samples in a step, of all processes together.
        micro_batch: samples that one process computes at once, their gradients add up; 0: as many
            as fit into memory.
        checkpointing: blocks of the UNet that are computed again in place of being kept in memory:
            "none", "largest" (those of the finest level) or "all". Saves memory, costs time.
        compile: run the UNet through torch.compile; the first steps take minutes.
        overfit: shows the first batch, with the same noise, in every step: a check that the model
            can learn at all, whose loss must fall to a small part.
        most_skipped: steps whose gradients were not finite are skipped; more than this end the run.
        max_steps: the run ends after this step, and the schedule with it.
        max_minutes: ends the process cleanly after this time (run again to go on); 0: no limit.
        precision: "fp32", "bf16" or "fp16" of the frozen UNet and of autocast.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
        threads: torch's CPU threads; 0 leaves torch's choice.
        save_every: steps between checkpoints.
        keep_last: checkpoints that are kept.
        log_every: steps between lines of the log.
    """

    output: str = "output/run"
    seed: int = 0
    batch_size: int = 8
    micro_batch: int = 0
    checkpointing: str = "none"
    compile: bool = False
    overfit: bool = False
    most_skipped: int = 20
    max_steps: int = 100_000
    max_minutes: float = 0.0
    precision: str = "bf16"
    device: str = "auto"
    threads: int = 0
    save_every: int = 1000
    keep_last: int = 2
    log_every: int = 10


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings:
    """Pictures that training never shows, on which the adapter is judged (held_out.py).

    Attributes:
        every: steps between measurements; 0 switches them off, and all pictures are trained on.
        share: of the pictures, chosen by their content, so that the choice never changes.
        count: most pictures that are measured.
        timesteps: at how many timesteps each is measured.
    """

    every: int = 0
    share: float = 0.05
    count: int = 64
    timesteps: int = 4


@dataclass(frozen=True, kw_only=True)
class PreviewSettings:
    """The grid of prompt x reference x alpha that shows what has been learnt.

    Attributes:
        every: steps between grids; 0 switches them off.
        prompts: texts, one block of rows each.
        references: picture files, one row each; empty: some pictures of the data.
        reference_count: how many of the data's pictures, when references is empty.
        alphas: one column each.
        steps: DDIM steps.
        guidance: scale of classifier-free guidance.
    """

    every: int = 0
    prompts: tuple[str, ...] = ("",)
    references: tuple[str, ...] = ()
    reference_count: int = 4
    alphas: tuple[float, ...] = (0.0, 0.5, 1.0)
    steps: int = 25
    guidance: float = 5.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings, one section of the TOML file each."""

    model: ModelSettings = field(default_factory=ModelSettings)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    data: DataSettings = field(default_factory=DataSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)
    preview: PreviewSettings = field(default_factory=PreviewSettings)
    held_out: HeldOutSettings = field(default_factory=HeldOutSettings)

    def image_projection(self, encoder_width: int, text_width: int) -> ProjectionConfig:
        """The kind and sizes of the image projection.

        Args:
            encoder_width: of what it reads (`ImageEncoder.width`).
            text_width: of the tokens that the UNet attends to.
        """
        if self.model.projection == "linear":
            return EmbeddingProjectionConfig(embedding_dim=encoder_width, output_dim=text_width)
        return self.resampler

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_ranges(self, _RANGES)
        _check_combinations(self)


_CHOICES = {
    "model.projection": ("resampler", "linear"),
    "data.fit": ("crop", "pad", "bucket"),
    "cache.keep": ("disk", "memory", "device", "nothing"),
    "cache.precision": ("fp32", "bf16"),
    "objective.timesteps": ("uniform", "spread"),
    "optimizer.schedule": ("constant", "cosine"),
    "run.precision": ("fp32", "bf16", "fp16"),
    "run.checkpointing": ("none", "largest", "all"),
}

_RANGES = {  # lowest and highest allowed value
    "resampler.dim": (1, 65536),
    "resampler.depth": (1, 1000),
    "resampler.dim_head": (1, 65536),
    "resampler.heads": (1, 1000),
    "resampler.num_queries": (1, 65536),
    "resampler.embedding_dim": (1, 65536),
    "resampler.output_dim": (1, 65536),
    "resampler.ff_mult": (1, 1000),
    "data.resolution": (8, 8192),
    "data.bucket_step": (8, 512),
    "run.seed": (0, 2**63 - 1),
    "data.self_reference": (0, 1),
    "views.count": (1, 1000),
    "views.crop": (0, 0.9),
    "views.stroke": (0, 0.1),
    "cache.batch": (1, 4096),
    "cache.text_limit_gb": (0, 1e6),
    "objective.drop_image": (0, 1),
    "objective.drop_text": (0, 1),
    "objective.drop_both": (0, 1),
    "objective.taught": (0, 1),
    "objective.min_snr_gamma": (0, 1e6),
    "objective.high_noise_weight": (1, 1000),
    "optimizer.learning_rate": (0, 1),
    "optimizer.weight_decay": (0, 1000),
    "optimizer.epsilon": (0, 1),
    "optimizer.warmup_steps": (0, 10**9),
    "optimizer.final_rate": (0, 1),
    "optimizer.clip_norm": (0, 1e9),
    "optimizer.ema_decay": (0, 0.999999),
    "run.batch_size": (1, 65536),
    "run.micro_batch": (0, 65536),
    "run.most_skipped": (0, 10**9),
    "run.max_steps": (0, 10**9),
    "run.max_minutes": (0, 1e9),
    "run.threads": (0, 4096),
    "run.save_every": (1, 10**9),
    "run.keep_last": (1, 10**6),
    "run.log_every": (1, 10**9),
    "preview.every": (0, 10**9),
    "preview.reference_count": (1, 1000),
    "preview.steps": (1, 999),
    "preview.guidance": (0, 1000),
    "held_out.every": (0, 10**9),
    "held_out.share": (0, 0.9),
    "held_out.count": (2, 10**6),
    "held_out.timesteps": (1, 1000),
}


_MOST_SHOWN = 10_000  # times in an epoch


def _check_combinations(config: TrainConfig) -> None:
    o = config.objective
    if o.drop_image + o.drop_text + o.drop_both > 1:
        raise ConfigError(
            "objective.drop_image, drop_text and drop_both exclude each other, so their sum must "
            f"not exceed 1; it is {o.drop_image + o.drop_text + o.drop_both}."
        )
    if config.data.fit == "bucket" and config.data.bucket_step > config.data.resolution:
        raise ConfigError(
            f"data.bucket_step is {config.data.bucket_step}, more than data.resolution = "
            f"{config.data.resolution}; expected a part of it."
        )
    if not all(0 <= weight <= _MOST_SHOWN for weight in config.data.weights):
        raise ConfigError(
            f"data.weights is {list(config.data.weights)}; expected 0 to {_MOST_SHOWN} each."
        )
    if not all(0 <= beta < 1 for beta in config.optimizer.betas):
        raise ConfigError(
            f"optimizer.betas is {list(config.optimizer.betas)}; expected 0 or more, below 1."
        )
    if o.taught and not config.data.teacher_column:
        raise ConfigError(
            f"objective.taught is {o.taught}, but data.teacher_column is not set; it names the "
            "column of fuller captions."
        )
    if o.alpha[0] > o.alpha[1]:
        raise ConfigError(f"objective.alpha is {list(o.alpha)}; expected [lowest, highest].")


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """Builds the settings from a parsed TOML file (see `settings.from_mapping`)."""
    return settings_from_mapping(TrainConfig, values)


def load_config(path: str | Path | None, overrides: Sequence[tuple[str, str]] = ()) -> TrainConfig:
    """Reads a TOML file and lays the command line's settings over it (see `load_settings`)."""
    return load_settings(TrainConfig, path, overrides)
