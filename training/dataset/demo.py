"""Builds the demo film: real drawn art, faults and likenesses planted, the exact truth beside it.

    python -m training.dataset.demo FOLDER        # writes episode-1.mkv, ..., truth.json

truth.json holds for each film, with numbers of frames that count from 0 and are inclusive:

    file, sha256, rate, size, bar (black rows above and below), time_base, pts (one a frame)
    cuts         frames that begin a shot after a hard cut
    transitions  {kind, first, last}: dissolves and fades, which belong to no shot
    shots        {name, first, last}; the same name is the same shot, in any film
    runs         {first, last, shot, drawing, faults}: frames that show one picture; the same
                 drawing is the same picture, in any film
    fields       of a telecined film: [top, bottom], the numbers of the frames before the pulldown
                 that each frame's fields are from; it is combed where their drawings differ

`groups` says what must become of it all: {group: {kind, what, pictures: [fewest, most]}} for the
shots of that group in all films together, and `group_of` {shot: group}. A picture with a fault
named in `must_go` must not survive; `doubtful` ones may be kept for a person to decide.

The live action that the data set's filter looks for is not in it, as there is none among the art.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace
from tqdm import tqdm

from animesketchnet_core.files import write_atomically
from training.files import make_folder, sha256_of
from training.program import run_program

from .demo_film.scenes import HEIGHT, WIDTH
from .demo_film.script import DOUBTFUL, MUST_GO, Film, Shot, films
from .demo_film.timeline import Timeline, fields, lay_out, telecined

RATE = Fraction(24000, 1001)
TELECINED_RATE = RATE * 5 / 4
_X264 = {
    "crf": "14",  # as on a disc: hardly a trace of the coding is seen
    "preset": "veryfast",
    "threads": "1",  # with more, interlaced pictures come out different each time
}
_BT709 = 1  # in FFmpeg's lists of matrices, primaries and transfer curves alike


def build_demo(folder: Path) -> list[Path]:
    """Writes the films and their truth, unless they are there already.

    Args:
        folder: where to; it is made.

    Returns:
        The films.

    Raises:
        StorageError: they cannot be written.
    """
    make_folder(folder)
    paths = [folder / f"{film.name}.mkv" for film in films()]
    if _complete(folder):
        return paths
    script = films()
    timelines = [lay_out(film) for film in script]
    count = sum(timeline.length for timeline in timelines)
    with tqdm(total=count, desc="demo film", unit="frame") as bar, ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(_make, bar), script, timelines, paths))
    told: dict[str, Any] = {"recipe": _recipe(), "must_go": MUST_GO, "doubtful": DOUBTFUL}
    told |= _groups(script)
    told["films"] = {
        film.name: _told(film, timeline, path)
        for film, timeline, path in zip(script, timelines, paths, strict=True)
    }
    text = json.dumps(told, indent=1)
    # The truth comes last: where it is, the films are whole.
    write_atomically(folder / "truth.json", lambda part: part.write_text(text, encoding="utf-8"))
    return paths


def truth(folder: Path) -> dict[str, Any]:
    """Reads truth.json of a folder that `build_demo` has filled.

    Raises:
        FileNotFoundError: there is none.
    """
    path = folder / "truth.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Run: python -m training.dataset.demo {folder}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def shown(told: dict[str, Any], film: str, frame: int) -> dict[str, Any]:
    """The run, {first, last, shot, drawing, faults}, that a frame belongs to.

    Raises:
        KeyError: the demo has no such film or frame.
    """
    for run in told["films"][film]["runs"]:
        if run["first"] <= frame <= run["last"]:
            return run
    raise KeyError(f"{film} has no frame {frame}.")


def unmet(told: dict[str, Any], survivors: Iterable[tuple[str, int]]) -> list[str]:
    """Compares what a pipeline kept with what it should have.

    Args:
        told: see `truth`.
        survivors: (film, frame) of each picture that it kept.

    Returns:
        A sentence for each expectation that is not met.
    """
    faults = []
    counts: Counter[str] = Counter()
    for film, frame in survivors:
        run = shown(told, film, frame)
        if spoilt := sorted(set(run["faults"]) & set(told["must_go"])):
            faults.append(f"{film}, frame {frame} ({run['drawing']}) has {', '.join(spoilt)}.")
        elif run["shot"]:
            counts[told["group_of"][run["shot"]]] += 1
    for name, group in told["groups"].items():
        fewest, most = group["pictures"]
        if not fewest <= counts[name] <= most:
            faults.append(
                f"{name} ({group['kind']}: {group['what']}) has {counts[name]} pictures; expected "
                f"{fewest} to {most}."
            )
    return faults


def _complete(folder: Path) -> bool:
    try:
        told = truth(folder)
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return told.get("recipe") == _recipe() and all(
        (folder / film["file"]).is_file() and sha256_of(folder / film["file"]) == film["sha256"]
        for film in told["films"].values()
    )


def _recipe() -> str:
    """Changes with the program that builds the films, so that no old ones are taken for new."""
    here = Path(__file__)
    parts = sorted(here.with_name("demo_film").rglob("*.*"))
    files = [here, *(path for path in parts if path.suffix != ".pyc")]
    return sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()


def _groups(script: Sequence[Film]) -> dict[str, Any]:
    groups, group_of = {}, {}
    for film in script:
        for shot in film.parts:
            if isinstance(shot, Shot):
                name = shot.group or shot.name
                group_of[shot.name] = name
                groups[name] = {"kind": shot.kind, "what": shot.what, "pictures": shot.pictures}
    return {"groups": groups, "group_of": group_of}


def _told(film: Film, timeline: Timeline, path: Path) -> dict[str, Any]:
    """What truth.json says of a film."""
    count = timeline.length
    if film.telecined:
        timeline = telecined(timeline)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base
        pts = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
    return {
        "file": path.name,
        "sha256": sha256_of(path),
        "rate": str(TELECINED_RATE if film.telecined else RATE),
        "size": [WIDTH, HEIGHT],
        "bar": film.bar,
        "logo": film.mark,
        "telecined": film.telecined,
        "time_base": str(base),
        "pts": pts,
        "cuts": timeline.cuts,
        "transitions": timeline.transitions,
        "shots": timeline.shots,
        "runs": [
            {"first": run.first, "last": run.last, "shot": run.shot, "drawing": run.drawing.name,
             "faults": run.drawing.faults}
            for run in timeline.runs
        ],
        "fields": fields(count) if film.telecined else None,
    }  # fmt: skip


def _make(bar: tqdm[Any], film: Film, timeline: Timeline, path: Path) -> None:
    write_atomically(path, lambda part: _encode(film, timeline, part, bar))


def _encode(film: Film, timeline: Timeline, path: Path, bar: tqdm[Any]) -> None:
    rate = TELECINED_RATE if film.telecined else RATE
    options = dict(_X264)
    if film.telecined:
        options["x264-params"] = "tff=1"
    # Without "bitexact" the file would hold a random number and the program's version.
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / rate
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        frames = _painted(film, timeline, bar)
        for number, frame in enumerate(_pulled_down(frames) if film.telecined else frames):
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _painted(film: Film, timeline: Timeline, bar: tqdm[Any]) -> Iterator[av.VideoFrame]:
    for run in timeline.runs:
        picture = film.finish(run.drawing.paint())
        frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            threads=1,
        )
        for _ in range(run.drawing.frames):
            yield frame
            bar.update()


def _pulled_down(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """3:2 pulldown, the top field first."""
    graph = Graph()
    # Not `add_buffer`: the filter wants a frame rate, which that cannot give.
    shape = f"video_size={WIDTH}x{HEIGHT}:pix_fmt=yuv420p:time_base={1 / RATE}:frame_rate={RATE}"
    source, sink = graph.add("buffer", shape), graph.add("buffersink")
    graph.link_nodes(source, graph.add("telecine", "first_field=top:pattern=23"), sink).configure()
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = number, 1 / RATE
        source.push(frame)
        yield from _drained(sink)
    source.push(None)
    yield from _drained(sink)


def _drained(sink: Any) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _table(told: dict[str, Any]) -> str:
    lines = [f"{'film':10} {'frames':>11}  {'shot':16} {'kind':15} {'must survive':12}  what"]
    for name, film in told["films"].items():
        for shot in film["shots"]:
            group = told["groups"][told["group_of"][shot["name"]]]
            fewest, most = group["pictures"]
            span = f"{shot['first']}-{shot['last']}"
            lines.append(
                f"{name:10} {span:>11}  {shot['name']:16} {group['kind']:15} "
                f"{f'{fewest} to {most}':12}  {group['what']}"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0: written, 2: an input cannot be used, 130, 143: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m training.dataset.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the films are written")
    folder = parser.parse_args(argv).folder

    def work() -> int:
        build_demo(folder)
        print(_table(truth(folder)))
        return 0

    return run_program(work, (OSError,), "the same command begins again")


if __name__ == "__main__":
    sys.exit(main())
