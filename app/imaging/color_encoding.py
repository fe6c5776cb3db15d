"""Color encodings that a file names instead of describing by a profile: `nclx` of AVIF and HEIC, PNG's `cICP`, `gAMA`.

Encodings for ordinary displays, whatever their gamut, become a color profile and pixels stay as they are. Linear light
and high dynamic range (PQ, HLG) are converted to sRGB, which networks are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging.color import encode_srgb
from app.imaging.picture import Floats
from app.imaging.profile_writer import Chromaticities, compute_rgb_to_xyz, make_profile

_D65 = (0.3127, 0.3290)
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_BT601_525 = ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
# By code point of ITU-T H.273: a name for messages, and chromaticities.
_PRIMARIES: dict[int, tuple[str, Chromaticities]] = {
    1: ("bt709", _BT709),
    4: ("bt470m", ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316))),
    5: ("bt601-625", ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65)),
    6: ("bt601-525", _BT601_525),
    7: ("smpte240", _BT601_525),
    9: ("bt2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)),
    11: ("dci-p3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351))),
    12: ("p3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)),
    22: ("ebu3213", ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65)),
}
# The curves of television are shown like sRGB's, as browsers do.
_TRANSFERS = {1: "srgb", 4: "2.2", 5: "2.8", 6: "srgb", 7: "srgb", 8: "linear", 11: "srgb", 12: "srgb", 13: "srgb"}
_TRANSFERS |= {14: "srgb", 15: "srgb", 16: "pq", 18: "hlg"}
_UNSPECIFIED = 2
_REFERENCE_WHITE = 203.0  # cd/m², of ordinary white in HDR (ITU-R BT.2408)
_PEAK = 1000.0  # cd/m², of the brightest white: what pictures are mostly mastered for
_STRIP_ROWS = 256


@dataclass(frozen=True, slots=True)
class ColorEncoding:
    """Primaries with a name, and a transfer curve: `srgb`, `linear`, `pq`, `hlg`, or a gamma such as `2.2`."""

    name: str
    chromaticities: Chromaticities
    transfer: str

    @property
    def description(self) -> str:
        """Name for people."""
        return "Display P3" if (self.name, self.transfer) == ("p3", "srgb") else f"{self.name} {self.transfer}"

    @property
    def is_srgb(self) -> bool:
        """Whether pixels without any profile mean the same."""
        return self.chromaticities == _BT709 and self.transfer == "srgb"


def from_code_points(primaries: int, transfer: int) -> ColorEncoding | None:
    """Return the encoding for code points of ITU-T H.273, None for ones that are unknown; unspecified is sRGB."""
    curve = "srgb" if transfer == _UNSPECIFIED else _TRANSFERS.get(transfer)
    if primaries == _UNSPECIFIED:
        primaries = 9 if curve in ("pq", "hlg") else 1
    if curve is None or primaries not in _PRIMARIES:
        return None
    return ColorEncoding(*_PRIMARIES[primaries], curve)


def from_gamma(gamma: float, chromaticities: Chromaticities) -> ColorEncoding:
    """Return the encoding for a decoding gamma, such as 2.2, and chromaticities; sRGB's for ones that span no space.

    Gammas and chromaticities that are sRGB's but for rounding are sRGB.
    """
    name = "custom"
    try:
        compute_rgb_to_xyz(chromaticities)
    except ValueError:
        chromaticities = _BT709
    if np.abs(np.subtract(chromaticities, _BT709)).max() <= 0.005:
        name, chromaticities = "bt709", _BT709
    if abs(gamma - 1) < 0.05:
        transfer = "linear"
    else:
        transfer = "srgb" if name == "bt709" and abs(gamma - 2.2) < 0.1 else f"{gamma:.4g}"
    return ColorEncoding(name, chromaticities, transfer)


def normalize_encoding(
    pixels: NDArray[Any], encoding: ColorEncoding
) -> tuple[NDArray[Any], bytes | None, tuple[str, ...]]:
    """Return the pixels, the profile that describes them (None: sRGB), and warnings as in `Picture.warnings`.

    `pixels` are uint8 or uint16, (height, width, 1 or 3). Linear light, PQ and HLG are converted to sRGB.
    """
    if encoding.is_srgb:
        return pixels, None, ()
    is_gray = pixels.shape[2] == 1
    if encoding.transfer not in ("linear", "pq", "hlg"):
        gamma = None if encoding.transfer == "srgb" else float(encoding.transfer)
        return pixels, make_profile(encoding.chromaticities, gamma, gray=is_gray, name=encoding.description), ()
    matrix = None if is_gray else compute_rgb_to_xyz(encoding.chromaticities)
    table = _make_light_table(encoding.transfer, int(np.iinfo(pixels.dtype).max))
    white = np.float32(len(table) - 1)
    result = np.empty_like(pixels)
    for top in range(0, pixels.shape[0], _STRIP_ROWS):
        light = table[pixels[top : top + _STRIP_ROWS]]
        if encoding.transfer == "hlg":
            light = _show_scene(light)
        if encoding.transfer != "linear":
            light = _compress_highlights(light)
        result[top : top + _STRIP_ROWS] = np.rint(encode_srgb(light, matrix) * white)
    return result, None, (f"color={encoding.name}-{encoding.transfer}->srgb",)


@cache
def _make_light_table(transfer: str, maximum: int) -> Floats:
    """Return light by sample, 0 to `maximum`: cd/m² for `pq`, and from 0 to 1 for `linear` and `hlg`."""
    values = np.linspace(0, 1, maximum + 1)
    if transfer == "pq":
        values = _decode_pq(values)
    elif transfer == "hlg":
        values = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return values.astype(np.float32)


def _show_scene(scene: Floats) -> Floats:
    """Return HLG's light of a scene, (height, width, 1 or 3), as cd/m² on a display of 1000 (ITU-R BT.2100)."""
    luminance = scene @ _LUMINANCE_BT2020 if scene.shape[2] == 3 else scene[..., 0]
    result: Floats = np.float32(_PEAK) * scene * luminance[..., None] ** np.float32(0.2)
    return result


