"""A decoded frame as an sRGB picture: matrix, range, bit depth, chroma siting, HDR, pixel shape.

Tags are followed; where a film has none, its size tells: up to 576 lines it is BT.601, above
it BT.709. The code points are those of ITU-T H.273. Own arithmetic in float instead of swscale's,
whose default is BT.601 whatever the film, and whose 8 bits would come before tone mapping.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..images import Pixels
from .films import Film, FilmError
from .tone_mapping import HLG_PEAK, hdr_to_sdr, wide_to_sdr

if TYPE_CHECKING:
    from av import VideoFrame

Plane = NDArray[Any]
"""[h, w] of uint8 or uint16, as coded."""

STRIP = 256  # rows at a time: at 3840 wide each float32 RGB copy of a strip takes 12 MB
SD_LINES = 576  # PAL's, of the short side; more is HD
HD_WIDTH = 1280  # of the long side
PEAK = 1000.0  # nits: where a film does not say how bright it gets

_KR_KB = {  # H.273, table 4
    "bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11), "smpte240m": (0.212, 0.087),
}  # fmt: skip
_MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
_PRIMARIES = {1: "bt709", 5: "bt601", 6: "bt601", 7: "bt601", 9: "bt2020", 11: "p3", 12: "p3"}
_TRANSFERS = {16: "pq", 18: "hlg"}
_UNSET = 2
_REPACKED = {  # to planes, without any change of values
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "yuyv422": "yuv422p",
    "uyvy422": "yuv422p", "p010le": "yuv420p10le", "p012le": "yuv420p12le",
    "p016le": "yuv420p16le",
}  # fmt: skip


@dataclass(frozen=True)
class Colours:
    """How a film's numbers mean colours.

    Attributes:
        primaries: "bt709", "bt601", "bt2020" or "p3".
        transfer: "sdr", "pq" or "hlg".
        matrix: "bt709", "bt601", "bt2020", "fcc", "smpte240m" or "rgb".
        range: "limited" or "full".
        peak: the brightest, in nits; only of HDR.
        guessed: which of them the film does not say.
    """

    primaries: str
    transfer: str
    matrix: str
    range: str
    peak: float
    guessed: tuple[str, ...]

    @property
    def hdr(self) -> bool:
        """Whether it needs tone mapping."""
        return self.transfer != "sdr"


def colours_of(film: Film, frame: VideoFrame, peak: float = 0) -> Colours:
    """Reads a frame's tags, or guesses them.

    Args:
        film: that the frame is from.
        frame: as decoded.
        peak: the brightest in nits, if the film is not to be asked; 0 asks it.

    Raises:
        FilmError: its colours are coded in a way that is not known here.
    """
    matrix, primaries = int(frame.colorspace), int(frame.color_primaries)
    transfer = _TRANSFERS.get(int(frame.color_trc), "sdr")
    short, long = sorted((film.width, film.height))
    hd = short > SD_LINES or long >= HD_WIDTH
    guess = "bt2020" if transfer != "sdr" else "bt709" if hd else "bt601"
    dolby = any(frame.side_data.get(name) for name in ("DOVI_METADATA", "DOVI_RPU_BUFFER"))
    rgb = frame.format.is_rgb
    unset = matrix == _UNSET or (matrix == 0 and not rgb)  # 0 is what some muxers write for none
    if (not unset and matrix not in _MATRICES) or (dolby and unset and transfer == "sdr"):
        raise FilmError(
            f"{film.path} has colours of a kind that cannot be read (matrix {matrix}"
            f"{', Dolby Vision without a base layer' if dolby else ''}); expected BT.601, 709 or "
            "2020. Use an HDR10 or SDR version of it."
        )
    full = frame.color_range == 2 or frame.format.name.startswith("yuvj") or rgb
    guessed = {
        "matrix": unset and not rgb,
        "primaries": primaries not in _PRIMARIES,
        "transfer": int(frame.color_trc) == _UNSET,
        "range": frame.color_range not in (1, 2) and not full,
    }
    return Colours(
        primaries=_PRIMARIES.get(primaries, guess),
        transfer=transfer,
        matrix="rgb" if rgb else guess if unset else _MATRICES[matrix],
        range="full" if full else "limited",
        peak=(peak or _peak(frame, transfer)) if transfer != "sdr" else 0.0,
        guessed=tuple(name for name, is_guess in guessed.items() if is_guess),
    )


def to_picture(
    film: Film, frame: VideoFrame, colours: Colours, crop: Sequence[int] | None = None
) -> Pixels:
    """Makes an sRGB picture of square pixels, upright.

    Args:
        film: that the frame is from.
        frame: as decoded.
        colours: from `colours_of`.
        crop: (left, top, right, bottom) of what is kept, in the frame's pixels.

    Returns:
        [h, w, 3].

    Raises:
        FilmError: its pixels are stored in a way that is not known here.
    """
    turn, frame = frame.rotation, planar(film, frame)
    height, width = frame.height, frame.width
    left, top, right, bottom = crop or (0, 0, width, height)
    picture = np.empty((bottom - top, right - left, 3), np.uint8)
    for start in range(top, bottom, STRIP):
        rows = slice(start, min(start + STRIP, bottom))
        signal = _signal(film, frame, rows, colours)[:, left:right]
        out = picture[rows.start - top : rows.stop - top]
        np.rint(_shown(signal, colours) * 255, out=out, casting="unsafe")
    return _upright(_square(picture, film.aspect), turn)


def planar(film: Film, frame: VideoFrame) -> VideoFrame:
    """The same frame with its values in planes: Y, Cb, Cr, or G, B, R, or grey alone.

    Raises:
        FilmError: its pixels are stored in a way that is not known here.
    """
    name = frame.format.name
    if name in _REPACKED:
        frame = frame.reformat(format=_REPACKED[name])
    elif frame.format.is_rgb and not name.startswith("gbr"):
        deep = max(part.bits for part in frame.format.components) > 8
        frame = frame.reformat(format="gbrp16le" if deep else "gbrp")
    name = frame.format.name
    if not name.startswith(("yuv", "gbr", "gray")) or name.endswith(("be", "f32le", "f16le")):
        raise FilmError(
            f"{film.path} stores its pixels as {name}; expected YUV or RGB of 8 to 16 bits. "
            "Convert it to yuv420p or yuv420p10le."
        )
    return frame


def planes_of(frame: VideoFrame) -> list[Plane]:
    """The planes of a frame from `planar`, without copying; transparency is left out."""
    kind = np.uint8 if depth(frame) == 8 else np.uint16
    return [_view(plane, kind) for plane in frame.planes[:3]]


def depth(frame: VideoFrame) -> int:
    """Bits of a frame's luma."""
    return frame.format.components[0].bits


