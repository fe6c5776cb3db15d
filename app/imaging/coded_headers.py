"""Reads size, depth and color from the headers of coded pictures: AV1's sequence header, HEVC's parameter set.

A decoder allocates by these and not by the container, so they are compared before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MAX_UNITS = 1 << 14
_AV1_SEQUENCE_HEADER, _AV1_FRAME_HEADER, _AV1_FRAME = 1, 3, 6
_HEVC_PARAMETER_SET = 33


@dataclass(frozen=True, slots=True)
class CodedHeader:
    """Size of a coded picture, bits per sample, whether it is gray, and its color's code points if it has any.

    `code_points` are primaries and transfer as in ITU-T H.273.
    """

    width: int
    height: int
    depth: int
    gray: bool
    code_points: tuple[int, int] | None = None


class _Bits:
    """Reads numbers bit by bit. Raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int = 1) -> int:
        """Return the next `count` bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("a header is too short")
        return self._value >> self._left & (1 << count) - 1

    def read_golomb(self) -> int:
        """Return the next Exp-Golomb number of HEVC."""
        zeros = 0
        while not self.read():
            zeros += 1
            if zeros > 32:
                raise ValueError("a number is too long")
        return (1 << zeros) - 1 + self.read(zeros)


def read_av1_headers(data: bytes) -> tuple[list[CodedHeader], int]:
    """Return the sequence headers of an AV1 stream, and how many frames it holds at most.

    A unit that is cut ends the stream. Raises ValueError for a header that cannot be parsed.
    """
    headers, frames = [], 0
    for kind, content in _read_av1_units(data):
        if kind == _AV1_SEQUENCE_HEADER:
            headers.append(_parse_av1_sequence_header(content[:128]))
        frames += kind in (_AV1_FRAME_HEADER, _AV1_FRAME)
    return headers, frames


def _read_av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, content) of the units (OBUs) of a stream."""
    at = 0
    for _ in range(_MAX_UNITS):
        if at >= len(data):
            return
        head = data[at]
        at += 2 if head & 4 else 1
        size = len(data) - at
        if head & 2:
            size = 0
            for shift in range(0, 56, 7):
                if at >= len(data):
                    return
                byte = data[at]
                at += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
        yield head >> 3 & 15, data[at : at + size]
        at += size
    raise ValueError("too many units")


def _parse_av1_sequence_header(data: bytes) -> CodedHeader:
    """Parse `sequence_header_obu` of the AV1 specification, section 5.5, up to the color description."""
    bits = _Bits(data)
    profile, _, reduced = bits.read(3), bits.read(), bits.read()
    if reduced:
        bits.read(5)
    else:
        _skip_av1_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    if not reduced and bits.read():  # frame ids
        bits.read(7)
    bits.read(3)
    if not reduced:
        bits.read(4)
        order_hint = bits.read()
        bits.read(2 * order_hint)
        chosen_screen_tools = 2 if bits.read() else bits.read()
        if chosen_screen_tools and not bits.read():
            bits.read()
        bits.read(3 * order_hint)
    bits.read(3)
    high = bits.read()
    depth = (12 if bits.read() else 10) if profile == 2 and high else 10 if high else 8
    gray = profile != 1 and bool(bits.read())
    code_points = (bits.read(8), bits.read(8)) if bits.read() else None
    return CodedHeader(width, height, depth, gray, code_points)


def _skip_av1_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read():  # timing
        bits.read(64)
        if bits.read():
            bits.read_golomb()
        if bits.read():
            delay_bits = bits.read(5) + 1
            bits.read(42)
    display_delay = bits.read()
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read()
        if delay_bits and bits.read():
            bits.read(2 * delay_bits + 1)
        if display_delay and bits.read():
            bits.read(4)


def read_hevc_headers(config: bytes, data: bytes) -> tuple[list[CodedHeader], int]:
    """Return the parameter sets of an HEVC picture, and how many pictures it holds.

    `config` is the content of `hvcC`, `data` the item's, which may hold parameter sets, too. Raises ValueError or
    IndexError for a header that cannot be parsed.
    """
    units = []
    at = 23
    for _ in range(config[22]):
        count = int.from_bytes(config[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(config[at : at + 2], "big")
            units.append(config[at + 2 : at + 2 + size])
            at += 2 + size
    units += _read_hevc_units(data, (config[21] & 3) + 1)
    headers, pictures = [], 0
    for unit in units:
        if len(unit) < 3 or (unit[0] & 1) << 5 | unit[1] >> 3:  # of another layer, which is not decoded
            continue
        kind = unit[0] >> 1 & 63
        if kind == _HEVC_PARAMETER_SET:
            headers.append(_parse_hevc_parameter_set(unit[2:512].replace(b"\0\0\3", b"\0\0")))
        pictures += kind < 32 and unit[2] >> 7
    return headers, pictures


def _read_hevc_units(data: bytes, length_size: int) -> list[bytes]:
    """Return the beginnings of the units of an item's data, 512 bytes each at most."""
    units = []
    at = 0
    while at + length_size <= len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        units.append(data[at : at + min(size, 512)])
        at += size
        if len(units) > _MAX_UNITS:
            raise ValueError("too many units")
    return units


def _parse_hevc_parameter_set(data: bytes) -> CodedHeader:
    """Parse `seq_parameter_set_rbsp` of ITU-T H.265, section 7.3.2.2, up to the depth."""
    bits = _Bits(data)
    bits.read(4)
    layers = bits.read(3)
    bits.read(97)  # nesting flag; profile and level
    if layers:
        present = [(bits.read(), bits.read()) for _ in range(layers)]
        bits.read(2 * (8 - layers))
        for profile, level in present:
            bits.read(88 * profile + 8 * level)
    bits.read_golomb()
    chroma = bits.read_golomb()
    if chroma == 3:
        bits.read()
    width, height = bits.read_golomb(), bits.read_golomb()
    if bits.read():  # conformance window
        for _ in range(4):
            bits.read_golomb()
    return CodedHeader(width, height, bits.read_golomb() + 8, gray=chroma == 0)
