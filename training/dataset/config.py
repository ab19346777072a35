"""The data set builder's settings: typed, one TOML file, changed on the command line.

Every setting is listed below with its default and its meaning; training/settings.py reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.settings import ConfigError, check_choices, check_ranges, load_settings

LAYOUTS = (
    "trainer", "imagefolder", "controlnet", "lllyasviel", "kohya", "webdataset", "manifest",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where, and with what.

    Attributes:
        output: folder of the data set: ledger, pictures, exports, report.
        seed: fixes every random choice.
        device: "auto" (a GPU where there is one), "cpu", "cuda", ...: where networks run.
        threads: of torch and OpenCV on the CPU; 0 leaves their choice.
    """

    output: str = "output/dataset"
    seed: int = 0
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class RightsSettings:
    """Whose pictures these are. Nothing is exported without a note.

    Attributes:
        licence: of the sources, such as "CC BY 4.0", or "none" where there is none.
        holder: who holds the rights.
        note: what allows this use, in a sentence.
    """

    licence: str = ""
    holder: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """What the data set is made of.

    Attributes:
        sources: films, pictures, and folders of both; "demo" is the test film.
        max_megapixels: larger pictures are refused.
    """

    sources: tuple[str, ...] = ()
    max_megapixels: float = 200.0


@dataclass(frozen=True, kw_only=True)
class FramesSettings:
    """Which frames of a film become pictures."""

    per_shot: int = 3


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """What a picture must have, and must not have."""


@dataclass(frozen=True, kw_only=True)
class DedupSettings:
    """Which likenesses count as duplicates."""


@dataclass(frozen=True, kw_only=True)
class SketchSettings:
    """How a colour picture becomes a sketch."""

    method: str = "lines"


@dataclass(frozen=True, kw_only=True)
class AdjustSettings:
    """The paper's step after histogram analysis (section 3.1.1)."""


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """Who writes the captions, and what each must contain."""


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """What a person has to look at.

    Attributes:
        require: who has to have said yes before a picture goes on: "all" (a person, to each),
            "flagged" (a person, to those that a stage is in doubt about), "none".
        reasons: the page's short list for rejections; others can be typed.
    """

    require: str = "flagged"
    reasons: tuple[str, ...] = (
        "blurred", "text or logo", "bad sketch", "cut off", "not drawn", "duplicate", "dull",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How the pictures are divided for training and testing.

    Attributes:
        by: what stays together: "shot" (and what looks alike), or "source", a whole film or folder.
        train: share of the groups that are trained on; the three count relative to their sum.
        validation: share that training is watched on.
        test: share that nobody looks at before the end.
        near: pictures of different splits whose fingerprints (pHash, 64 bits) differ in that many
            bits or fewer are a fault; -1: none is.
    """

    by: str = "shot"
    train: float = 0.9
    validation: float = 0.05
    test: float = 0.05
    near: int = 4


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """In which layouts the data set is written, each into exports/LAYOUT.

    Attributes:
        layouts: of LAYOUTS.
        target: what is learnt to be drawn: "sketch" (as in the paper) or "colour"; the other one
            goes along as conditioning.
        invert_conditioning: with target "colour": sketches white on black, as ControlNets for lines
            want them.
        longest_side: larger pictures are made smaller, to that many pixels; 0: as they are.
        files: "copy", or "link" for hard links, which take no room but share their content with
            the data set's own pictures.
        shard_megabytes: of one .tar of webdataset.
        kohya_repeats: how often an epoch of kohya's scripts shows each picture.
        kohya_resolution: that kohya's scripts train at, in pixels.
    """

    layouts: tuple[str, ...] = ("trainer",)
    target: str = "sketch"
    invert_conditioning: bool = True
    longest_side: int = 0
    files: str = "copy"
    shard_megabytes: int = 1000
    kohya_repeats: int = 1
    kohya_resolution: int = 512

    def __post_init__(self) -> None:
        for name in self.layouts:
            if name not in LAYOUTS:
                raise ConfigError(
                    f"export.layouts has {name!r}; expected some of {', '.join(LAYOUTS)}."
                )


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """All settings, one section of the TOML file each."""

    run: RunSettings = field(default_factory=RunSettings)
    rights: RightsSettings = field(default_factory=RightsSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    frames: FramesSettings = field(default_factory=FramesSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    dedup: DedupSettings = field(default_factory=DedupSettings)
    sketch: SketchSettings = field(default_factory=SketchSettings)
    adjust: AdjustSettings = field(default_factory=AdjustSettings)
    caption: CaptionSettings = field(default_factory=CaptionSettings)
    review: ReviewSettings = field(default_factory=ReviewSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    export: ExportSettings = field(default_factory=ExportSettings)

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_ranges(self, _RANGES)


_CHOICES: dict[str, tuple[str, ...]] = {
    "split.by": ("shot", "source"),
    "export.target": ("sketch", "colour"),
    "export.files": ("copy", "link"),
    "review.require": ("all", "flagged", "none"),
}

_RANGES: dict[str, tuple[float, float]] = {  # lowest and highest allowed value
    "split.train": (0.01, 100),
    "split.validation": (0, 100),
    "split.test": (0, 100),
    "split.near": (-1, 64),
    "export.longest_side": (0, 100_000),
    "export.shard_megabytes": (1, 100_000),
    "export.kohya_repeats": (1, 10_000),
    "export.kohya_resolution": (64, 8192),
    "run.seed": (0, 2**63),
    "run.threads": (0, 1024),
    "ingest.max_megapixels": (1, 10_000),
    "frames.per_shot": (1, 1000),
}


def load_config(path: str | Path | None, overrides: Sequence[tuple[str, str]]) -> DatasetConfig:
    """Reads a TOML file and lays the command line's settings over it (see `load_settings`)."""
    return load_settings(DatasetConfig, path, overrides)
