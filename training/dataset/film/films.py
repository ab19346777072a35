"""Opens films and decodes them, frame by frame, with PyAV (https://pyav.basswood-io.com).

Every frame is told by its pts, its place in time, never by counting: films with a variable frame
rate are as good as others. What is damaged is skipped and counted; a film that ends before its
header says gives what there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

FORMATS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpegts,mpeg,mpegvideo,avi,asf,flv,ogg,mxf,nut,ivf,"
    "h264,hevc,obu,dv,rm,wtv,gxf,yuv4mpegpipe"
)
"""Containers that hold their own data. Play lists are not among them: they name other files."""

BACK = (0.0, 5.0, 30.0)
"""Seconds before the wanted frame where a seek may aim: an index may point behind the keyframe."""

MISSING = 0.5
"""Seconds that may be missing at the end: headers round, and count the longest stream."""

LARGEST = 8192 * 8192
"""Pixels of a frame, shown with square ones; a header can claim any size, and 8K has half of it."""

LONGEST = 16
"""Times that one side of a frame, or of a pixel, may be as long as the other."""


class FilmError(ValueError):
    """A file that is no film, or none that can be decoded."""


@dataclass(frozen=True)
class Shown:
    """A decoded frame.

    Attributes:
        frame: as decoded; its pts is never None.
        damaged: whether it was decoded from damaged data, or has another size than the film.
        lost: packets before it that could not be decoded, or whose times start over.
    """

    frame: VideoFrame
    damaged: bool = False
    lost: int = 0


@dataclass
class Film:
    """A film's header.

    Attributes:
        path: of the file.
        stream: the video stream's number in the file.
        codec: such as "h264".
        width: of the coded picture, in pixels.
        height: of the coded picture, in pixels.
        time_base: seconds of one unit of pts.
        start: the first pts, or 0 if the header does not know it.
        seconds: the length, or 0 if the header does not know it.
        fps: frames per second on average.
        aspect: a pixel's width by its height; 1 for square ones.
        trouble: what ended the reading before the end of the file, or "".
    """

    path: Path
    stream: int
    codec: str
    width: int
    height: int
    time_base: Fraction
    start: int
    seconds: float
    fps: Fraction
    aspect: Fraction
    trouble: str = field(default="", compare=False)

    def frames(self, start: int | None = None) -> Iterator[Shown]:
        """Decodes the frames in order of time.

        Args:
            start: the pts of the first frame that is wanted; None for all.

        Raises:
            FilmError: the file has gone, or is no film any more.
        """
        for back in BACK if start is not None else ():
            with self._opened() as (container, stream):
                aim = max(self.start, start - round(back / self.time_base)) if start else 0
                decoded = self._sought(container, stream, aim)
                head = next(decoded, None)
                if head is not None and start is not None and _pts(head) <= start:
                    yield from (s for s in chain([head], decoded) if _pts(s) >= start)
                    return
        with self._opened() as (container, stream):
            yield from (s for s in self._decoded(container, stream)
                        if start is None or _pts(s) >= start)  # fmt: skip

    def burst(self, second: float, count: int) -> Iterator[Shown]:
        """Decodes some frames that follow the last keyframe before a second of the film."""
        with self._opened() as (container, stream):
            aim = self.start + round(second / self.time_base)
            for _, shown in zip(range(count), self._sought(container, stream, aim), strict=False):
                yield shown

    def seconds_of(self, pts: int) -> float:
        """The time of a pts since the film's start."""
        return float((pts - self.start) * self.time_base)

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        with _container(self.path) as container:
            stream: Any = container.streams[self.stream]
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(LARGEST)}
            yield container, stream

    def _sought(self, container: InputContainer, stream: VideoStream, pts: int) -> Iterator[Shown]:
        from av.error import FFmpegError

        try:
            container.seek(pts, stream=stream, backward=True)
        except FFmpegError:  # a file without index or order: there is nothing before the start
            return
        yield from self._decoded(container, stream)

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
        """Decodes on; what follows a damaged packet is damaged up to the next keyframe."""
        from av.error import FFmpegError

        last, damaged, lost = None, False, 0
        step = max(1, round(1 / (self.fps * self.time_base)))
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                if lost / self.fps > MISSING:
                    self.trouble = f"{lost} more frames cannot be decoded, or have earlier times"
                return
            except FFmpegError as error:
                self.trouble = _reason(error)
                return
            try:
                frames = packet.decode()
            except (FFmpegError, ValueError):  # the latter when PyAV 19 could not open the decoder
                lost += 1
                damaged = True
                continue
            for frame in frames:
                damaged = damaged and not frame.key_frame
                if frame.pts is None:  # a bare stream has no times
                    frame.pts = self.start if last is None else last + step
                if last is None or frame.pts > last:
                    last = frame.pts
                    other = (frame.width, frame.height) != (self.width, self.height)
                    yield Shown(frame, damaged or frame.is_corrupt or other, lost)
                    lost = 0
                else:  # nothing can be found by such a time
                    lost += 1