def _view(plane: Any, kind: type) -> Plane:
    values = np.frombuffer(plane, kind)
    return values.reshape(plane.height, -1)[:, : plane.width]


def _signal(film: Film, frame: VideoFrame, rows: slice, colours: Colours) -> NDArray[np.float32]:
    """R'G'B' of some rows [h, w, 3], about [0, 1]."""
    import cv2

    planes, bits = planes_of(frame), depth(frame)
    first = planes[0][rows].astype(np.float32)
    if len(planes) < 3:
        scale, offset = _levels(bits, colours.range)
        grey = first * np.float32(scale) + np.float32(offset)
        return np.asarray(np.repeat(grey[..., None], 3, axis=2), np.float32)
    if colours.matrix == "rgb":
        green, blue, red = (plane[rows].astype(np.float32) for plane in planes)
        rgb = np.stack([red, green, blue], axis=2) / np.float32(2**bits - 1)
        return np.asarray(rgb, np.float32)
    siting = _siting(film, colours)
    chroma = [_full_size(plane, rows, planes[0].shape, siting) for plane in planes[1:]]
    signal = cv2.transform(cv2.merge([first, *chroma]), _yuv_matrix(bits, colours))
    return np.asarray(signal, np.float32)


def _yuv_matrix(bits: int, colours: Colours) -> NDArray[np.float32]:
    """Coded Y, Cb, Cr to R'G'B', [3, 4] (H.273, equations 20 to 43)."""
    kr, kb = _KR_KB[colours.matrix]
    kg = 1 - kr - kb
    matrix = np.array([
        [1, 0, 2 * (1 - kr)],
        [1, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg],
        [1, 2 * (1 - kb), 0],
    ])  # fmt: skip
    y_scale, y_offset = _levels(bits, colours.range)
    middle = 2 ** (bits - 1)
    c_scale = 1 / (2**bits - 1) if colours.range == "full" else 1 / (224 * 2 ** (bits - 8))
    scaled = matrix * [y_scale, c_scale, c_scale]
    offset = matrix @ [y_offset, -middle * c_scale, -middle * c_scale]
    return np.column_stack([scaled, offset]).astype(np.float32)


