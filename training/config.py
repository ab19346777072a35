"""The trainer's settings: typed, read from one TOML file, changed on the command line.

An unknown key is an error that suggests the nearest known one, so that a misspelt setting never
passes in silence. Every setting is listed below with its default and its meaning.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from animesketchnet_core.resampler import ResamplerConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found]

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that does not exist, has the wrong type, or is out of range."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The frozen models and where the adapter starts.

    Attributes:
        base: "mini" (embedded), or a folder with unet/, vae/, text_encoder/ (diffusers or mini).
        image_encoder: a transformers CLIP vision folder; empty: image_encoder/ of the base.
        start: "text" (K', V' copied from the text's K, V; random Resampler), or a weight file.
    """

    base: str = "mini"
    image_encoder: str = ""
    start: str = "text"


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

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)


_CHOICES = {
    "data.fit": ("crop", "pad", "bucket"),
    "cache.keep": ("disk", "memory", "device", "nothing"),
    "cache.precision": ("fp32", "bf16"),
    "objective.timesteps": ("uniform", "spread"),
    "optimizer.schedule": ("constant", "cosine"),
    "run.precision": ("fp32", "bf16", "fp16"),
    "run.checkpointing": ("none", "largest", "all"),
}

_RANGES = {  # lowest and highest allowed value
    "data.resolution": (8, 8192),
    "data.bucket_step": (8, 512),
    "run.seed": (0, 2**63),
    "data.self_reference": (0, 1),
    "views.count": (1, 1000),
    "views.crop": (0, 0.9),
    "views.stroke": (0, 0.1),
    "cache.batch": (1, 4096),
    "objective.drop_image": (0, 1),
    "objective.drop_text": (0, 1),
    "objective.drop_both": (0, 1),
    "objective.taught": (0, 1),
    "objective.min_snr_gamma": (0, 1e6),
    "objective.high_noise_weight": (1, 1000),
    "optimizer.learning_rate": (0, 1),
    "optimizer.ema_decay": (0, 0.999999),
    "run.batch_size": (1, 65536),
    "run.micro_batch": (0, 65536),
    "run.most_skipped": (0, 10**9),
    "run.max_steps": (0, 10**9),
    "run.save_every": (1, 10**9),
    "run.keep_last": (1, 10**6),
    "run.log_every": (1, 10**9),
    "preview.every": (0, 10**9),
    "preview.reference_count": (1, 1000),
    "preview.steps": (1, 999),
    "held_out.every": (0, 10**9),
    "held_out.share": (0, 0.9),
    "held_out.count": (2, 10**6),
    "held_out.timesteps": (1, 1000),
}


def _check_choices(config: TrainConfig) -> None:
    for key, known in _CHOICES.items():
        value = _get(config, key)
        if value not in known:
            raise ConfigError(f"{key} is {value!r}; expected one of {', '.join(known)}.")


def _check_ranges(config: TrainConfig) -> None:
    for key, (low, high) in _RANGES.items():
        value = _get(config, key)
        if not low <= value <= high:
            raise ConfigError(f"{key} is {value}; expected {low} to {high}.")
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
    if any(weight < 0 for weight in config.data.weights):
        raise ConfigError(f"data.weights is {list(config.data.weights)}; expected 0 or more.")
    if o.taught and not config.data.teacher_column:
        raise ConfigError(
            f"objective.taught is {o.taught}, but data.teacher_column is not set; it names the "
            "column of fuller captions."
        )
    if o.alpha[0] > o.alpha[1]:
        raise ConfigError(f"objective.alpha is {list(o.alpha)}; expected [lowest, highest].")


def _get(config: TrainConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """Builds the settings from a parsed TOML file.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type or range.
    """
    return _build(TrainConfig, values, "")


def load_config(path: str | Path | None, overrides: Sequence[tuple[str, str]] = ()) -> TrainConfig:
    """Reads a TOML file and lays the command line's settings over it.

    Args:
        path: the TOML file; None for the defaults alone.
        overrides: ("section.key", value as written on the command line).
    """
    values = {} if path is None else _read_toml(Path(path))
    for key, text in overrides:
        _override(values, key, text)
    return from_mapping(values)


def to_toml(config: TrainConfig) -> str:
    """Writes the settings as TOML that `load_config` reads back to the same settings."""
    lines = []
    for section in dataclasses.fields(config):
        lines.append(f"[{section.name}]")
        values = dataclasses.asdict(getattr(config, section.name))
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def flatten(config: TrainConfig) -> dict[str, Any]:
    """Lists the settings as {"section.key": value}."""
    return {
        f"{section}.{key}": value
        for section, values in dataclasses.asdict(config).items()
        for key, value in values.items()
    }


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def _override(values: dict[str, Any], key: str, text: str) -> None:
    section, _, name = key.partition(".")
    hint = _hint(section, name)
    values.setdefault(section, {})[name] = text if hint is str else _parse(key, text, hint)


def _hint(section: str, name: str) -> Any:
    """The type of "section.name", with the error for an unknown one."""
    sections = typing.get_type_hints(TrainConfig)
    if section not in sections:
        raise _unknown(f"{section}.{name}" if name else section, flatten(TrainConfig()))
    hints = typing.get_type_hints(sections[section])
    if name not in hints:
        raise _unknown(f"{section}.{name}", [f"{section}.{known}" for known in hints])
    return hints[name]


def _parse(key: str, text: str, hint: Any) -> Any:
    """Reads a command-line value with TOML's grammar; texts in a list need no quotes."""
    if hint == tuple[str, ...] and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    bare_list = typing.get_origin(hint) is tuple and not text.lstrip().startswith("[")
    try:
        return tomllib.loads(f"value = [{text}]" if bare_list else f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{key}: cannot read {text!r} as {_name(hint)}.") from error


def _build(kind: type[T], values: Any, where: str) -> T:
    """Builds a dataclass from a mapping, checking each key and type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; expected a section [{where}].")
    hints = typing.get_type_hints(kind)
    known = [f"{where}.{name}" if where else name for name in hints]
    for key in values:
        if key not in hints:
            raise _unknown(f"{where}.{key}" if where else key, known)
    arguments = {
        name: _convert(value, hints[name], f"{where}.{name}" if where else name)
        for name, value in values.items()
    }
    return kind(**arguments)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Checks a value's type; an integer may stand for a float, a list for a tuple."""
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(value, hint, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} is {value!r}; expected {_name(hint)}.")
    return value


def _convert_tuple(value: Any, hint: Any, where: str) -> tuple[Any, ...]:
    items = typing.get_args(hint)
    any_length = items[-1] is Ellipsis
    right_length = any_length or (isinstance(value, list) and len(value) == len(items))
    if not isinstance(value, list) or not right_length:
        raise ConfigError(f"{where} is {value!r}; expected {_name(hint)}.")
    return tuple(_convert(item, items[0], where) for item in value)


def _unknown(key: str, known: typing.Iterable[str]) -> ConfigError:
    known = sorted(known)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ConfigError(f"Unknown setting {key!r}.{hint} Known: {', '.join(known)}.")


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is not tuple:
        return {str: "a text", int: "an integer", float: "a number", bool: "true or false"}[hint]
    items = typing.get_args(hint)
    count = "a list" if items[-1] is Ellipsis else f"a list of {len(items)}"
    return f"{count}, each {_name(items[0])}"


def _toml_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(
        value, ensure_ascii=False
    )  # TOML's strings, numbers, booleans agree with JSON
