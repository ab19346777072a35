"""HDR pictures for an SDR screen, in floating point: PQ and HLG (ITU-R BT.2100) to sRGB.

1. Signal to light: the PQ EOTF, or HLG's inverse OETF and OOTF at 1,000 nits (BT.2100 tables 4, 5).
2. BT.2020's primaries to BT.709's, by a matrix made from their chromaticities.
3. Highlights rolled off by the EETF of ITU-R BT.2390 (section 5.4.1): nothing changes up to the
   knee, the film's brightest becomes white. It acts on the largest of R, G and B and scales all
   three, so that a colour keeps its hue.
4. Light to signal: sRGB's curve, with SDR white at 203 nits (ITU-R BT.2408).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Light = NDArray[np.float32]
"""[..., 3], red, green, blue."""

SDR_WHITE = 203.0  # nits: HDR reference white, ITU-R BT.2408, section 2.1
HLG_PEAK = 1000.0  # nits: the nominal screen of BT.2100's HLG

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_PQ_PEAK = 10_000.0  # nits at signal 1

_HLG_A = 0.17883277
_HLG_B = 1 - 4 * _HLG_A
_HLG_C = 0.5 - _HLG_A * np.log(4 * _HLG_A)
_HLG_GAMMA = 1.2  # of the OOTF at 1,000 nits
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)

PRIMARIES = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Chromaticities (x, y) of red, green and blue; the white of all is D65."""
_D65 = (0.3127, 0.3290)


def hdr_to_sdr(signal: Light, transfer: str, primaries: str, peak: float) -> Light:
    """Maps an HDR picture to sRGB.

    Args:
        signal: [..., 3] R'G'B' in [0, 1].
        transfer: "pq" or "hlg".
        primaries: a key of PRIMARIES.
        peak: the film's brightest, in nits; the roll-off ends there.

    Returns:
        [..., 3] sRGB in [0, 1].
    """
    nits = pq_to_nits(signal) if transfer == "pq" else hlg_to_nits(signal)
    light = np.maximum(nits @ gamut_matrix(primaries, "bt709").T, 0)
    return srgb_signal(roll_off(light, peak) / SDR_WHITE)


def wide_to_sdr(signal: Light, primaries: str) -> Light:
    """Maps an SDR picture of wide primaries to sRGB's; both in [0, 1]."""
    return srgb_signal(srgb_light(signal) @ gamut_matrix(primaries, "bt709").T)


def pq_to_nits(signal: Light) -> Light:
    """The EOTF of BT.2100, table 4: signal in [0, 1] to light in [0, 10000] nits."""
    root = np.clip(signal, 0, 1) ** np.float32(1 / _M2)
    base = np.maximum(root - np.float32(_C1), 0) / (np.float32(_C2) - np.float32(_C3) * root)
    return np.float32(_PQ_PEAK) * base ** np.float32(1 / _M1)


def nits_to_pq(nits: Light) -> Light:
    """The inverse of `pq_to_nits`."""
    base = np.maximum(nits / np.float32(_PQ_PEAK), 0) ** np.float32(_M1)
    ratio = (np.float32(_C1) + np.float32(_C2) * base) / (1 + np.float32(_C3) * base)
    return ratio ** np.float32(_M2)


def hlg_to_nits(signal: Light) -> Light:
    """The EOTF of BT.2100, table 5, for a screen of 1,000 nits; [..., 3] in [0, 1]."""
    signal = np.clip(signal, 0, 1)
    low = signal**2 / 3
    high = (np.exp((signal - np.float32(_HLG_C)) / np.float32(_HLG_A)) + np.float32(_HLG_B)) / 12
    scene = np.where(signal <= 0.5, low, high).astype(np.float32)
    luma = (scene @ _LUMA_2020)[..., None]
    return np.float32(HLG_PEAK) * np.maximum(luma, 1e-6) ** np.float32(_HLG_GAMMA - 1) * scene


def roll_off(light: Light, peak: float) -> Light:
    """Brings light of up to `peak` nits below SDR white, by BT.2390's EETF on the largest channel.

    Below the knee nothing changes; with a peak of SDR white or less nothing changes at all.
    """
    if peak <= SDR_WHITE:
        return light
    # numpy's own maximum over an axis of three takes ten times as long
    most = np.maximum(np.maximum(light[..., :1], light[..., 1:2]), light[..., 2:])
    top, white = nits_to_pq(np.array([peak, SDR_WHITE], np.float32)).tolist()
    limit = white / top
    knee = 1.5 * limit - 0.5
    given = np.minimum(nits_to_pq(most) / np.float32(top), 1)
    t = np.maximum(given - np.float32(knee), 0) / np.float32(1 - knee)
    t2, t3 = t**2, t**3
    spline = (
        (2 * t3 - 3 * t2 + 1) * np.float32(knee)
        + (t3 - 2 * t2 + t) * np.float32(1 - knee)
        + (3 * t2 - 2 * t3) * np.float32(limit)
    )
    wanted = pq_to_nits((spline * top).astype(np.float32))
    scale = np.where(given > knee, wanted / np.maximum(most, np.float32(1e-6)), 1)
    return light * scale.astype(np.float32)


def srgb_signal(light: Light) -> Light:
    """Linear light to sRGB (IEC 61966-2-1); both clipped to [0, 1]."""
    light = np.clip(light, 0, 1)
    high = np.float32(1.055) * light ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(light <= 0.0031308, np.float32(12.92) * light, high)


def srgb_light(signal: Light) -> Light:
    """The inverse of `srgb_signal`."""
    signal = np.clip(signal, 0, 1)
    high = ((signal + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    return np.where(signal <= 0.04045, signal / np.float32(12.92), high)


def gamut_matrix(source: str, target: str) -> NDArray[np.float32]:
    """The matrix [3, 3] that takes linear RGB of some primaries to others'."""
    return (np.linalg.inv(_to_xyz(target)) @ _to_xyz(source)).astype(np.float32)


def _to_xyz(name: str) -> NDArray[np.float64]:
    """RGB to CIE XYZ [3, 3] (SMPTE RP 177)."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in PRIMARIES[name]]).T
    white = np.array([_D65[0] / _D65[1], 1.0, (1 - sum(_D65)) / _D65[1]])
    return columns * np.linalg.solve(columns, white)
