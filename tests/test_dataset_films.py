"""Films: opening, seeking, colour and tone mapping, against known pictures and values."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from dataset_clips import SIZE, drawing, frame_of, write_clip, yuv

from training.dataset.film.colour import colours_of, to_picture
from training.dataset.film.films import Film, FilmError, open_film
from training.dataset.film.tone_mapping import (
    gamut_matrix,
    hdr_to_sdr,
    hlg_to_nits,
    nits_to_pq,
    pq_to_nits,
    roll_off,
    srgb_light,
    srgb_signal,
)

FINE = {"crf": "1"}  # so that what differs is the colours' fault, not the encoder's


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def first_picture(path: Path) -> np.ndarray:
    film = open_film(path)
    frame = next(film.frames()).frame
    return to_picture(film, frame, colours_of(film, frame))


def error_of(path: Path, truth: np.ndarray) -> float:
    return float(np.abs(blocks(first_picture(path)) - blocks(truth)).mean())


def blocks(picture: np.ndarray) -> np.ndarray:
    """Means of 8 x 8 pixels: colour is coded at half size, so single pixels differ anyway."""
    height, width = (side // 8 * 8 for side in picture.shape[:2])
    return picture[:height, :width].reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))


def patches(colours: list[tuple[float, float, float]], size: int = 64) -> np.ndarray:
    row = [np.broadcast_to(np.array(colour), (size, size, 3)) for colour in colours]
    return np.concatenate(row, axis=1)


def patch_values(picture: np.ndarray, size: int = 64) -> np.ndarray:
    return picture[size // 2, size // 2 :: size].astype(int)


def crop_of(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, :600])


@pytest.mark.parametrize(
    ("height", "matrix", "tags", "bits", "full"),
    [
        (720, "bt709", (1, 1, 1), 8, False),
        (720, "bt709", None, 8, False),
        (360, "bt601", None, 8, False),
        (360, "bt709", (1, 1, 1), 8, False),
        (720, "bt601", (6, 6, 6), 8, False),
        (360, "bt601", (5, 6, 5), 10, False),
        (720, "bt709", (1, 1, 1), 8, True),
        (720, "bt709", (1, 1, 1), 10, False),
    ],
)
def test_a_film_gives_the_colours_it_was_made_from(
    tmp_path: Path, height: int, matrix: str, tags: tuple[int, int, int] | None, bits: int,
    full: bool,
) -> None:  # fmt: skip
    truth = drawing("meadow", "sylvie_blue_smile", size=(height * 16 // 9, height))
    path = write_clip(
        tmp_path / "film.mp4", [truth] * 3, matrix=matrix, bits=bits, full=full, tags=tags,
        options=FINE,
    )  # fmt: skip
    assert error_of(path, truth) < 1
    wrong = write_clip(
        tmp_path / "wrong.mp4", [truth] * 3, matrix="bt601" if matrix == "bt709" else "bt709",
        bits=bits, full=full, tags=tags, options=FINE,
    )  # fmt: skip
    assert error_of(wrong, truth) > 2


@pytest.mark.parametrize(("codec", "bits"), [("libx265", 10), ("ffv1", 12), ("ffv1", 8)])
def test_depths_and_codecs(tmp_path: Path, codec: str, bits: int) -> None:
    truth = drawing("uni", "sylvie_green_normal")
    path = write_clip(
        tmp_path / "film.mkv", [truth] * 2, codec=codec, bits=bits, matrix="bt601", tags=None,
        options={"crf": "1", "x265-params": "log-level=none"} if codec == "libx265" else {},
    )  # fmt: skip
    assert error_of(path, truth) < 1


def test_primary_colours_by_hand(tmp_path: Path) -> None:
    named = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0.5, 0.5, 0.5), (1, 1, 1)]
    path = write_clip(tmp_path / "film.mkv", [patches(named)] * 2, codec="ffv1", tags=(1, 1, 1))
    values = patch_values(first_picture(path))
    assert np.abs(values - np.rint(np.array(named) * 255)).max() <= 2
    red = frame_of(yuv(patches([(1, 0, 0)]))).to_ndarray()
    assert red[32, 32] == 63  # BT.709's red in limited range: 16 + 219 * 0.2126


def test_chroma_is_sited_left() -> None:
    edge = np.zeros((32, 64, 3), np.uint8)
    edge[:, 33:] = (255, 0, 0)  # an odd place, which a centred reading would smear to one side
    ramp = np.linspace(0, 1, 64)[None, :, None] * np.array([1.0, 0.2, 0.2])
    smooth = np.broadcast_to(ramp, (32, 64, 3))
    film = Film(Path("x"), 0, "h264", 64, 32, Fraction(1, 24), 0, 1.0, Fraction(24), Fraction(1))
    centred = Film(
        Path("x"), 0, "mpeg1video", 64, 32, Fraction(1, 24), 0, 1.0, Fraction(24), Fraction(1)
    )
    frame = frame_of(yuv(smooth, "bt601"))
    colours = colours_of(film, frame)
    right, wrong = (
        np.abs(to_picture(f, frame, colours)[:, 4:-4] - smooth[:, 4:-4] * 255.0)
        for f in (film, centred)
    )
    assert right.mean() < wrong.mean()
    sharp = to_picture(film, frame_of(yuv(edge, "bt601")), colours)
    assert np.abs(sharp[:, :30].astype(int)).max() <= 2


def test_rgb_and_grey_films_need_no_matrix(tmp_path: Path) -> None:
    truth = drawing("club", "sylvie_blue_normal")
    for name, kind in (("rgb", "bgr0"), ("grey", "gray")):
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.width, stream.height, stream.pix_fmt = SIZE[0], SIZE[1], kind
            frame = av.VideoFrame.from_ndarray(truth, "rgb24").reformat(
                format=kind, dst_color_range="JPEG"
            )
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        picture = first_picture(path)
        if name == "rgb":
            assert np.array_equal(picture, truth)
        else:
            assert np.array_equal(picture[..., 0], picture[..., 2])
            assert np.abs(picture[..., 1] - truth @ [0.299, 0.587, 0.114]).mean() < 12


def test_strips_meet(tmp_path: Path) -> None:
    truth = drawing("meadow", "sylvie_green_smile", size=(1280, 720))
    path = write_clip(tmp_path / "film.mp4", [truth] * 2, options=FINE)
    film = open_film(path)
    frame = next(film.frames()).frame
    colours = colours_of(film, frame)
    whole = to_picture(film, frame, colours)
    part = to_picture(film, frame, colours, (100, 150, 900, 550))
    assert np.array_equal(part, whole[150:550, 100:900])


def test_anamorphic_pixels_become_square_by_enlarging(tmp_path: Path) -> None:
    frames = [drawing("meadow")[:, :480]] * 2
    wide = write_clip(tmp_path / "wide.mkv", frames, aspect=Fraction(4, 3))
    assert first_picture(wide).shape == (360, 640, 3)
    tall = write_clip(tmp_path / "tall.mkv", frames, aspect=Fraction(8, 9))
    assert first_picture(tall).shape == (405, 480, 3)


def test_a_turned_film_comes_upright(tmp_path: Path) -> None:
    truth = crop_of(drawing("meadow", "sylvie_blue_smile"))
    path = write_clip(tmp_path / "film.mp4", [np.ascontiguousarray(np.rot90(truth))] * 2,
                      matrix="bt601", tags=None, options=FINE)  # fmt: skip
    _turn(path)
    picture = first_picture(path)
    assert picture.shape == truth.shape
    assert np.abs(blocks(picture) - blocks(truth)).mean() < 1


def _turn(path: Path) -> None:
    """Writes "show it turned 90 degrees clockwise" into the track header's matrix."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    values = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(bytes(data))


