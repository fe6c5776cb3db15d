"""Makes color profiles (ICC) for encodings that are known by their primaries and curve."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""CIE x and y of red, green, blue and white."""

_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# Parameters of a `para` curve of type 3: exponent, a, b, c, d (IEC 61966-2-1).
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def compute_rgb_to_xyz(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from linear RGB to XYZ relative to D50.

    Raises ValueError for primaries that span no space.
    """
    *primaries, white = (np.array([x / y, 1.0, (1 - x - y) / y]) if y > 0 else None for x, y in chromaticities)
    if white is None or any(column is None for column in primaries):
        raise ValueError("a chromaticity is not of this world")
    columns = np.stack([column for column in primaries if column is not None], axis=1)
    if abs(np.linalg.det(columns)) < 1e-3:
        raise ValueError("the primaries lie on a line")
    columns = columns * np.linalg.solve(columns, white)
    if np.abs(columns).max() > 10:
        raise ValueError("the primaries are far from any color")
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    result: NDArray[np.float64] = adaptation @ columns
    return result


def make_profile(chromaticities: Chromaticities, gamma: float | None, *, gray: bool, name: str) -> bytes:
    """Return a profile of version 4 for RGB or gray with these primaries; `gamma` None is the curve of sRGB."""
    numbers = _SRGB_CURVE if gamma is None else (gamma,)
    curve = b"para" + struct.pack(">IHH", 0, 3 if gamma is None else 0, 0) + _pack_fixed(*numbers)
    tags = {
        b"desc": _make_text(name),
        b"cprt": _make_text("No copyright"),
        b"wtpt": b"XYZ " + bytes(4) + _pack_fixed(*_D50),
    }
    if gray:
        tags[b"kTRC"] = curve
    else:
        matrix = compute_rgb_to_xyz(chromaticities)
        for i, color in enumerate((b"r", b"g", b"b")):
            tags[color + b"XYZ"] = b"XYZ " + bytes(4) + _pack_fixed(*matrix[:, i])
            tags[color + b"TRC"] = curve
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    space = b"GRAY" if gray else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _pack_fixed(*_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _pack_fixed(*numbers: float) -> bytes:
    """Return numbers as signed fixed point with 16 bits after the point."""
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _make_text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(encoded), 28) + encoded