def _compress_highlights(light: Floats) -> Floats:
    """Return cd/m² as light with ordinary white as 1: the roll-off of ITU-R BT.2390 on the largest of the colors."""
    scale = np.interp(light.max(axis=2, keepdims=True), _ROLL_OFF_LIGHT, _ROLL_OFF_SCALE).astype(np.float32)
    result: Floats = light * scale
    return result


def _encode_pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cd/m² as PQ values from 0 to 1 (SMPTE ST 2084)."""
    power = (light / 10000) ** 0.1593017578125
    result: NDArray[np.float64] = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return result


def _decode_pq(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return PQ values from 0 to 1 as cd/m²."""
    power = values ** (1 / 78.84375)
    ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    result: NDArray[np.float64] = 10000 * ratio ** (1 / 0.1593017578125)
    return result


def _roll_off(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cd/m² compressed from 1000 to the reference white, darker ones unchanged (BT.2390, section 5.4.1)."""
    peak, target = _encode_pq(np.array([_PEAK, _REFERENCE_WHITE]))
    values, maximum = np.minimum(_encode_pq(light) / peak, 1), target / peak
    knee = 1.5 * maximum - 0.5
    t = np.maximum(values - knee, 0) / (1 - knee)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * maximum
    return _decode_pq(np.where(values < knee, values, curve) * peak)


# A table is faster than powers; the light of its first value is as good as black.
_ROLL_OFF_LIGHT = _decode_pq(np.linspace(0.01, 1, 2048))
_ROLL_OFF_SCALE = _roll_off(_ROLL_OFF_LIGHT) / _ROLL_OFF_LIGHT / _REFERENCE_WHITE
_LUMINANCE_BT2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