def open_film(path: Path) -> Film:
    """Reads a film's header.

    Raises:
        FilmError: there is no such file, it is no film, it has no pictures, or they are coded in
            a way that cannot be read.
    """
    with _container(path) as container:
        stream = _main_stream(path, container)
        context = stream.codec_context
        if stream.time_base is None or context.width < 1 or context.height < 1:
            raise FilmError(
                f"{path} has a {context.name} stream without a time base or size; expected a "
                "film that can be decoded. It may be encrypted or cut off; get the whole file."
            )
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        _check_size(path, context.width, context.height, aspect)
        start = stream.start_time or 0
        rate = stream.average_rate or stream.guessed_rate or Fraction(24)
        return Film(
            path=path,
            stream=stream.index,
            codec=context.name,
            width=context.width,
            height=context.height,
            time_base=stream.time_base,
            start=start,
            seconds=_seconds(container, stream),
            fps=Fraction(rate),
            aspect=aspect,
        )


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    import av
    from av.error import FFmpegError

    # A title that is no UTF-8 is no reason; from 19 on, PyAV takes it without a word.
    strict = int(av.__version__.partition(".")[0]) < 19
    lenient: Any = {"metadata_errors": "replace"} if strict else {}
    try:
        # "file:" keeps a name with a colon from being read as a protocol.
        opened = av.open(
            f"file:{path}",
            # Not as options, of which PyAV 17.0 gives streams copies, and dies of .flv and .mpg.
            container_options={"format_whitelist": FORMATS},
            **lenient,
        )
    except FileNotFoundError:
        raise FilmError(f"There is no film {path}. Put it back, or ingest anew.") from None
    except (FFmpegError, OSError) as error:
        raise FilmError(
            f"{path} cannot be opened as a film ({_reason(error)}); expected a video file such as "
            ".mkv or .mp4. Replace it by a whole, unencrypted one, or remove it."
        ) from error
    with opened:
        yield opened


def _main_stream(path: Path, container: InputContainer) -> VideoStream:
    """The largest video stream that is not a cover."""
    from av.error import FFmpegError
    from av.stream import Disposition

    films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not films:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        covers = " and a cover" if container.streams.video else ""
        raise FilmError(
            f"{path} has no film in it; expected a video stream, found {kinds}{covers}. Remove it."
        )
    try:
        return max(films, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))
    except (AttributeError, FFmpegError) as error:  # PyAV has no context for an unknown codec
        raise FilmError(
            f"{path} has a video stream that no decoder is known for; expected one such as h264 "
            "or hevc. It may be encrypted; replace it by one that can be played."
        ) from error


def _check_size(path: Path, width: int, height: int, aspect: Fraction) -> None:
    """Refuses a frame or a pixel of a shape that no film has, and would fill the memory."""
    shape = Fraction(width, height)
    pixels = width * height * max(aspect, 1 / aspect)
    if pixels > LARGEST or any(
        max(ratio, 1 / ratio) > LONGEST for ratio in (aspect, shape, shape * aspect)
    ):
        raise FilmError(
            f"{path} has frames of {width} x {height} pixels, each {float(aspect):g} times as wide "
            f"as high; expected at most {LARGEST / 1e6:.0f} million, and no side more than "
            f"{LONGEST} times the other. Its header may be damaged; replace the film, or remove it."
        )


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0, container.duration or 0) / 1e6


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _pts(shown: Shown) -> int:
    return int(shown.frame.pts or 0)
