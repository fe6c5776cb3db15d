"""Print resolution: how many pixels are printed on an inch. Every format says it in units of its own, or in EXIF.

A resolution is (horizontal, vertical) in dots per inch. Values without a unit, which only say how wide a pixel is for
its height, are no resolution, and neither are those outside of the range that every format but JFIF can hold.
"""

from __future__ import annotations

import struct
from fractions import Fraction

Resolution = tuple[float, float]
"""Dots per inch, horizontal and vertical, both positive."""

_CM_PER_INCH = 2.54
_METERS_PER_INCH = 0.0254
_X, _Y, _UNIT = 0x011A, 0x011B, 0x0128
_SHORT, _RATIONAL = 3, 5
_INCH, _CM = 2, 3
_MAX_ENTRIES = 1024
_LEAST, _MOST = 0.03, 1e7


def read_jfif(body: bytes | None) -> Resolution | None:
    """Return the density of a JFIF segment without its `JFIF\\0`, or None if it gives none."""
    if body is None or len(body) < 7:
        return None
    unit, x, y = struct.unpack_from(">BHH", body, 2)
    scale = {1: 1.0, 2: _CM_PER_INCH}.get(unit, 0.0)
    return _check(x * scale, y * scale)


def write_jfif(jpeg: bytes, resolution: Resolution | None) -> bytes:
    """Return a JPEG that begins with a JFIF segment, with its density set."""
    density = _to_jfif(resolution)
    if density is None or jpeg[2:4] != b"\xff\xe0":
        return jpeg
    return jpeg[:13] + struct.pack(">BHH", *density) + jpeg[18:]


def fits_jfif(resolution: Resolution) -> bool:
    """Tell whether JFIF can hold it: 1 to 65535 dots per inch."""
    return _to_jfif(resolution) is not None


def _to_jfif(resolution: Resolution | None) -> tuple[int, int, int] | None:
    """Return unit, horizontal and vertical density: dots per centimeter where those are whole, else per inch."""
    if resolution is None:
        return None
    centimeters = [value / _CM_PER_INCH for value in resolution]
    in_centimeters = _are_whole(centimeters) and not _are_whole(resolution)
    x, y = (round(value) for value in (centimeters if in_centimeters else resolution))
    return (2 if in_centimeters else 1, x, y) if min(x, y) >= 1 and max(x, y) <= 65535 else None


def _are_whole(values: tuple[float, ...] | list[float]) -> bool:
    return all(abs(value - round(value)) < 1e-3 for value in values)


def read_phys(content: bytes) -> Resolution | None:
    """Return the resolution of a PNG's pHYs chunk, or None if it gives none."""
    if len(content) != 9 or content[8] != 1:
        return None
    return from_pixels_per_meter(*struct.unpack_from(">II", content))


def make_phys(resolution: Resolution | None) -> bytes | None:
    """Return the content of a PNG's pHYs chunk, or None without a resolution."""
    if resolution is None:
        return None
    x, y = (round(value / _METERS_PER_INCH) for value in resolution)
    return struct.pack(">IIB", x, y, 1)


def read_bmp(data: bytes) -> Resolution | None:
    """Return the resolution in a BMP's header, or None if it gives none."""
    if len(data) < 46 or int.from_bytes(data[14:18], "little") < 40:
        return None
    return from_pixels_per_meter(*struct.unpack_from("<ii", data, 38))


def from_pixels_per_meter(x: int, y: int) -> Resolution | None:
    """Return pixels per meter as a resolution, or None if they are none."""
    return _check(_to_dpi(x), _to_dpi(y))


def _check(x: float, y: float) -> Resolution | None:
    return (x, y) if min(x, y) >= _LEAST and max(x, y) <= _MOST else None


def _to_dpi(pixels_per_meter: int) -> float:
    """Return dots per inch: the whole number where the file means one (11811 per meter are 300, not 299.9994)."""
    exact = pixels_per_meter * _METERS_PER_INCH
    whole = round(exact)
    return float(whole) if round(whole / _METERS_PER_INCH) == pixels_per_meter else exact


def read_exif(exif: bytes | None) -> Resolution | None:
    """Return the resolution in an EXIF block without prefix, or None if it gives none or is broken."""
    if not exif:
        return None
    order = "<" if exif[:1] == b"I" else ">"
    found: dict[int, float] = {_UNIT: _INCH}
    try:
        for entry in _read_entries(exif, order):
            tag, kind, count = struct.unpack_from(order + "HHI", entry)
            if tag == _UNIT and kind == _SHORT and count == 1:
                (found[tag],) = struct.unpack_from(order + "H", entry, 8)
            elif tag in (_X, _Y) and kind == _RATIONAL and count == 1:
                (at,) = struct.unpack_from(order + "I", entry, 8)
                above, below = struct.unpack_from(order + "II", exif, at)
                found[tag] = above / below
    except (struct.error, ZeroDivisionError):
        return None
    scale = {_INCH: 1.0, _CM: _CM_PER_INCH}.get(int(found[_UNIT]), 0.0)
    x, y = found.get(_X, 0.0), found.get(_Y, 0.0)
    return _check(x * scale, y * scale)


def write_exif(exif: bytes | None, resolution: Resolution | None) -> bytes | None:
    """Return an EXIF block with this resolution, a small new one if there is none; unchanged without a resolution.

    The first directory is moved to the end of the block: everything else stays where it is, because maker notes hold
    offsets. A block that cannot be read is returned as it is.
    """
    if resolution is None or read_exif(exif) == resolution:
        return exif
    block = exif or b"II*\0\x08\0\0\0" + bytes(6)
    order = "<" if block[:1] == b"I" else ">"
    try:
        kept = [entry for entry in _read_entries(block, order) if _read_tag(entry, order) not in (_X, _Y, _UNIT)]
        (old,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, old)
        link = block[old + 2 + 12 * count : old + 6 + 12 * count].ljust(4, b"\0")
    except struct.error:
        return exif
    head = block + b"\0" if len(block) % 2 else block
    at = len(head) + 2 + 12 * (len(kept) + 3) + 4
    entries = [
        *kept,
        struct.pack(order + "HHII", _X, _RATIONAL, 1, at),
        struct.pack(order + "HHII", _Y, _RATIONAL, 1, at + 8),
        struct.pack(order + "HHIHH", _UNIT, _SHORT, 1, _INCH, 0),
    ]
    entries.sort(key=lambda entry: _read_tag(entry, order))
    values = b"".join(struct.pack(order + "II", *to_rational(value)) for value in resolution)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + link + values
    return head[:4] + struct.pack(order + "I", len(head)) + head[8:] + directory


def to_rational(value: float) -> tuple[int, int]:
    """Return a resolution's number as TIFF stores it: two 32-bit numbers."""
    fraction = Fraction(value).limit_denominator(400)
    return fraction.numerator, fraction.denominator


def _read_entries(block: bytes, order: str) -> list[bytes]:
    """Return the entries of the first directory, 12 bytes each. Raises struct.error outside of the block."""
    (at,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, at)
    if count > _MAX_ENTRIES or at + 2 + 12 * count > len(block):
        raise struct.error("the directory does not fit into the block")
    return [block[i : i + 12] for i in range(at + 2, at + 2 + 12 * count, 12)]


def _read_tag(entry: bytes, order: str) -> int:
    return int(struct.unpack_from(order + "H", entry)[0])