# Tone mapping


def test_pq_and_hlg_by_the_book() -> None:
    # BT.2408, table 1: 203 nits are 58 % of PQ and 75 % of HLG; 1000 nits are 75 % of PQ.
    pq = nits_to_pq(f32([0, 100, 203, 1000, 10_000]))
    assert pq == pytest.approx([0, 0.508, 0.581, 0.752, 1], abs=6e-4)
    assert pq_to_nits(pq) == pytest.approx([0, 100, 203, 1000, 10_000], rel=2e-3, abs=1e-3)
    grey = f32([[0.75] * 3, [1.0] * 3, [0.0] * 3])
    assert hlg_to_nits(grey)[:, 0] == pytest.approx([203, 1000, 0], rel=0.01, abs=0.01)


def test_gamut_by_the_book() -> None:
    # ITU-R BT.2407, section 2: BT.2020 to BT.709.
    expected = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    assert gamut_matrix("bt2020", "bt709") == pytest.approx(np.array(expected), abs=2e-4)
    assert gamut_matrix("p3", "p3") == pytest.approx(np.eye(3), abs=1e-6)


def test_roll_off_leaves_what_is_below_the_knee() -> None:
    nits = f32([[1, 5, 20], [80, 60, 10], [203, 203, 203], [1000, 500, 0], [4000, 0, 0]])
    out = roll_off(nits, 1000.0)
    assert out[:2] == pytest.approx(nits[:2], rel=1e-4)
    assert out.max() == pytest.approx(203, rel=1e-3)
    assert out[3, 1] / out[3, 0] == pytest.approx(0.5, rel=1e-3)  # the hue stays
    grey = np.linspace(0, 1000, 500, dtype=np.float32)[:, None].repeat(3, axis=1)
    assert (np.diff(roll_off(grey, 1000.0)[:, 0]) > -0.1).all()
    assert np.array_equal(roll_off(nits[:3], 203.0), nits[:3])
    assert srgb_signal(srgb_light(f32([0.0, 0.02, 0.5, 1]))) == pytest.approx(
        [0, 0.02, 0.5, 1], abs=1e-5
    )


