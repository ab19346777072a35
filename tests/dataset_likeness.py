"""Films with planted likenesses: drawings over backgrounds, coded, with the truth of each pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.dataset.config import DatasetConfig
from training.dataset.images import Pixels
from training.dataset.ledger import Decision, Ledger, Outcome, Picture, Source
from training.dataset.work import Work
from training.workers import Workers

ART = Path(__file__).parents[1] / "training/dataset/demo_film/art"
SIZE = (1280, 720)
EXPRESSIONS = ("normal", "smile", "giggle", "surprised")


@dataclass(frozen=True)
class Drawing:
    """What is to be seen; two frames of one drawing differ by the coding alone."""

    background: str
    figure: str = ""  # an outfit, or none
    expression: str = "normal"
    scale: float = 1.0  # of the figure
    left: float = 0.5  # of the figure's middle, in widths
    shift: tuple[int, int] = (0, 0)  # of the camera, in pixels of a 1280 x 720 frame
    zoom: float = 1.0
    light: str = ""
    text: str = ""


@dataclass(frozen=True)
class Shown:
    """One picture: a drawing in a shot of a source."""

    source: str
    shot: int
    number: int
    drawing: Drawing
    pixels: Pixels

    @property
    def id(self) -> str:
        """Of the picture; one drawing has several."""
        return f"{self.source}-{self.number:03}"


def truth(one: Shown, other: Shown) -> str:
    """The kind of a pair, from what was drawn."""
    a, b = one.drawing, other.drawing
    plain = {"text": "", "light": "", "shift": (0, 0), "zoom": 1.0, "expression": ""}
    if replace(a, **plain) != replace(b, **plain):
        return "same shot" if (one.source, one.shot) == (other.source, other.shot) else "none"
    if one.pixels.shape == other.pixels.shape and (one.pixels == other.pixels).all():
        return "exact" if one.source == other.source else "across"
    if a.figure and a.expression != b.expression:
        return "expression"
    if a.light != b.light:
        return "relit"
    if (a.shift, a.zoom) != (b.shift, b.zoom):
        return "camera"
    if a.text != b.text:
        return "subtitled"
    return "held" if one.source == other.source else "across"


@lru_cache(maxsize=256)
def draw(drawing: Drawing) -> Pixels:
    """Renders a drawing at 1280 x 720; [720, 1280, 3]."""
    canvas = _canvas(replace(drawing, shift=(0, 0), zoom=1.0, light="", text=""))
    width, height = SIZE[0] / drawing.zoom, SIZE[1] / drawing.zoom
    left = (canvas.width - width) / 2 + drawing.shift[0]
    top = (canvas.height - height) / 2 + drawing.shift[1]
    box = (left, top, left + width, top + height)
    frame = canvas.resize(SIZE, Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(frame, dtype=np.float64) / 255
    if drawing.light.startswith("gamma"):
        pixels = pixels ** float(drawing.light[5:])
    elif drawing.light.startswith("gain"):
        pixels = pixels * float(drawing.light[4:])
    frame = Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
    if drawing.text:
        font = ImageFont.load_default(40)
        ImageDraw.Draw(frame).text((SIZE[0] / 2, SIZE[1] - 60), drawing.text, "white", font,
                                   anchor="mm", stroke_width=3, stroke_fill="black")  # fmt: skip
    return np.array(frame)


@lru_cache(maxsize=64)
def _canvas(drawing: Drawing) -> Image.Image:
    """The whole painting, larger than the frame so that the camera can move."""
    background = Image.open(ART / f"{drawing.background}.jpg").convert("RGB")
    if drawing.background.startswith("concert"):
        canvas = background.resize((1600, 1020), Image.Resampling.LANCZOS)
    else:
        canvas = background.resize((1600, 900), Image.Resampling.BICUBIC)
    if drawing.figure:
        sprite = Image.open(ART / f"sylvie_{drawing.figure}_{drawing.expression}.png")
        size = (round(sprite.width * drawing.scale), round(sprite.height * drawing.scale))
        sprite = sprite.resize(size, Image.Resampling.LANCZOS)
        place = (
            round((canvas.width - SIZE[0]) / 2 + drawing.left * SIZE[0] - size[0] / 2),
            (canvas.height + SIZE[1]) // 2 - size[1],
        )
        canvas.paste(sprite, place, sprite)
    return canvas


def film(
    source: str,
    shots: Sequence[Sequence[Drawing]],
    path: Path,
    crf: int = 20,
    hold: int = 3,
    size: tuple[int, int] = SIZE,
    bars: int = 0,
    grain: float = 0.0,
    seed: int = 0,
) -> list[Shown]:
    """Encodes shots, decodes them again, and takes one frame of each hold, bars cut away.

    Args:
        source: its name.
        shots: each drawing is held; drawn twice in a row it gives two frames of one drawing.
        path: of the film.
        crf: of libx264.
        hold: frames of a hold.
        size: width and height of the picture in the film.
        bars: black rows above and below.
        grain: standard deviation of noise, in levels.
        seed: of the noise.
    """
    chance = np.random.default_rng(seed)
    drawings = [drawing for shot in shots for drawing in shot]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height = size[0], size[1] + 2 * bars
        stream.pix_fmt, stream.gop_size = "yuv420p", 5  # so that holds are coded anew
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        for drawing in drawings:
            picture = np.array(
                Image.fromarray(draw(drawing)).resize(size, Image.Resampling.LANCZOS)
            )
            picture = np.pad(picture, ((bars, bars), (0, 0), (0, 0)))
            for _ in range(hold):
                noisy = picture
                if grain:
                    noise = chance.normal(0, grain, picture.shape[:2])[..., None]
                    noisy = (picture + noise).round().clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy)))
        container.mux(stream.encode())
    frames = _frames(path, bars, range(hold - 1, hold * len(drawings), hold))
    places = [(number, drawing) for number, shot in enumerate(shots) for drawing in shot]
    return [
        Shown(source, shot, number, drawing, pixels)
        for number, ((shot, drawing), pixels) in enumerate(zip(places, frames, strict=True))
    ]


def _frames(path: Path, bars: int, wanted: range) -> Iterator[Pixels]:
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                pixels = frame.to_ndarray(format="rgb24")
                yield pixels[bars : pixels.shape[0] - bars]


def shots() -> list[list[Drawing]]:
    """A film with each kind of likeness, and with pictures that only look alike."""
    found = []
    for background, figure in (("club", "blue"), ("meadow", "green"), ("uni", "blue")):
        found.append([Drawing(background, figure, e) for e in EXPRESSIONS for _ in range(2)])
    found.append([Drawing("uni", "green", e, scale=0.5, left=0.3) for e in EXPRESSIONS])
    for background, figure in (("concert1", ""), ("club", "green")):
        found.append([Drawing(background, figure, shift=(x, 0)) for x in (0, 8, 24, 56, 112)])
        found.append([Drawing(background, figure, zoom=z) for z in (1.02, 1.05, 1.1)])
    found.append([Drawing("club", "green", e, shift=(32, 0)) for e in ("smile", "giggle")])
    found.append([Drawing("concert2")])
    found += [
        [Drawing("meadow", "blue", light=light)]
        for light in ("", "gamma0.7", "gamma1.5", "gain0.6", "gain1.2")
    ]
    found.append([Drawing("lecturehall", "blue", text=t) for t in ("", "It was like that.")])
    found.append([Drawing("meadow", "green", left=x) for x in (0.3, 0.4, 0.7)])
    # Negatives: the same background without or with other figures, the same figure elsewhere.
    found += [[Drawing(b)] for b in ("club", "meadow", "uni", "lecturehall")]
    found.append([Drawing("lecturehall", "green"), Drawing("lecturehall", "green", left=0.6)])
    return found


def opening() -> list[list[Drawing]]:
    """The shots that a second film has in common with the first, and some of its own."""
    everything = shots()
    own = [[Drawing("lecturehall", "blue", "smile", left=0.3)], [Drawing("uni", "green", left=0.7)]]
    return [everything[1], everything[3], everything[4], own[0], everything[8], own[1]]


def both_films(folder: Path) -> list[Shown]:
    """The first film, the second in another size with bars, and a folder with a few copies."""
    first = film("first", shots(), folder / "first.mp4", crf=20, size=(960, 540))
    second = film("second", opening(), folder / "second.mp4", crf=24, size=(768, 432), bars=40)
    copies = [
        replace(shown, source="folder", shot=-1 - number, number=number)
        for number, shown in enumerate([first[0], first[0], first[9]])
    ]
    return [*first, *second, *copies]


def work_with(shown: Sequence[Shown], folder: Path, config: DatasetConfig | None = None) -> Work:
    """A data set of these pictures, as `frames` leaves it."""
    work = Work(config or DatasetConfig(), folder, Ledger(folder / "ledger.db"), Workers("cpu"))
    add(work, shown)
    return work


def add(work: Work, shown: Sequence[Shown]) -> None:
    """Adds pictures to a data set."""
    for one in shown:
        height, width = one.pixels.shape[:2]
        where = {} if one.source == "folder" else {"shot": one.shot}
        picture = Picture(one.id, one.source, one.number, width, height, where)
        kind = "folder" if one.source == "folder" else "film"
        work.ledger.add_source(Source(one.source, one.source, kind))
        form = work.write(picture, "colour", one.pixels)
        work.ledger.record(one.id, "frames", "", Outcome(forms={"colour": form}), [picture])


def verdicts(work: Work) -> dict[str, Decision]:
    """What `dedup` decided, by picture."""
    return {item: found for item, stage, found in work.ledger.decisions() if stage == "dedup"}
