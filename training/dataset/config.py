"""The data set builder's settings: typed, one TOML file, changed on the command line.

Every setting is listed below with its default and its meaning; training/settings.py reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from animesketchnet_core.prompt_keywords import KEYWORDS
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
        threads: of torch, OpenCV and onnxruntime on the CPU, and processes of dedup; 0 leaves their
            choice.
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
    """Which frames of a film become pictures.

    Levels are of 8 bits, in a grey picture 256 wide, in the tile of 8 x 8 that changes most.

    Attributes:
        per_shot: pictures of one shot at most.
        different: levels by which two of them differ at least.
        held: levels up to which two frames show one drawing; raise it for strong grain.
        min_hold: seconds a drawing stands, to be settled; a movement drawn on threes has 0.125.
        min_shot: seconds; of shorter shots nothing is taken.
        moving: of a shot where nothing stands still: "sharpest" takes one frame, "none" none.
        cut_ratio: AdaptiveDetector's threshold: a cut's change by the changes around it.
        cut_content: AdaptiveDetector's least change at a cut, in levels; below PySceneDetect's 15,
            which misses cuts between alike backgrounds, as most tiles have to change as well.
        deinterlace: "auto" (films that are combed wherever they move), "always" or "never".
        hdr_peak: nits of an HDR film's brightest; 0 asks the film.
    """

    per_shot: int = 3
    different: float = 5.0
    held: float = 3.0
    min_hold: float = 0.2
    min_shot: float = 0.25
    moving: str = "sharpest"
    cut_ratio: float = 3.0
    cut_content: float = 3.0
    deinterlace: str = "auto"
    hdr_peak: float = 0.0


QUALITY_CHECKS = (
    "size", "aspect", "resolution", "upscale", "blur", "motion", "dark", "bright", "empty",
    "monochrome", "line_art", "live_action", "subtitle", "logo", "credits",
)  # fmt: skip
"""What stage `filter` looks at, in this order."""
WORSE_BELOW = ("size", "resolution", "dark", "empty", "monochrome")
"""The checks in which less is worse."""


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """What a picture must have, and must not have.

    Each check has an action, "drop", "review", "keep" (only noted) or "off", and a pair NAME_at of
    thresholds: from the first on a picture is doubtful and goes to review, from the second on the
    action is taken.

    Attributes:
        text: whether text is looked for (rapidocr), which most of the time goes into.
        text_size: short side in pixels of the copy in which it is looked for.
        classifier: ONNX network that tells live action (deepghs/anime_real_cls); "" for none. With
            it, its probability is the score of live_action.
        size: short side in pixels, smaller is worse.
        aspect: longer side against the shorter.
        resolution: effective resolution, in pixels of the short side; smaller is worse. For a set
            in high resolution raise it, such as to 1080, 720.
        upscale: how many times the picture was enlarged: short side against effective resolution.
        blur: width of the sharper edges, in pixels at a short side of 720 at most.
        motion: widths of edges in the direction of motion against those across.
        dark: grey value, 0 to 1, that the lightest twentieth has; smaller is worse.
        bright: grey value, 0 to 1, that the darkest twentieth has.
        empty: part of the picture with something in it; smaller is worse.
        monochrome: distance of colours from the mean one, in Lab; smaller is worse.
        line_art: part of white paper, if there are no colours but strokes on it.
        live_action: 0 (drawn) to 1 (nothing of a drawing); in films half of it is the median of
            all of the film's pictures.
        subtitle: how surely one was read; one whose drawing exists without it is always dropped.
        logo: part of the source's shots that show the same mark at the same place.
        credits: titles and credits: letters' part of all that is to be seen.
    """

    text: bool = True
    text_size: int = 480
    classifier: str = ""
    size: str = "drop"
    size_at: tuple[float, float] = (256.0, 256.0)
    aspect: str = "drop"
    aspect_at: tuple[float, float] = (3.0, 4.0)
    resolution: str = "drop"
    resolution_at: tuple[float, float] = (240.0, 200.0)
    upscale: str = "drop"
    upscale_at: tuple[float, float] = (1.75, 2.6)
    blur: str = "drop"
    blur_at: tuple[float, float] = (2.9, 3.6)
    motion: str = "review"
    motion_at: tuple[float, float] = (2.0, 2.5)
    dark: str = "drop"
    dark_at: tuple[float, float] = (0.25, 0.12)
    bright: str = "drop"
    bright_at: tuple[float, float] = (0.8, 0.92)
    empty: str = "drop"
    empty_at: tuple[float, float] = (0.12, 0.04)
    monochrome: str = "drop"
    monochrome_at: tuple[float, float] = (8.0, 4.0)
    line_art: str = "drop"
    line_art_at: tuple[float, float] = (0.4, 0.6)
    live_action: str = "drop"
    live_action_at: tuple[float, float] = (0.36, 0.6)
    subtitle: str = "drop"
    subtitle_at: tuple[float, float] = (0.6, 0.8)
    logo: str = "drop"
    logo_at: tuple[float, float] = (0.5, 0.7)
    credits: str = "drop"
    credits_at: tuple[float, float] = (0.06, 0.12)

    def __post_init__(self) -> None:
        for name in QUALITY_CHECKS:
            doubtful, certain = getattr(self, f"{name}_at")
            falls = name in WORSE_BELOW
            if not (certain <= doubtful if falls else certain >= doubtful):
                raise ConfigError(
                    f"filter.{name}_at is {doubtful:g}, {certain:g}; expected the doubtful value, "
                    f"then the certain one, which is {'smaller' if falls else 'larger'} or equal."
                )


@dataclass(frozen=True, kw_only=True)
class DedupSettings:
    """Which likenesses are duplicates; of each kind: "drop" all but the best, "keep", "review".

    Levels are of 255. They are measured on parts of a 64th of the width, coding noise taken off.

    Attributes:
        exact: the same pixels.
        held: the same drawing, coded anew.
        across: the same drawing in another source, such as an opening.
        camera: the same picture, moved or zoomed.
        mirrored: a mirror image; looked for only with `find_mirrored`.
        subtitled: the same drawing with text below.
        expression: a small part differs: a face, a hand.
        relit: the same lines in other light. Such scenes are painted anew, and are few.
        same_shot: of one shot, with a larger motion; at most `same_shot_most` are kept.
        same_shot_most: how many.
        expression_change: levels from which a part is drawn anew; below, it is coding noise.
        camera_change: the same where the camera moved, fine lines not counted.
        camera_overlap: share of the picture that must be the same for `camera` to count.
        light_change: levels, on average, from which the light is another.
        radius: bits of 64 by which the hashes of candidates may differ.
        find_mirrored: look for mirror images, too.
    """

    exact: str = "drop"
    held: str = "drop"
    across: str = "drop"
    camera: str = "drop"
    mirrored: str = "drop"
    subtitled: str = "review"
    expression: str = "keep"
    relit: str = "keep"
    same_shot: str = "keep"
    same_shot_most: int = 3
    expression_change: float = 2.5
    camera_change: float = 1.5
    camera_overlap: float = 0.75
    light_change: float = 4.0
    radius: int = 10
    find_mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class SketchSettings:
    """How a colour picture becomes a sketch.

    Enlarging before sketching (the paper works at up to 10240 x 10240) brings no detail: Lanczos
    adds none. It makes a network's strokes thinner against the picture, and lets "lines" be finer
    than two pixels; the sketch, brought back, has smoother edges. Time grows with the square of it.

    Attributes:
        method: "lines" (flow-based difference of Gaussians), "ink" (the same with solid blacks,
            XDoG), "anime2sketch" (its generator, netG.pth), or "onnx" (any network).
        weights: path of the generator's or the network's file.
        line_width: of "lines" and "ink", 0.25 (fine) to 4 (bold).
        detail: of "lines" and "ink", 0 (outlines) to 1 (all).
        resolution: side in pixels of a square as large as what is sketched, which then is enlarged
            to the picture; 0: the picture as it is. Anime2Sketch was trained at 512: there its
            strokes are boldest and fewest.
        upscale: pictures are enlarged first until the longer side has that many pixels; 0: never.
        keep_large: an enlarged picture's sketch stays as large, and no longer fits its colour
            picture pixel for pixel; otherwise it is brought back.
        tiling: "exact" (Anime2Sketch as on the whole picture, strip by strip) or "tiles" (tiles
            that are blended, as in the paper; always so with "onnx").
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share.
        margin: pixels at a tile's edge that are dropped where its neighbour has them.
        multiple: tiles begin at multiples of this.
        memory_gb: that Anime2Sketch may take beside the picture and its own 0.2 GB; where it is too
            little for a picture, as little as can be is taken.
        input_values: what black and white are for the "onnx" network.
        output_values: what it gives for black and white; (1, 0) for white lines on black.
        replace_faulty: a network's faulty sketch is replaced by "lines", in part where that is
            enough; otherwise a person has to look at it. White on black is always inverted.
    """

    method: str = "lines"
    weights: str = ""
    line_width: float = 1.0
    detail: float = 0.5
    resolution: int = 0
    upscale: int = 0
    keep_large: bool = False
    tiling: str = "exact"
    tile: int = 1024
    overlap: int = 256
    margin: int = 32
    multiple: int = 256
    memory_gb: float = 4.0
    input_values: tuple[float, float] = (-1.0, 1.0)
    output_values: tuple[float, float] = (0.0, 1.0)
    replace_faulty: bool = True

    def __post_init__(self) -> None:
        if self.resolution and self.upscale:
            raise ConfigError(
                "sketch.resolution and sketch.upscale cannot both be given: one says how large "
                "the picture is sketched, the other that it is enlarged before. Set one to 0."
            )
        if self.output_values[0] == self.output_values[1]:
            raise ConfigError("sketch.output_values has the same value for black and white.")


@dataclass(frozen=True, kw_only=True)
class AdjustSettings:
    """The paper's step after histogram analysis (section 3.1.1).

    Attributes:
        denoise: "bilateral", "nlmeans" (non-local means, slower) or "none".
        least_noise: standard deviation of the paper's grain, in levels of 255, from which on it is
            taken away.
        specks: largest height and width of a speck, in thousandths of the shorter side.
        flat: a sketch whose ink and paper differ by less of lightness (0 to 1) gets CLAHE.
        clahe_clip: CLAHE's clip limit.
        black_percentile: of the tones; what is as dark becomes black.
        white_percentiles: of the tones; the most frequent one between them is the paper, which
            becomes white.
        least_coverage: ink that a sketch must have, 0 (white) to 1 (black) on average.
        most_coverage: ink that it may have.
        most_gamma: the tones' exponent may be from 1 / most_gamma to most_gamma to get there.
        unsharp: amount of sharpening, 0 (none) to 2.
    """

    denoise: str = "bilateral"
    least_noise: float = 1.5
    specks: float = 4.0
    flat: float = 0.35
    clahe_clip: float = 2.0
    black_percentile: float = 1.0
    white_percentiles: tuple[float, float] = (60.0, 95.0)
    least_coverage: float = 0.015
    most_coverage: float = 0.2
    most_gamma: float = 2.5
    unsharp: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """Who writes the captions, and what each must contain (section 3.1.2).

    Attributes:
        writer: "template" (only what is known without a network), "blip2" (BLIP-2) or "sidecar"
            (NAME.txt beside the pictures of a folder).
        keywords: of the sketch; each is in a sketch's caption exactly once.
        place: where they stand, "front" or "end".
        keep_tones: black, white and grey stay in a sketch's caption; for sketches with fills.
        texts: of the "template" writer: what a source shows, "FILE OR FOLDER: a girl in a room".
        from_names: it uses words of file names in folders, too: "girl_smile_02.png".
        review_templates: its captions are marked for review.
        blip2: folder of BLIP-2 with flan-t5, such as a copy of Salesforce/blip2-flan-t5-xl.
        precision: of the networks: "bfloat16", "float32", or "auto" (float32 on a processor).
        prompt: that BLIP-2's caption goes on from.
        questions: that it answers after it, each with the phrase its answer "{}" goes into.
        samples: captions and answers drawn by chance, besides the likeliest.
        top_p: drawn is from the likeliest words that have this probability together.
        beams: that the likeliest caption is searched with.
        max_new_tokens: length of a caption or an answer, in BLIP-2's own tokens.
        itm: folder of a network that tells how well a text fits a picture, such as a copy of
            Salesforce/blip2-itm-vit-g or Salesforce/blip-itm-base-coco; empty: the likeliest
            caption is taken.
        min_itm: probability of fitting below which a caption is marked for review, and an answer
            left out.
        review_unfiltered: captions that no such network has seen are marked for review.
        tagger: folder of a WD14 tagger (model.onnx, selected_tags.csv), such as a copy of
            SmilingWolf/wd-swinv2-tagger-v3; empty: no tags.
        tag_threshold: probability from which on a tag holds.
        character_threshold: the same for a character's name; above 1, there are no names.
        mcut: both are found for each picture instead, at the largest gap between probabilities.
        most_tags: that a caption gets, the likeliest ones.
    """

    writer: str = "template"
    keywords: str = KEYWORDS
    place: str = "front"
    keep_tones: bool = False
    texts: tuple[str, ...] = ()
    from_names: bool = False
    review_templates: bool = True
    blip2: str = ""
    precision: str = "auto"
    prompt: str = "an anime illustration of"
    questions: tuple[str, ...] = (
        "Who is in the picture, and in what pose? {}",
        "What clothes are worn? wearing {}",
        "What is being done? {}",
        "What is in the background? {} in the background",
    )
    samples: int = 5
    top_p: float = 0.9
    beams: int = 5
    max_new_tokens: int = 40
    itm: str = ""
    min_itm: float = 0.5
    review_unfiltered: bool = True
    tagger: str = ""
    tag_threshold: float = 0.35
    character_threshold: float = 0.85
    mcut: bool = False
    most_tags: int = 20

    def __post_init__(self) -> None:
        for question in self.questions:
            text, mark, phrase = question.partition("?")
            if not (text.strip() and mark and "{}" in phrase):
                raise ConfigError(
                    f"caption.questions has {question!r}; expected is a question with its mark "
                    'and the phrase its answer "{}" goes into, such as '
                    '"What clothes are worn? wearing {}".'
                )


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
        near: pictures whose fingerprints (pHash, 64 bits) differ in that many bits or fewer stay
            together, too; -1: whatever they are.
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
        low, high = self.adjust.white_percentiles
        if not 0 <= low <= high <= 100:
            raise ConfigError(
                f"adjust.white_percentiles is {[low, high]}; expected [lowest, highest], 0 to 100."
            )


_CHOICES: dict[str, tuple[str, ...]] = {
    **{f"filter.{check}": ("drop", "review", "keep", "off") for check in QUALITY_CHECKS},
    "frames.moving": ("sharpest", "none"),
    "frames.deinterlace": ("auto", "always", "never"),
    "sketch.method": ("lines", "ink", "anime2sketch", "onnx"),
    "sketch.tiling": ("exact", "tiles"),
    "caption.writer": ("template", "blip2", "sidecar"),
    "caption.place": ("front", "end"),
    "caption.precision": ("auto", "bfloat16", "float32"),
    "adjust.denoise": ("bilateral", "nlmeans", "none"),
    "dedup.exact": ("drop", "keep", "review"),
    "dedup.held": ("drop", "keep", "review"),
    "dedup.across": ("drop", "keep", "review"),
    "dedup.camera": ("drop", "keep", "review"),
    "dedup.mirrored": ("drop", "keep", "review"),
    "dedup.subtitled": ("drop", "keep", "review"),
    "dedup.expression": ("drop", "keep", "review"),
    "dedup.relit": ("drop", "keep", "review"),
    "dedup.same_shot": ("drop", "keep", "review"),
    "split.by": ("shot", "source"),
    "export.target": ("sketch", "colour"),
    "export.files": ("copy", "link"),
    "review.require": ("all", "flagged", "none"),
}

_RANGES: dict[str, tuple[float, float]] = {  # lowest and highest allowed value
    "filter.text_size": (128, 4096),
    "dedup.same_shot_most": (1, 1000),
    "dedup.expression_change": (0, 255),
    "dedup.camera_change": (0, 255),
    "dedup.camera_overlap": (0.5, 1),
    "dedup.light_change": (0, 255),
    "dedup.radius": (0, 20),
    "sketch.line_width": (0.25, 4),
    "sketch.detail": (0, 1),
    "sketch.resolution": (0, 32_768),
    "sketch.upscale": (0, 32_768),
    "sketch.tile": (16, 8192),
    "sketch.overlap": (0, 4096),
    "sketch.margin": (0, 2048),
    "sketch.multiple": (1, 4096),
    "sketch.memory_gb": (0.1, 10_000),
    "adjust.least_noise": (0, 255),
    "adjust.specks": (0, 20),
    "adjust.flat": (0, 1),
    "adjust.clahe_clip": (1, 40),
    "adjust.black_percentile": (0, 10),
    "adjust.least_coverage": (0, 1),
    "adjust.most_coverage": (0, 1),
    "adjust.most_gamma": (1, 10),
    "adjust.unsharp": (0, 2),
    "caption.samples": (0, 100),
    "caption.top_p": (0.01, 1),
    "caption.beams": (1, 50),
    "caption.max_new_tokens": (8, 200),
    "caption.min_itm": (0, 1),
    "caption.tag_threshold": (0, 1),
    "caption.character_threshold": (0, 2),
    "caption.most_tags": (0, 1000),
    "split.train": (0.01, 100),
    "split.validation": (0, 100),
    "split.test": (0, 100),
    "split.near": (-1, 64),
    "export.longest_side": (0, 100_000),
    "export.shard_megabytes": (1, 100_000),
    "export.kohya_repeats": (1, 10_000),
    "export.kohya_resolution": (64, 8192),
    "run.seed": (0, 2**63 - 1),
    "run.threads": (0, 1024),
    "ingest.max_megapixels": (1, 10_000),
    "frames.per_shot": (1, 1000),
    "frames.different": (0, 255),
    "frames.held": (0, 255),
    "frames.min_hold": (0, 60),
    "frames.min_shot": (0, 60),
    "frames.cut_ratio": (1, 255),
    "frames.cut_content": (0, 255),
    "frames.hdr_peak": (0, 10_000),
}


def load_config(path: str | Path | None, overrides: Sequence[tuple[str, str]]) -> DatasetConfig:
    """Reads a TOML file and lays the command line's settings over it (see `load_settings`)."""
    return load_settings(DatasetConfig, path, overrides)