def hdr_clip(path: Path, signal: np.ndarray, transfer: int, extra: str = "") -> Path:
    params = f"log-level=none:colorprim=bt2020:colormatrix=bt2020nc{extra}"
    return write_clip(
        path, [signal] * 2, codec="libx265", bits=10, matrix="bt2020", tags=(9, transfer, 9),
        options={"crf": "1", "x265-params": params},
    )  # fmt: skip


def sdr_in_pq(sdr: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] as PQ in BT.2020, white at 203 nits."""
    nits = srgb_light(sdr.astype(np.float32)) * 203
    return nits_to_pq(nits @ gamut_matrix("bt709", "bt2020").T)


SDR = [(0.0, 0, 0), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5), (0.7, 0.7, 0.7), (0.6, 0.2, 0.2),
       (0.2, 0.6, 0.3), (0.2, 0.3, 0.6)]  # fmt: skip


def test_hdr10_shows_sdr_colours_as_they_are(tmp_path: Path) -> None:
    path = hdr_clip(tmp_path / "film.mkv", sdr_in_pq(patches(SDR)), 16)
    film = open_film(path)
    frame = next(film.frames()).frame
    colours = colours_of(film, frame)
    assert (colours.transfer, colours.primaries, colours.matrix) == ("pq", "bt2020", "bt2020")
    assert colours.hdr
    assert colours.peak == 1000
    values = patch_values(to_picture(film, frame, colours))
    assert np.abs(values - np.rint(np.array(SDR) * 255)).max() <= 3


@pytest.mark.parametrize(
    ("extra", "peak"),
    [
        (":max-cll=203,100", 203),
        (":master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
         "L(40000000,50)", 4000),
    ],
)  # fmt: skip
def test_sdr_white_follows_the_films_peak(tmp_path: Path, extra: str, peak: float) -> None:
    white = sdr_in_pq(patches([(1, 1, 1), (0.9, 0.9, 0.9)]))
    path = hdr_clip(tmp_path / "film.mkv", white, 16, extra)
    film = open_film(path)
    frame = next(film.frames()).frame
    assert colours_of(film, frame).peak == pytest.approx(peak)
    values = patch_values(first_picture(path))[:, 0]
    if peak == 203:  # nothing is brighter, so nothing is rolled off
        assert values == pytest.approx([255, 230], abs=2)
    else:
        assert 190 < values[0] < 255
    given = to_picture(film, frame, colours_of(film, frame, peak=203))
    assert patch_values(given)[:, 0] == pytest.approx([255, 230], abs=2)


def test_hlg(tmp_path: Path) -> None:
    path = hdr_clip(
        tmp_path / "film.mkv", patches([(0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (1, 1, 1)]), 18
    )
    values = patch_values(first_picture(path))
    # Signal 0.5 is scene light 1/12, hence 1000 * (1/12)^1.2 = 50.7 nits, below the knee.
    assert values[0] == pytest.approx([255 * float(srgb_signal(f32([50.7 / 203]))[0])] * 3, abs=2)
    assert values[1][0] > values[0][0]
    assert values[2] == pytest.approx([255] * 3, abs=2)


def test_naive_colours_would_fail() -> None:
    signal = sdr_in_pq(f32([[0.7, 0.2, 0.2]]))
    assert np.abs(signal - [[0.7, 0.2, 0.2]]).max() > 0.1
    back = hdr_to_sdr(signal, "pq", "bt2020", 1000)
    assert back == pytest.approx(np.array([[0.7, 0.2, 0.2]]), abs=5e-3)
    assert np.abs(hdr_to_sdr(signal, "pq", "bt709", 1000) - [[0.7, 0.2, 0.2]]).max() > 0.05


def test_wide_sdr(tmp_path: Path) -> None:
    sdr = np.array(SDR)
    wide = srgb_signal(srgb_light(patches(SDR).astype(np.float32))
                       @ gamut_matrix("bt709", "bt2020").T)  # fmt: skip
    path = write_clip(tmp_path / "film.mkv", [wide] * 2, matrix="bt2020", tags=(9, 14, 9),
                      codec="ffv1")  # fmt: skip
    assert np.abs(patch_values(first_picture(path)) - sdr * 255).max() <= 4


# Opening and seeking


def test_seeking_gives_the_frames_that_follow(tmp_path: Path) -> None:
    frames = [drawing("meadow", "sylvie_blue_smile", 3 * n) for n in range(40)]
    times = [0, 40, 90, 120] + [150 + 41 * n + (n * n) % 13 for n in range(36)]
    path = write_clip(tmp_path / "film.mkv", frames, times=times, keyframes=12)
    film = open_film(path)
    every = [shown.frame.pts for shown in film.frames()]
    assert every == times
    for start in (0, 120, 121, 800, times[-1]):
        assert [s.frame.pts for s in film.frames(start)] == [t for t in times if t >= start]
    whole = {s.frame.pts: s.frame.to_ndarray().tobytes() for s in film.frames()}
    for shown in film.frames(800):
        assert whole[shown.frame.pts] == shown.frame.to_ndarray().tobytes()
    assert len(list(film.burst(1.0, 5))) == 5


def test_a_bare_stream_has_times_too(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.h264", [drawing("meadow")] * 10)
    film = open_film(path)
    times = [shown.frame.pts or 0 for shown in film.frames()]
    assert len(times) == 10
    assert times == sorted(set(times))
    assert [s.frame.pts for s in film.frames(times[4])] == times[4:]


def test_what_is_no_film_says_so(tmp_path: Path) -> None:
    with pytest.raises(FilmError, match="There is no film"):
        open_film(tmp_path / "none.mp4")
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(FilmError, match=r"junk\.mp4 cannot be opened as a film"):
        open_film(junk)
    list_of_films = tmp_path / "list.m3u8"
    list_of_films.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n")
    with pytest.raises(FilmError, match="cannot be opened"):
        open_film(list_of_films)
    sound = tmp_path / "sound.mka"
    with av.open(str(sound), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        tone.sample_rate = 8000
        container.mux(stream.encode(tone))
    with pytest.raises(FilmError, match="expected a video stream, found audio"):
        open_film(sound)


def test_a_cover_is_not_the_film(tmp_path: Path) -> None:
    from av.stream import Disposition

    path = tmp_path / "film.mp4"
    small = drawing("meadow", size=(320, 180))
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 640, 360, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        film = container.add_stream("libx264", rate=24)
        film.width, film.height, film.pix_fmt = 320, 180, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(drawing("uni"), "rgb24")))
        for _ in range(5):
            container.mux(film.encode(av.VideoFrame.from_ndarray(small, "rgb24")))
        container.mux(cover.encode())
        container.mux(film.encode())
    opened = open_film(path)
    assert (opened.width, opened.codec) == (320, "h264")
    assert len(list(islice(opened.frames(), 9))) == 5


def test_pixels_and_matrices_that_are_not_known(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mkv", [drawing("meadow")] * 2, tags=(9, 16, 14),
                      codec="ffv1", matrix="bt709")  # fmt: skip
    film = open_film(path)
    frame = next(film.frames()).frame
    with pytest.raises(FilmError, match=r"film\.mkv has colours of a kind that cannot be read"):
        colours_of(film, frame)
