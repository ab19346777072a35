"""Broken and hostile films: our own error that names the file, or the frames that are there.

Each failure names the seed that made its file; ``damaged(content, seed)`` makes it again.
"""

from __future__ import annotations

import io
import os
import re
import socket
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.dataset_takes import Done, take
from tests.dataset_work import open_work
from tests.hostile import damaged, memory_within, only
from training.dataset import ingest
from training.dataset.__main__ import main
from training.dataset.film.films import LARGEST, FilmError, open_film
from training.dataset.images import read_pixels

COUNT, FPS = 24, 12
SIZE = (64, 48)
SHORT = {"min_shot": 0.2}  # seconds; each of the two shots has one


def drawings(count: int = COUNT, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Two shots of coloured squares."""
    tones = np.random.default_rng(0).integers(256, size=(size[1] // 8 + 1, size[0] // 8 + 1, 3))
    first = tones.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)[: size[1], : size[0]]
    return [first if n < count // 2 else first[::-1, ::-1].copy() for n in range(count)]


def film(
    container: str, codec: str, kind: str = "yuv420p", *, size: tuple[int, int] = SIZE,
    times: Sequence[int] | None = None, **options: str,
) -> bytes:  # fmt: skip
    """A film of two seconds; `times` are its packets', in milliseconds."""
    content = io.BytesIO()
    times = list(times) if times else None
    with av.open(content, "w", format=container, options=options) as output:
        stream: Any = output.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, kind
        stream.codec_context.gop_size = 4
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "bf": "2"}
        for number, picture in enumerate(drawings(size=size)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=kind)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            _mux(output, stream.encode(frame), times)
        _mux(output, stream.encode(), times)
    return content.getvalue()


def _mux(output: Any, packets: Any, times: list[int] | None) -> None:
    for packet in packets:
        if times is not None:
            packet.pts = packet.dts = times.pop(0)
            packet.time_base = Fraction(1, 1000)
        output.mux(packet)


def with_its_index_first(content: bytes) -> bytes:
    """An mp4 whose moov comes before its mdat, as streaming wants it."""
    boxes, place = {}, 0
    while place < len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        boxes[content[place + 4 : place + 8]] = content[place : place + size]
        place += size
    moov = bytearray(boxes[b"moov"])
    table = moov.index(b"stco") + 8
    count = struct.unpack(">I", moov[table : table + 4])[0]
    moved = len(moov) - len(boxes.get(b"free", b""))
    for entry in range(table + 4, table + 4 + 4 * count, 4):
        offset = struct.unpack(">I", moov[entry : entry + 4])[0]
        moov[entry : entry + 4] = struct.pack(">I", offset + moved)
    return boxes[b"ftyp"] + bytes(moov) + boxes[b"mdat"]


FILMS: dict[str, Callable[[], bytes]] = {
    "index-last.mp4": lambda: film("mp4", "libx264"),
    "index-first.mp4": lambda: with_its_index_first(film("mp4", "libx264")),
    "fragments.mp4": lambda: film("mp4", "libx264", movflags="frag_keyframe+empty_moov"),
    "a.mov": lambda: film("mov", "mjpeg", "yuvj420p"),
    "a.mkv": lambda: film("matroska", "libx264"),
    "lossless.mkv": lambda: film("matroska", "ffv1", "bgr0"),
    "a.webm": lambda: film("webm", "libvpx"),
    "a.avi": lambda: film("avi", "mpeg4"),
    "a.ts": lambda: film("mpegts", "mpeg2video"),
    "a.mpg": lambda: film("mpeg", "mpeg2video"),
    "a.flv": lambda: film("flv", "flv"),
    "a.wmv": lambda: film("asf", "wmv2"),
}


@cache
def whole(name: str) -> bytes:
    """A film of each kind, by the name of its file."""
    return FILMS[name]()


