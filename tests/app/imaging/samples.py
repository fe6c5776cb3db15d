"""Sample files of every kind, made by real encoders or byte by byte."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# CIE xy of red, green, blue; both spaces have the white point D65.
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" tiff:Orientation="6">'
    b'<dc:source>a test</dc:source></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def noise(height: int, width: int, channels: int, dtype: type = np.uint8) -> NDArray[Any]:
    rng = np.random.default_rng([height, width, channels])
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)


def smooth(height: int, width: int, channels: int, dtype: type = np.uint8) -> NDArray[Any]:
    """A picture that lossy codecs keep well, without any symmetry: (height, width, channels)."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [0.15 + 0.6 * x + 0.1 * y, 0.8 - 0.5 * y - 0.1 * x, 0.3 + 0.3 * x * y, 0.25 + 0.7 * y * (1 - x / 2)]
    return np.rint(np.stack(planes[:channels], axis=2) * np.iinfo(dtype).max).astype(dtype)


def save_with_pillow(pixels: NDArray[Any] | Image.Image, name: str, **options: Any) -> bytes:
    """Encode an image or samples, uint8 (height, width, 1 to 4), with Pillow."""
    image = (
        pixels
        if isinstance(pixels, Image.Image)
        else Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    )
    out = BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: NDArray[Any], color: int, depth: int, *extra: tuple[bytes, bytes], width: int | None = None) -> bytes:
    """A PNG of (height, width, channels) samples; below 8 bit `rows` are packed bytes and `width` is given."""
    packed = rows.astype(">u2").tobytes() if depth == 16 else rows.astype(np.uint8).tobytes()
    height, stride = rows.shape[0], len(packed) // rows.shape[0]
    lines = b"".join(b"\0" + packed[i * stride : (i + 1) * stride] for i in range(height))
    head = struct.pack(">IIBBBBB", width or rows.shape[1], height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*entry) for entry in chunks)


def sampled_jpeg(factors: int, width: int, height: int) -> bytes:
    """A gray JPEG of 8 × 8 checks; only brightness is sampled `factors` times: h in the high 4 bits, and v."""
    data = save_with_pillow(np.zeros((8, 8, 3), np.uint8), "JPEG", quality=95, subsampling=0)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    across, down = factors >> 4, factors & 15
    size = struct.pack(">HH", height, width)
    head = data[: frame + 5] + size + data[frame + 9 : frame + 11] + bytes((factors,)) + data[frame + 12 : scan + 14]
    # In the usual tables: a DC difference of 3 (or -3) and no AC values; then two blocks of color without any.
    blocks = [("01111" if i % 2 else "01100") + "1010" for i in range(across * down)]
    bits = ("".join(blocks) + "0000" * 2) * (-(-width // (8 * across)) * -(-height // (8 * down)))
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + packed + b"\xff\xd9"


def exif(
    orientation: int = 1, order: str = "<", thumbnail: bytes = b"", size: tuple[int, int] = (7, 5), filler: int = 0
) -> bytes:
    """An EXIF block with a camera maker, pixel dimensions and optionally a thumbnail."""
    maker = b"Maker of cameras\0".ljust(18 + filler, b"\0")
    first = [
        (0x010F, 2, len(maker), None),
        (0x0112, 3, 1, struct.pack(order + "HH", orientation, 0)),
        (0x8769, 4, 1, None),
    ]
    maker_at = 8 + 2 + 12 * len(first) + 4
    inner_at = maker_at + len(maker)
    inner = [
        (0xA002, 3, 1, struct.pack(order + "HH", size[0], 0)),
        (0xA003, 4, 1, struct.pack(order + "I", size[1])),
    ]
    second_at = inner_at + 2 + 12 * len(inner) + 4
    at = {0x010F: maker_at, 0x8769: inner_at}

    def directory(entries: list[tuple[int, int, int, bytes | None]], link: int) -> bytes:
        body = b"".join(
            struct.pack(order + "HHI", tag, kind, count) + (value or struct.pack(order + "I", at[tag]))
            for tag, kind, count, value in entries
        )
        return struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", link)

    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    block = head + directory(first, second_at if thumbnail else 0) + maker + directory(inner, 0)
    if thumbnail:
        pixels_at = second_at + 2 + 12 * 2 + 4
        entries = [
            (0x0201, 4, 1, struct.pack(order + "I", pixels_at)),
            (0x0202, 4, 1, struct.pack(order + "I", len(thumbnail))),
        ]
        block += directory(entries, 0) + thumbnail
    return block


def _xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """Columns are the XYZ of red, green and blue relative to D50 (Bradford adaptation from D65)."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.95047, 1.0, 1.08883])
    columns = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gain = (bradford @ [0.96422, 1.0, 0.82521]) / (bradford @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ columns
    return adapted


def icc_rgb(primaries: tuple[tuple[float, float], ...], gamma: float = 2.2, padding: int = 0) -> bytes:
    """An ICC profile, version 2, of matrix and one curve."""
    curve = b"curv" + bytes(4) + (struct.pack(">IH", 1, round(gamma * 256)) if gamma != 1 else struct.pack(">I", 0))
    columns = _xyz(primaries)
    tags = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        tags[name] = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in columns[:, i]))
    return _profile(b"RGB ", tags, padding)


def icc_gray(gamma: float = 2.2) -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return _profile(b"GRAY", {b"kTRC": curve}, 0)


def icc_cmyk() -> bytes:
    """A profile of a printer that prints cyan as green: a table of two points per ink, to CIELAB."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    lightness = np.rint(255 * (1 - inks[:, 3]) * (1 - inks[:, :3].sum(axis=1) / 4))
    green = 128 - 70 * inks[:, 0] * (1 - inks[:, 3])
    yellow = 128 + 60 * inks[:, 0] * (1 - inks[:, 3])
    table = np.stack([lightness, green, yellow], axis=1).astype(np.uint8).tobytes()
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + straight * 4 + table + straight * 3
    return _profile(b"CMYK", {b"A2B0": lut}, 0, kind=b"prtr", connection=b"Lab ")


def _profile(
    space: bytes, tags: dict[bytes, bytes], padding: int, kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    text = b"A test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"Public domain\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        **tags,
    }
    if padding:
        tags[b"padd"] = b"data" + bytes(8) + np.random.default_rng(0).bytes(padding)
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02100000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
