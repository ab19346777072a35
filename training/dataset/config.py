"""The data set builder's settings: typed, one TOML file, changed on the command line.

Every setting is listed below with its default and its meaning; training/settings.py reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.settings import check_choices, check_ranges, load_settings


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
    """What a person has to look at."""


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How the pictures are divided for training and testing."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """In which layouts the data set is written."""


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


_CHOICES: dict[str, tuple[str, ...]] = {}

_RANGES: dict[str, tuple[float, float]] = {  # lowest and highest allowed value
    "run.seed": (0, 2**63),
    "run.threads": (0, 1024),
    "ingest.max_megapixels": (1, 10_000),
    "frames.per_shot": (1, 1000),
}


def load_config(path: str | Path | None, overrides: Sequence[tuple[str, str]]) -> DatasetConfig:
    """Reads a TOML file and lays the command line's settings over it (see `load_settings`)."""
    return load_settings(DatasetConfig, path, overrides)