def _levels(bits: int, span: str) -> tuple[float, float]:
    """What takes coded luma to [0, 1]: factor and what is then added."""
    if span == "full":
        return 1 / (2**bits - 1), 0.0
    return 1 / (219 * 2 ** (bits - 8)), -16 / 219


def _siting(film: Film, colours: Colours) -> tuple[float, float]:
    """Where the first chroma sample lies, in luma pixels right of and below the first luma's.

    PyAV does not give the tag. Left is the rule of MPEG-2, H.264 and H.265; centre that of MPEG-1
    and JPEG; top left that of UHD (BT.2020 and BT.2100, 4:2:0).
    """
    if film.codec in ("mpeg1video", "mjpeg"):
        return 0.5, 0.5
    return (0.0, 0.0) if colours.hdr else (0.0, 0.5)


def _full_size(
    plane: Plane, rows: slice, shape: tuple[int, ...], siting: tuple[float, float]
) -> NDArray[np.float32]:
    """Chroma of some rows at luma's size, between samples linearly."""
    import cv2

    across, down = -(-shape[1] // plane.shape[1]), -(-shape[0] // plane.shape[0])
    first = max(0, rows.start // down - 2)
    part = plane[first : rows.stop // down + 2].astype(np.float32)
    shift = [siting[0] / across if across > 1 else 0, siting[1] / down if down > 1 else 0]
    at = np.array(
        [[1 / across, 0, -shift[0]], [0, 1 / down, rows.start / down - shift[1] - first]],
        np.float32,
    )
    size = (shape[1], rows.stop - rows.start)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    sized = cv2.warpAffine(part, at, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sized, np.float32)


def _shown(signal: NDArray[np.float32], colours: Colours) -> NDArray[np.float32]:
    """SDR stays as it is: sRGB screens show BT.709 films as they are, and so do we.

    BT.601's primaries are near enough to BT.709's, and tagged at random on DVDs, to be left.
    """
    wide = colours.primaries if colours.primaries in ("bt2020", "p3") else "bt709"
    if colours.hdr:
        return hdr_to_sdr(signal, colours.transfer, wide, colours.peak)
    if wide != "bt709":
        return wide_to_sdr(signal, wide)
    return np.clip(signal, 0, 1)


def _peak(frame: VideoFrame, transfer: str) -> float:
    """The film's brightest in nits: of its content, else of the screen it was made on."""
    if transfer == "hlg":
        return HLG_PEAK
    for name, read in (("CONTENT_LIGHT_LEVEL", _content), ("MASTERING_DISPLAY_METADATA", _screen)):
        data: Any = frame.side_data.get(name)
        if data is not None and (nits := read(bytes(data))) > 0:
            return nits
    return PEAK


def _content(data: bytes) -> float:
    """MaxCLL, of FFmpeg's AVContentLightMetadata."""
    return float(struct.unpack_from("=I", data)[0])


def _screen(data: bytes) -> float:
    """The largest luminance, the last of ten rationals in AVMasteringDisplayMetadata."""
    *_, above, below, _, known = struct.unpack_from("=20i2i", data)
    return above / below if known and below else 0.0


def _square(picture: Pixels, aspect: Fraction) -> Pixels:
    """Pixels made square by enlarging the short side, so that nothing is lost."""
    import cv2

    if aspect == 1:
        return picture
    height, width = picture.shape[:2]
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LANCZOS4), np.uint8)


def _upright(picture: Pixels, degrees: int) -> Pixels:
    """Turned as the film asks; PyAV tells degrees against the clock."""
    return np.ascontiguousarray(np.rot90(picture, round(degrees / 90)))