def written(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def times_of(path: Path) -> list[int]:
    return [int(shown.frame.pts or 0) for shown in open_film(path).frames()]


def taken(folder: Path, *paths: Path) -> Done:
    """What came of films; whatever they are, each has its entry, and no half file is left."""
    with only((), [path.name for path in paths]):
        done = take(folder, *paths, **SHORT)
    for number, path in enumerate(paths):
        decisions = {check: d for (item, check), d in done.decisions.items()
                     if item == f"film{number}"}  # fmt: skip
        assert ("film" in decisions) != ("input" in decisions), path.name
        for check in decisions.keys() & {"input", "end", "damage"}:
            assert path.name in decisions[check].reason
            assert len(decisions[check].reason) < 600
    for form in done.forms.values():
        read_pixels(folder / form.path)
    assert not list(folder.rglob("*.part"))
    return done


def reasons(done: Done, check: str) -> dict[str, str]:
    return {item: d.reason for (item, kind), d in done.decisions.items() if kind == check}


# Damage


@pytest.mark.parametrize("name", FILMS)
def test_the_films_that_are_damaged_are_whole(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, whole(name))
    assert len(times_of(path)) == COUNT
    done = taken(tmp_path / "set", path)
    assert [shot.reason for shot in done.shots] == ["1 of 12 frames"] * 2
    assert set(done.decisions) - {(f"film0/shot-0000{n}", "shot") for n in (0, 1)} == {
        ("film0", "film")
    }


@pytest.mark.parametrize("name", FILMS)
def test_a_damaged_film_is_told_or_read_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    """12 of each kind, 144 in all, and a whole one last."""
    paths = [written(tmp_path / f"seed-{seed}", name, damaged(whole(name), seed))
             for seed in range(12)]  # fmt: skip
    good = written(tmp_path, "good.mkv", whole("a.mkv"))
    with memory_within(300):
        done = taken(tmp_path / "set", *paths, good)
    assert len([p for p in done.pictures if p.source == "film12"]) == 2


TELLS_ITS_LENGTH = ("index-first.mp4", "a.mkv", "lossless.mkv", "a.webm")


@pytest.mark.parametrize("name", FILMS)
def test_of_a_film_cut_short_the_frames_before_the_cut_are_kept(tmp_path, name) -> None:
    content = whole(name)
    every = times_of(written(tmp_path, name, content))
    paths = [written(tmp_path / f"{tenth}0-percent", name, content[: len(content) * tenth // 10])
             for tenth in range(10)]  # fmt: skip
    done = taken(tmp_path / "set", *paths)
    failed, ended, counts = reasons(done, "input"), reasons(done, "end"), []
    for number, path in enumerate(paths):
        if (item := f"film{number}") in failed:
            counts.append(0)
            continue
        there = times_of(path)
        counts.append(len(there))
        # The last one may be half there.
        assert there[:-1] == every[: len(there) - 1], path
        if name in TELLS_ITS_LENGTH and len(there) <= COUNT - FPS:
            assert "stopped at" in ended[item]
            assert f"of {COUNT / FPS:.1f} s" in ended[item]
    assert counts[0] == 0
    assert all(more >= fewer - 1 for fewer, more in pairwise(counts))
    if name in ("index-last.mp4", "a.mov"):  # whose index is gone
        assert not any(counts)
    else:
        assert counts[-1] >= 0.7 * COUNT


# No films


def no_films() -> dict[str, bytes]:
    sound = io.BytesIO()
    with av.open(sound, "w", format="matroska") as output:
        stream: Any = output.add_stream("pcm_s16le", rate=8000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        tone.sample_rate = 8000
        output.mux(stream.encode(tone))
    return {
        "empty.mkv": b"",
        "one byte.mp4": b"\x00",
        "text.mp4": b"This is no film.\n" * 99,
        "page.webm": b"<html><body>404 Not Found</body></html>",
        "zeros.ts": bytes(188 * 500),
        "stuffing.ts": (b"\x47\x1f\xff\x10" + bytes(184)) * 500,
        "head.mkv": b"\x1a\x45\xdf\xa3",
        "head.mp4": struct.pack(">I4s", 2**31, b"moov"),
        "sound.mkv": sound.getvalue(),
        "picture.mp4": film("gif", "gif", "rgb8"),
    }


def test_what_is_no_film_is_told_by_its_name(tmp_path: Path) -> None:
    paths = [written(tmp_path, name, content) for name, content in no_films().items()]
    good = written(tmp_path, "good.mkv", whole("a.mkv"))
    with memory_within(60):
        done = taken(tmp_path / "set", *paths, good)
    assert len(reasons(done, "input")) == done.told["failed"] == len(paths)
    assert "found audio" in reasons(done, "input")[f"film{paths.index(tmp_path / 'sound.mkv')}"]
    assert len(done.pictures) == 2


# Sizes and other claims


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5), (17, 2)])
def test_films_of_the_smallest_and_oddest_sizes_are_read(tmp_path, size) -> None:
    path = written(tmp_path, "odd.mkv", film("matroska", "ffv1", "bgr0", size=size))
    done = taken(tmp_path / "set", path)
    assert done.decisions["film0", "film"].details["frames"] == COUNT


@pytest.mark.parametrize("size", [(17, 1), (2, 9000), (9000, 2)])
def test_a_film_of_no_films_shape_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """The small pictures of one of 2 x 16,000 pixels once took 11 GB."""
    path = written(tmp_path, "thin.mkv", film("matroska", "ffv1", "bgr0", size=size))
    with memory_within(60), pytest.raises(FilmError, match=r"thin\.mkv has frames of \d+ x \d+"):
        open_film(path)


def changed(content: bytes, tag: bytes, offset: int, *numbers: int, form: str = ">I") -> bytes:
    """Numbers written at a distance from each place of a tag."""
    out, place = bytearray(content), content.index(tag)
    while place >= 0:
        for number in numbers:
            start = place + len(tag) + offset
            out[start : start + struct.calcsize(form)] = struct.pack(form, number)
        place = content.find(tag, place + 1)
    return bytes(out)


@pytest.mark.parametrize(("width", "height"), [(2, 65535), (65535, 2)])
def test_pixels_of_a_shape_that_no_film_has_are_refused(tmp_path, width, height) -> None:
    """A stream's size that is not its frames' makes pixels wide, and pictures get square ones."""
    content = bytearray(whole("a.mov"))
    place = content.index(b"jpeg") + 28  # in the table of sample descriptions
    content[place : place + 4] = struct.pack(">HH", width, height)
    path = written(tmp_path, "shape.mov", bytes(content))
    with memory_within(100):
        done = taken(tmp_path / "set", path)
    assert "times as wide as high" in reasons(done, "input")["film0"]


def test_frames_that_claim_to_be_huge_are_not_made(tmp_path: Path) -> None:
    """VP8 decodes whatever follows: 20 frames of 144 megapixels took 3 GB and ten seconds."""
    side = 12_000
    assert side * side > LARGEST
    content = whole("a.webm")
    keyframe = b"\x9d\x01\x2a"
    first = content.index(keyframe) + 3
    later = changed(content[first:], keyframe, 0, side | side << 16, form="<I")
    growing = written(tmp_path, "grows.webm", content[:first] + later)
    huge = written(tmp_path, "huge.webm",
                   changed(content, keyframe, 0, side | side << 16, form="<I"))  # fmt: skip
    with memory_within(100):
        done = taken(tmp_path / "set", growing, huge)
    assert "stopped at 0.3 s of 2.0 s: 19 more frames" in reasons(done, "end")["film0"]
    assert "no frame that can be decoded" in reasons(done, "input")["film1"]


def matroska_number(content: bytes, element: bytes, value: bytes) -> bytes:
    """Another value, of the same length, of a Matroska element."""
    place = content.index(element) + len(element)
    assert content[place] == 0x80 | len(value)
    return content[: place + 1] + value + content[place + 1 + len(value) :]


@pytest.mark.parametrize("length", [np.nan, np.inf, -5000.0, 0.0, 5.0, 1e300])
def test_a_length_that_lies_takes_no_frames_away(tmp_path: Path, length: float) -> None:
    """The bar once ended the whole run where a film was longer than its header said."""
    value = struct.pack(">d", length)
    path = written(tmp_path, "a.mkv", matroska_number(whole("lossless.mkv"), b"\x44\x89", value))
    done = taken(tmp_path / "set", path)
    assert done.decisions["film0", "film"].details["frames"] == COUNT
    assert len(done.pictures) == 2


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize(("tag", "offset"), [
    (b"mdhd", 12), (b"mdhd", 16), (b"mvhd", 12), (b"mvhd", 16), (b"stts", 8), (b"stts", 12),
    (b"ctts", 8), (b"ctts", 12), (b"stsz", 8), (b"stsz", 12), (b"stco", 8), (b"stsc", 8),
    (b"elst", 8), (b"elst", 12),
])  # fmt: skip
def test_rates_times_and_counts_of_an_mp4_that_lie_are_told_or_read(
    tmp_path: Path, tag: bytes, offset: int, number: int
) -> None:
    path = written(tmp_path, "a.mp4", changed(whole("index-first.mp4"), tag, offset, number))
    with memory_within(100):
        taken(tmp_path / "set", path)


@pytest.mark.parametrize("number", [0, 1, 2, 255, 2**24 - 1])
@pytest.mark.parametrize("element", [b"\x2a\xd7\xb1", b"\x23\xe3\x83"])  # TimestampScale, ...
def test_rates_of_a_matroska_film_that_lie_are_read(tmp_path, element, number) -> None:
    content = whole("lossless.mkv")
    size = content[content.index(element) + 3] & 0x7F
    value = number.to_bytes(size, "big")
    path = written(tmp_path, "a.mkv", matroska_number(content, element, value))
    done = taken(tmp_path / "set", path)
    assert done.decisions["film0", "film"].details["frames"] == COUNT


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("offset", [20, 24, 28, 32])
def test_rates_of_an_avi_that_lie_are_told_or_read(tmp_path, offset, number) -> None:
    """Scale, rate, start and length."""
    content = bytearray(whole("a.avi"))
    place = content.index(b"vids") + offset
    content[place : place + 4] = struct.pack("<I", number)
    with memory_within(100):
        taken(tmp_path / "set", written(tmp_path, "a.avi", bytes(content)))


@pytest.mark.parametrize(("name", "title"), [
    ("index-first.mp4", b"VideoHandler"), ("a.webm", b"Lavf"), ("a.mkv", b"Lavf"),
])  # fmt: skip
def test_a_title_that_is_no_utf_8_is_no_reason(tmp_path: Path, name: str, title: bytes) -> None:
    """It once ended the whole run."""
    content = whole(name).replace(title, b"\xff\xfe\xc3\x28" + title[4:])
    assert content != whole(name)
    assert len(times_of(written(tmp_path, name, content))) == COUNT


# Times and sizes that change


def test_a_film_that_changes_its_size_keeps_what_came_before(tmp_path: Path) -> None:
    content = film("h264", "libx264") + film("h264", "libx264", size=(96, 64))
    done = taken(tmp_path / "set", written(tmp_path, "two.h264", content))
    damage = reasons(done, "damage")["film0"]
    assert damage.endswith("two.h264: 0 packets skipped, 24 frames damaged by them")
    assert [(p.width, p.height) for p in done.pictures] == [SIZE] * 2


def test_times_that_start_over_are_told(tmp_path: Path) -> None:
    """As in two recordings put together: what has the times of the first cannot be found."""
    one, other = whole("a.ts"), film("mpegts", "mpeg2video", size=(128, 96))
    done = taken(
        tmp_path / "set", written(tmp_path, "twice.ts", one + one),
        written(tmp_path, "both.ts", one + other),
    )  # fmt: skip
    ended = reasons(done, "end")["film0"]
    assert ended.endswith(
        "stopped at 2.0 s of 2.0 s: 24 more frames cannot be decoded, or have earlier times"
    )
    damage = reasons(done, "damage")["film1"]
    assert damage.endswith("both.ts: 23 packets skipped, 1 frames damaged by them")
    assert [p.source for p in done.pictures] == ["film0"] * 2 + ["film1"] * 2


@pytest.mark.parametrize(("times", "skipped"), [
    ([-500 + 83 * n for n in range(COUNT)], 0),
    ([83 * n if n < 6 else 10**9 + 83 * n for n in range(COUNT)], 0),
    ([83 * (n // 2) for n in range(COUNT)], 12),
    ([0] * COUNT, 23),
])  # fmt: skip
def test_odd_times_of_packets(tmp_path: Path, times: list[int], skipped: int) -> None:
    """Negative, far apart, each twice, and all alike."""
    content = film("matroska", "mjpeg", "yuvj420p", times=times, avoid_negative_ts="disabled")
    path = written(tmp_path, "times.mkv", content)
    expected = sorted(set(times))
    assert times_of(path) == expected
    done = taken(tmp_path / "set", path)
    assert done.decisions["film0", "film"].details["frames"] == COUNT - skipped
    assert bool(skipped) == bool(reasons(done, "damage") or reasons(done, "end"))
    for picture in done.pictures:
        assert picture.provenance["pts"] in expected


# Lists, that lead to other files and servers


LISTS: dict[str, Callable[[str], str]] = {
    "a.ffconcat": lambda to: f"ffconcat version 1.0\nfile '{to}'\n",
    "a.m3u8": lambda to: f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{to}\n#EXT-X-ENDLIST\n",
    "key.m3u8": lambda to: (
        f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{to}"\n'
        f"#EXTINF:2,\n{to}\n#EXT-X-ENDLIST\n"
    ),
    "a.mpd": lambda to: (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="0" bandwidth="1"><BaseURL>{to}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ),
    "a.sdp": lambda to: (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:{to}\n"
    ),
    "a.asx": lambda to: f'<asx version="3.0"><entry><ref href="{to}"/></entry></asx>',
    "a.pls": lambda to: f"[playlist]\nFile1={to}\nNumberOfEntries=1\nVersion=2\n",
    "a.ram": lambda to: f"{to}\n",
    "a.smil": lambda to: f'<smil><body><video src="{to}"/></body></smil>',
    "reference.asf": lambda to: f"[Reference]\nRef1={to}\nRef2={to}\n",
    "rtsptext.mov": lambda to: f"rtsptext\n{to}\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("suffix", ["", ".mp4", ".mkv", ".ts", ".avi"])
def test_no_list_leads_to_another_file_or_to_a_server(tmp_path, name, suffix) -> None:
    bait = written(tmp_path, "bait.ts", whole("a.ts"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for to in (str(bait), "bait.ts", f"file:{bait}", f"http://127.0.0.1:{port}/a.ts",
                   f"tcp://127.0.0.1:{port}", f"rtsp://127.0.0.1:{port}/a",
                   f"concat:{bait}|{bait}", f"subfile,,start,0,end,0,,:{bait}"):  # fmt: skip
            path = written(tmp_path, name + suffix, LISTS[name](to).encode())
            with pytest.raises(FilmError) as caught:
                open_film(path)
            assert path.name in str(caught.value), to
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("name", ["a.ffconcat", "a.m3u8"])
def test_the_lists_do_lead_to_other_files_where_they_may(tmp_path: Path, name: str) -> None:
    written(tmp_path, "bait.ts", whole("a.ts"))
    path = written(tmp_path, name, LISTS[name]("bait.ts").encode())
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == COUNT


@pytest.mark.skipif(os.name == "nt", reason="no colons and bars in names there")
@pytest.mark.parametrize("name", [
    "concat:bait.ts|bait.ts", "subfile,,start,0,end,9,,:bait.ts", "http:bait.ts", "pipe:0",
    "file:bait.ts", "data:x", "%03d.ts", "-i.ts", "~.ts", "$HOME.ts", "a b\n.ts",
])  # fmt: skip
def test_a_films_name_is_no_more_than_a_name(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "bait.ts", whole("a.ts"))
    with pytest.raises(FilmError, match="There is no film"):
        open_film(Path(name))
    written(tmp_path, name, whole("a.mkv"))
    assert open_film(Path(name)).codec == "h264"
    assert len(times_of(tmp_path / name)) == COUNT


def leading_elsewhere(content: bytes, target: str) -> bytes:
    """A mov whose frames lie in another file, as an alias of its data reference."""
    name = target.encode()
    alias = bytes(10) + bytes(28) + bytes(12) + bytes(64) + bytes(16) + struct.pack(">HH", 1, 1)
    alias += bytes(16) + struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2)
    alias += struct.pack(">hH", -1, 0) + bytes(150)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    place = content.index(b"dref") - 4
    old = struct.unpack(">I", content[place : place + 4])[0]
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    out = bytearray(content[:place] + new + content[place + old :])
    for box in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = out.index(box) - 4
        size = struct.unpack(">I", out[at : at + 4])[0] + len(new) - old
        out[at : at + 4] = struct.pack(">I", size)
    start = out.index(b"mdat") + 4
    end = start - 8 + struct.unpack(">I", out[start - 8 : start - 4])[0]
    out[start:end] = bytes(end - start)  # its own frames are gone
    return bytes(out)


def test_a_mov_whose_frames_lie_in_another_file_reads_none_of_it(tmp_path: Path) -> None:
    bait = written(tmp_path, "bait.mov", whole("a.mov"))
    path = written(tmp_path, "a.mov", leading_elsewhere(whole("a.mov"), str(bait)))
    allowed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=allowed) as container:
        assert len(list(container.decode(video=0))) == COUNT  # so it does lead there
    done = taken(tmp_path / "set", path)
    assert "no frame that can be decoded" in reasons(done, "input")["film0"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_and_devices_among_the_films(tmp_path: Path) -> None:
    folder, outside = tmp_path / "films", tmp_path / "outside"
    good = written(folder, "good.mkv", whole("a.mkv"))
    (folder / "linked.ts").symlink_to(written(outside, "other.ts", whole("a.ts")))
    (folder / "secret.mp4").symlink_to(written(outside, "secret.txt", b"secret"))
    (folder / "gone.mp4").symlink_to(outside / "nowhere.mp4")
    (folder / "self.mp4").symlink_to(folder / "self.mp4")
    (folder / "around").symlink_to(folder, target_is_directory=True)
    (folder / "zero.mkv").symlink_to("/dev/zero")
    (folder / "folder.mkv").mkdir()
    os.mkfifo(folder / "pipe.mkv")
    with open_work(tmp_path / "set", ingest={"sources": [str(folder)]}) as work:
        assert ingest.run(work) == {"keep": 3}
        names = [Path(source.path).name for source in work.ledger.sources()]
    assert sorted(names) == ["good.mkv", "linked.ts", "secret.mp4"]
    done = taken(tmp_path / "taken", good, folder / "secret.mp4")
    assert "secret.mp4 cannot be opened" in reasons(done, "input")["film1"]


# The command line


def test_the_stage_tells_of_the_films_that_failed_and_goes_on(tmp_path: Path, capsys) -> None:
    """No error of a film is one of the program: it says how many failed, and why."""
    for name, content in no_films().items():
        written(tmp_path / "films", name, content)
    for number, name in enumerate(FILMS):
        written(tmp_path / "films", f"{number:02d}-{name}", damaged(whole(name), number))
    written(tmp_path / "films", "good.mkv", whole("a.mkv"))
    arguments = ["--run.output", str(tmp_path / "set"), "--ingest.sources", str(tmp_path / "films")]
    assert main(["ingest", *arguments]) == 0
    assert main(["frames", *arguments, "--frames.min_shot", "0.2"]) == 0
    out, err = capsys.readouterr()
    failed = [line for line in out.splitlines() if re.match(r"frames: .* (opened|in it)", line)]
    assert f"frames: {len(failed)} failed, " in out
    for name in no_films():
        assert any(f"/{name} " in line for line in failed), name
    assert not any("good.mkv" in line for line in failed)
    assert "Traceback" not in out + err
    assert not list(tmp_path.rglob("*.part"))
