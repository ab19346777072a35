"""The settings of an evaluation: typed, read from one TOML file, changed on the command line.

Methods are a list, one `[[methods]]` each; all else are sections (see training/settings.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from training.models import PRECISIONS
from training.settings import ConfigError, check_choices, check_ranges

KINDS = ("text", "adapter", "controlnet", "sd3", "comfyui", "folder")
ON_BASE = ("text", "adapter", "controlnet")  # kinds that draw with draw.base
WITH_ALPHA = ("adapter", "controlnet")  # kinds whose reference has a strength


@dataclass(frozen=True, kw_only=True)
class CaseSettings:
    """What is drawn.

    Attributes:
        pairs: prompts and references: "mini" (test portraits of the mini world), or a data set in
            any layout that the trainer reads.
        prompt_column: column of the prompt, where a list describes the pairs.
        reference_column: column of the reference's file; empty: the listed picture itself.
        limit: use only so many pairs; 0: all.
        seeds: pictures of each pair, from different noise (table 1).
        more_prompts: the first so many pairs are drawn more often (table 2).
        more: so many further pictures of each; 0: no table 2.
        training: folders of the pictures that the adapter was trained on, for the measure of
            copying; "mini" for those of the mini world; empty: it is left out.
    """

    pairs: str = "mini"
    prompt_column: str = "text"
    reference_column: str = ""
    limit: int = 0
    seeds: int = 1
    more_prompts: int = 5
    more: int = 40
    training: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How the diffusers methods draw; the defaults are the paper's (section 4.1).

    Attributes:
        base: "mini", a folder of SD v1.5 in diffusers' layout, or a checkpoint file.
        image_encoder: CLIP ViT-H/14, a folder or a file; empty: image_encoder/ of the base.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        steps: of DDIM.
        guidance: scale of classifier-free guidance.
        batch: pictures that are drawn at once.
    """

    base: str = "mini"
    image_encoder: str = ""
    height: int = 512
    width: int = 512
    steps: int = 50
    guidance: float = 7.5
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Who draws.

    Attributes:
        name: in tables and folders.
        kind: "text" (the base alone), "adapter" (AnimeSketchNet, IP-Adapter, IP-Adapter-Plus: the
            file tells), "controlnet", "sd3", "comfyui" (any workflow) or "folder" (pictures that
            were drawn elsewhere).
        weights: the adapter's file, the folder of ControlNet or Stable Diffusion 3.
        alpha: strength of the reference; 0.5 is the paper's for adapters, 1 ControlNet's own.
        control: what the ControlNet reads: "scribble", "lineart" or "lineart_anime".
        workflow: in ComfyUI's API form.
        address: of a running ComfyUI.
        pictures: folder with a picture for each case, PAIR-SEED.png.
    """

    name: str = ""
    kind: str = "adapter"
    weights: str = ""
    alpha: float = 0.5
    control: str = "lineart"
    workflow: str = ""
    address: str = "http://127.0.0.1:8188"
    pictures: str = ""


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """What is measured. Lines, likeness to a sketch and diversity need no weights.

    Attributes:
        clip: CLIP ViT-B/32 as a transformers folder, or "ViT-B-32-quickgelu:FILE" for open_clip;
            "mini": the mini world's own; empty: no CLIP score.
        blip2: folder of Salesforce/blip2-itm-vit-g; empty: no BLIP columns.
        dino: folder of facebook/dinov2-base; empty: none.
        judge: "mini": the mini world's judge; empty: none.
    """

    clip: str = ""
    blip2: str = ""
    dino: str = ""
    judge: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """What is shown.

    Attributes:
        ours: the method that all others are compared with.
        table1: columns of table 1 by their keys, the paper's by default; what was not measured is
            left out.
        table2: the methods of table 2.
        figure_pairs: rows of figure 3.
        figure_prompts: rows of figure 4.
    """

    ours: str = "AnimeSketchNet"
    table1: tuple[str, ...] = ("blip_itm", "blip_cosine", "clip_score")
    table2: tuple[str, ...] = ("AnimeSketchNet", "IP-Adapter")
    figure_pairs: int = 5
    figure_prompts: int = 5


@dataclass(frozen=True, kw_only=True)
class AlphaSettings:
    """The sweep over alpha.

    Attributes:
        methods: adapters and ControlNets that are drawn at several alphas; empty: no sweep.
        values: the alphas.
        pairs: so many pairs.
        text: column that says how well a picture follows its prompt.
        fidelity: column that says how well it follows its reference.
        write: writes the recommended alpha into the metadata of the first method's weight file.
    """

    methods: tuple[str, ...] = ()
    values: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    pairs: int = 50
    text: str = "clip_score"
    fidelity: str = "clip_i"
    write: bool = False


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where.

    Attributes:
        output: folder of pictures, scores, tables and the report.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
        precision: "fp32", "bf16" or "fp16" of the UNet.
    """

    output: str = "output/evaluation"
    device: str = "auto"
    precision: str = "bf16"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """All settings, one section of the TOML file each."""

    cases: CaseSettings = field(default_factory=CaseSettings)
    draw: DrawSettings = field(default_factory=DrawSettings)
    methods: tuple[MethodSettings, ...] = ()
    measures: MeasureSettings = field(default_factory=MeasureSettings)
    tables: TableSettings = field(default_factory=TableSettings)
    alpha: AlphaSettings = field(default_factory=AlphaSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        check_choices(self, {"run.precision": tuple(PRECISIONS)})
        check_ranges(self, _RANGES)
        _check_methods(self)

    def method(self, name: str) -> MethodSettings:
        """The settings of a method."""
        return next(method for method in self.methods if method.name == name)


_RANGES: dict[str, tuple[float, float]] = {  # lowest and highest allowed value
    "cases.limit": (0, 10**9),
    "cases.seeds": (1, 10**6),
    "cases.more_prompts": (1, 10**6),
    "cases.more": (0, 10**6),
    "draw.height": (8, 8192),
    "draw.width": (8, 8192),
    "draw.steps": (1, 999),
    "draw.guidance": (0, 100),
    "draw.batch": (1, 4096),
    "tables.figure_pairs": (0, 100),
    "tables.figure_prompts": (0, 100),
    "alpha.pairs": (1, 10**9),
}
_NAME = re.compile(r"[\w .,+()-]+")
_WANTED = {  # what a kind cannot do without
    "adapter": ("weights",),
    "controlnet": ("weights",),
    "sd3": ("weights",),
    "comfyui": ("workflow",),
    "folder": ("pictures",),
}


def _check_methods(config: EvaluateConfig) -> None:
    names = [method.name for method in config.methods]
    for number, method in enumerate(config.methods, 1):
        where = f"methods, entry {number} ({method.name or 'no name'})"
        if not _NAME.fullmatch(method.name) or not method.name.strip(" ."):
            raise ConfigError(
                f"{where}: name is {method.name!r}; expected letters, digits, spaces, "
                "commas, and . + - ( )."
            )
        if names.count(method.name) > 1:
            raise ConfigError(f"{where}: two methods have this name; give each its own.")
        if method.kind not in KINDS:
            raise ConfigError(f"{where}: kind is {method.kind!r}; expected {', '.join(KINDS)}.")
        for key in _WANTED.get(method.kind, ()):
            if not getattr(method, key):
                raise ConfigError(f"{where}: {key} is empty; kind {method.kind!r} needs it.")
        if not 0 <= method.alpha <= 2:
            raise ConfigError(f"{where}: alpha is {method.alpha}; expected 0 to 2.")
    wanted = {"tables.ours": [config.tables.ours], "tables.table2": config.tables.table2,
              "alpha.methods": config.alpha.methods}  # fmt: skip
    for key, methods in wanted.items():
        for name in methods:
            if names and name not in names:
                raise ConfigError(f"{key} names {name!r}; the methods are {', '.join(names)}.")
    for name in config.alpha.methods:
        if names and (kind := config.method(name).kind) not in WITH_ALPHA:
            raise ConfigError(f"alpha.methods names {name!r}, of kind {kind!r}: it has no alpha.")
    if any(not 0 <= value <= 2 for value in config.alpha.values):
        raise ConfigError(f"alpha.values is {list(config.alpha.values)}; expected 0 to 2 each.")
