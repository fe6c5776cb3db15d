"""Files that cost far more than their size suggests, by the part of a parser that they are meant for.

Every file holds the picture `BASE`, or a size that it names, or is damage: what decodes at all must decode to that.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from PIL import Image

from app.imaging.bmff import Box, read_media_file, write_box, write_media_file
from tests.app.imaging.decoders.tiffs import (
    BITS,
    COMPRESSION,
    LONG,
    LONG8,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR,
    ROWS_PER_STRIP,
    SAMPLES,
    SHORT,
    STRIP_BYTES,
    STRIP_OFFSETS,
    UNDEFINED,
    WIDTH,
    Claim,
    Value,
    gray,
    tiff,
    tiled,
)
from tests.app.imaging.heic_writer import write_heic
from tests.app.imaging.samples import chunk, icc_cmyk, icc_rgb, save_with_pillow, smooth

Files = Iterator[tuple[str, Callable[[], bytes]]]
"""Names, and functions that make the files."""

SIDE = 16
BASE = smooth(SIDE, SIDE, 3)
GRAY = smooth(SIDE, SIDE, 1)
MEGA = 1 << 20
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD, THUMBNAIL_AT, THUMBNAIL_BYTES = 0x8769, 0x8825, 0xA005, 0x0201, 0x0202


def make_files() -> dict[str, Callable[[], bytes]]:
    """Return all generators by name."""
    groups = (exif_files, xmp_files, profile_files, png_files, jpeg_files, tiff_files, bmp_files, webp_files)
    return {name: make for group in (*groups, avif_files, heic_files, gif_files, other_files) for name, make in group()}


# EXIF: directories that loop, and entries and values without end


def directory(entries: list[tuple[int, int, int, int]], link: int = 0) -> bytes:
    """A directory of entries (tag, type, count, value or offset) and the offset of the next one."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", link)


def exif_block(*directories: bytes) -> bytes:
    return b"II*\0" + struct.pack("<I", 8) + b"".join(directories)


def exif_chain(size: int, loop: bool = False) -> bytes:
    """Directories without entries, each with a link to the next."""
    links = [8 + 6 * (i + 1) for i in range(size // 6 - 10)] + [8 if loop else 0]
    return exif_block(*(directory([], link) for link in links))


def exif_nest(size: int) -> bytes:
    """Exif directories within Exif directories."""
    depth = size // 18 - 10
    return exif_block(*(directory([(EXIF_IFD, LONG, 1, 8 + 18 * (i + 1))]) for i in range(depth)), directory([]))


def exif_self(size: int) -> bytes:
    return exif_block(directory([(EXIF_IFD, LONG, 1, 8)] * min(size // 14, 60_000)))


def exif_ring(size: int) -> bytes:
    back = [(GPS_IFD, LONG, 1, 8), (INTEROPERABILITY_IFD, LONG, 1, 26)] * min(size // 28, 30_000)
    return exif_block(directory([(EXIF_IFD, LONG, 1, 26)]), directory(back))


def exif_gps(size: int) -> bytes:
    return exif_block(directory([(GPS_IFD, LONG, 1, 8)] * min(size // 14, 60_000)))


def exif_orientations(size: int) -> bytes:
    values = (size - 12_000) // 2
    return exif_block(directory([(ORIENTATION, SHORT, min(values, 65_535), 10_900)] * 900), bytes(2 * values))


def exif_circle(size: int) -> bytes:
    return exif_chain(size, loop=True)


def exif_shared(size: int) -> bytes:
    return exif_block(directory(_share(size)), bytes(size - 13_000))


def exif_nested_shared(size: int) -> bytes:
    return exif_block(directory([(EXIF_IFD, LONG, 1, 26)]), directory(_share(size)), bytes(size - 13_000))


def _share(size: int) -> list[tuple[int, int, int, int]]:
    return [(0xA500 + i, UNDEFINED, size // 2, 8) for i in range(1000)]


def exif_rationals(size: int) -> bytes:
    return exif_block(directory([(0x011A + i % 2, 5, size // 16, 8) for i in range(500)]), bytes(size // 2))


def exif_maker_notes(size: int) -> bytes:
    return exif_block(
        directory([(EXIF_IFD, LONG, 1, 26)]), directory([(0x927C, 7, size // 2, 8)] * 900), bytes(size // 2)
    )


def exif_thumbnail_strips(size: int) -> bytes:
    strips = [(STRIP_OFFSETS, SHORT, 65_535, 14), (STRIP_BYTES, SHORT, 65_535, 14)] * 400
    return exif_block(directory([], 14), directory(strips), bytes(size - 10_000))


def exif_thumbnail(size: int) -> bytes:
    parts = [(THUMBNAIL_AT, LONG, 1, 0), (THUMBNAIL_BYTES, LONG, 1, 2**32 - 1)] * 30
    return exif_block(directory([], 14), directory(parts))


EXIF_BLOCKS: dict[str, Callable[[int], bytes]] = {
    "self": exif_self,
    "ring": exif_ring,
    "gps": exif_gps,
    "orientations": exif_orientations,
    "chain": exif_chain,
    "circle": exif_circle,
    "nest": exif_nest,
    "shared": exif_shared,
    "nested-shared": exif_nested_shared,
    "rationals": exif_rationals,
    "maker-notes": exif_maker_notes,
    "thumbnail-strips": exif_thumbnail_strips,
    "thumbnail": exif_thumbnail,
}
"""Blocks of at most about so many bytes."""


def exif_files() -> Files:
    carriers: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
        "jpeg": (64_000, jpeg_with_exif),
        "png": (MEGA, lambda block: png((b"eXIf", block))),
        "webp": (MEGA, lambda block: save_with_pillow(BASE, "WEBP", lossless=True, exif=block)),
        "avif": (MEGA, avif_with_exif),
        "heic": (MEGA, heic_with_exif),
        "tiff": (MEGA, lambda block: tiff_of({EXIF_IFD: 16 + SIDE**2, GPS_IFD: 16 + SIDE**2}, block[8:])),
    }
    for carrier, (size, wrap) in carriers.items():
        for name, block in EXIF_BLOCKS.items():
            yield f"exif-{name}-{carrier}", partial(_wrap, wrap, block, size)
    yield "exif-16-mib-png", lambda: png((b"eXIf", exif_block(directory([]), bytes(17 * MEGA))))


def _wrap(wrap: Callable[[bytes], bytes], block: Callable[[int], bytes], size: int) -> bytes:
    return wrap(block(size))


# XMP and color profiles


def xmp_files() -> Files:
    open_, close = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>", b"</x:xmpmeta>"
    laughs = b"<!DOCTYPE x [<!ENTITY a0 'ha'>%s]>" % b"".join(
        b"<!ENTITY a%d '%s'>" % (i + 1, b"&a%d;" % i * 10) for i in range(12)
    )
    packets = {
        "deep": open_ + b"<a>" * 300_000 + b"</a>" * 300_000 + close,
        "wide": open_ + b"<a/>" * 500_000 + close,
        "attributes": open_ + b"<a " + b" ".join(b"a%d='1'" % i for i in range(100_000)) + b"/>" + close,
        "namespaces": open_ + b"".join(b"<a xmlns:n%d='u'>" % i for i in range(20_000)) + b"</a>" * 20_000 + close,
        "entities": laughs + open_ + b"&a12;" + close,
        "spaces": open_ + b"<rdf tiff:Orientation" + b" " * 4_000_000 + b"/>" + close,
        "thumbnails": open_ + b"<xmp:Thumbnails>" * 200_000 + close,
        "orientations": open_ + b"<a tiff:Orientation='6'/>" * 100_000 + close,
    }
    for name, packet in packets.items():
        yield f"xmp-{name}-png", partial(png, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    head = b"XML:com.adobe.xmp\0\1\0\0\0"
    yield "xmp-bomb-png", lambda: png((b"iTXt", head + zeros(64)))
    yield "xmp-bombs-png", lambda: png(*[(b"iTXt", head + zeros(64))] * 50)
    yield "xmp-deep-webp", lambda: save_with_pillow(BASE, "WEBP", lossless=True, xmp=packets["deep"])


def profile_files() -> Files:
    yield "icc-bomb-png", lambda: png((b"iCCP", b"p\0\0" + zeros(64)))
    yield "icc-bombs-png", lambda: png(*[(b"iCCP", b"p\0\0" + zeros(64))] * 50)
    yield "icc-long-png", lambda: png((b"iCCP", b"p\0\0" + zlib.compress(icc_rgb(SRGB) + bytes(15 * MEGA))))
    for name, profile in (("rgb", icc_rgb(SRGB)), ("cmyk", icc_cmyk())):
        for field, at in (("size", 0), ("tags", 128), ("tag-size", 132 + 8), ("tag-offset", 132 + 4)):
            wrong = profile[:at] + b"\x7f\xff\xff\xff" + profile[at + 4 :]
            image = Image.fromarray(BASE).convert("CMYK") if name == "cmyk" else BASE
            yield f"icc-{field}-{name}-jpeg", partial(save_with_pillow, image, "JPEG", icc_profile=wrong, quality=95)
    dense = icc_cmyk().replace(b"mft1" + bytes(4) + bytes((4, 3, 2)), b"mft1" + bytes(4) + bytes((15, 15, 255)))
    cmyk = Image.fromarray(BASE).convert("CMYK")
    yield "icc-table-cmyk-jpeg", partial(save_with_pillow, cmyk, "JPEG", icc_profile=dense, quality=95)
    part = b"ICC_PROFILE\0\1\1" + bytes(60_000)
    yield "icc-parts-jpeg", lambda: with_segments(jpeg(), (0xE2, part), count=400)


# PNG


def png(*more: tuple[bytes, bytes], rows: bytes | None = None, **header: int) -> bytes:
    """BASE, with further chunks before its pixels; `rows` and `header` are for another picture."""
    fields = {"width": SIDE, "height": SIDE, "depth": 8, "color": 2, "interlace": 0, **header}
    head = struct.pack(
        ">IIBBBBB", *(fields[key] for key in ("width", "height", "depth", "color")), 0, 0, fields["interlace"]
    )
    lines = b"".join(b"\0" + row.tobytes() for row in BASE) if rows is None else rows
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def png_of_many_data_chunks(step: int) -> bytes:
    data = png()
    at = data.index(b"IDAT") - 4
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in BASE))
    parts = [packed[i : i + step] for i in range(0, len(packed), step)] if step else [b""] * 100_000 + [packed]
    return data[:at] + b"".join(chunk(b"IDAT", part) for part in parts) + chunk(b"IEND", b"")


def png_files() -> Files:
    yield (
        "png-million-chunks",
        lambda: png().replace(b"\0\0\0\0IEND", chunk(b"teXt", b"") * 1_000_000 + b"\0\0\0\0IEND"),
    )
    yield "png-empty-data-chunks", partial(png_of_many_data_chunks, 0)
    yield "png-one-byte-data-chunks", partial(png_of_many_data_chunks, 1)
    yield "png-palettes", partial(png, *[(b"PLTE", bytes(768))] * 50_000)
    yield "png-transparencies", partial(png, *[(b"tRNS", bytes(6))] * 50_000)
    yield "png-profiles", partial(png, *[(b"iCCP", b"p\0\0")] * 100_000)
    yield "png-texts", lambda: png(*[(b"zTXt", b"a\0\0" + zeros(64))] * 200)
    yield "png-text", lambda: png((b"tEXt", b"a\0" + bytes(30 * MEGA)))
    yield "png-frames", partial(png, (b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    yield "png-data-bomb", lambda: png(rows=b"".join(b"\0" + row.tobytes() for row in BASE) + bytes(100 * MEGA))
    for depth, color, size in ((8, 2, 3), (16, 2, 6), (8, 3, 1), (16, 4, 4)):
        for interlace in (0, 1):
            wide = {"width": 8000, "height": 8000, "depth": depth, "color": color, "interlace": interlace}
            yield f"png-short-{depth}-{color}-{interlace}", partial(png, rows=bytes(1000 * size), **wide)
    yield "png-huge", partial(png, rows=b"", width=2**31 - 1, height=2**31 - 1)
    yield "png-thin", partial(png, rows=bytes(2), width=1, height=60_000_000, color=0)
    yield "png-long", partial(png, rows=bytes(1000), width=20_000_000, height=1, color=0)
    yield "png-bits", partial(png, rows=bytes(100), width=64_000, height=1000, color=0, depth=1)
    yield "png-chunk-length", lambda: png() + b"\xff\xff\xff\xffteXt"
    yield "png-lying-chunk", lambda: png().replace(b"IDAT", b"iDAT")


# JPEG


def jpeg(mode: str = "RGB", size: int = SIDE, **options: object) -> bytes:
    image = Image.fromarray(BASE if size == SIDE else smooth(size, size, 3)).convert(mode)
    return save_with_pillow(image, "JPEG", quality=95, subsampling=0, **options)


def with_segments(data: bytes, *segments: tuple[int, bytes], count: int = 1) -> bytes:
    more = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:20] + more * count + data[20:]


def jpeg_with_exif(block: bytes) -> bytes:
    return with_segments(jpeg(), (0xE1, b"Exif\0\0" + block))


def claim_size(data: bytes, width: int, height: int) -> bytes:
    wrong = bytearray(data)
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    struct.pack_into(">HH", wrong, at, height, width)
    return bytes(wrong)


def repeat_scan(data: bytes, count: int) -> bytes:
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def insert(data: bytes, marker: bytes, more: bytes) -> bytes:
    at = data.index(marker)
    return data[:at] + more + data[at:]


def jpeg_files() -> Files:
    for place, marker in (("start", b"\xff\xdb"), ("frame", b"\xff\xc0"), ("scan", b"\xff\xda")):
        yield f"jpeg-fill-{place}", partial(lambda at: insert(jpeg(), at, b"\xff" * 30_000_000), marker)
        yield f"jpeg-garbage-{place}", partial(lambda at: insert(jpeg(), at, bytes(30_000_000)), marker)
    yield "jpeg-fill-end", lambda: jpeg()[:-2] + b"\xff" * 30_000_000 + b"\xff\xd9"
    yield "jpeg-restarts", lambda: jpeg()[:-2] + b"\xff\xd0" * 5_000_000 + b"\xff\xd9"
    yield "jpeg-restarts-in-header", lambda: insert(jpeg(), b"\xff\xdb", b"\xff\xd0" * 5_000_000)
    yield "jpeg-stuffing", lambda: jpeg()[:-2] + b"\xff\0" * 10_000_000 + b"\xff\xd9"
    yield "jpeg-markers", lambda: jpeg()[:-2] + b"\xff\1" * 10_000_000 + b"\xff\xd9"
    for name, kind in (
        ("jfif", 0xE0),
        ("exif", 0xE1),
        ("profile", 0xE2),
        ("adobe", 0xEE),
        ("comment", 0xFE),
        ("tables", 0xC4),
    ):
        body = {0xE1: b"Exif\0\0", 0xE2: b"ICC_PROFILE\0\1\1x"}.get(kind, b"")
        for count in (100_000, 1_000_000):
            yield (
                f"jpeg-{count}-{name}",
                partial(lambda *one, n: with_segments(jpeg(), one, count=n), kind, body, n=count),
            )
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            kind = f"{mode.lower()}-{'progressive' if progressive else 'baseline'}"
            small = partial(jpeg, mode, 8, progressive=progressive)
            yield f"jpeg-empty-{kind}", partial(lambda make: claim_size(make(), 8000, 8000), small)
            yield f"jpeg-huge-{kind}", partial(lambda make: claim_size(make(), 65_500, 65_500), small)
        yield (
            f"jpeg-scans-{mode.lower()}",
            partial(lambda one: repeat_scan(jpeg(one, 1000, progressive=True), 2000), mode),
        )
        yield (
            f"jpeg-few-scans-{mode.lower()}",
            partial(lambda one: repeat_scan(jpeg(one, 2000, progressive=True), 300), mode),
        )
    yield "jpeg-no-height", lambda: claim_size(jpeg(), 65_535, 0)
    yield "jpeg-thin", lambda: claim_size(jpeg(), 65_500, 1)
    yield "jpeg-no-end", lambda: jpeg()[:-2] + bytes(10_000_000)
    yield "jpeg-endless", lambda: b"\xff\xd8\xff" + b"\xe0\xff\xff" * 10_000_000


# TIFF


def tiff_of(more: Mapping[int, Value], body: bytes = b"", **options: object) -> bytes:
    """GRAY, with other tags; `body` stands behind the pixels, which begin at byte 16."""
    return gray(SIDE, SIDE, GRAY.tobytes() + body, {STRIP_BYTES: SIDE * SIDE, **more}, **options)  # type: ignore[arg-type]


def tiff_of_strips(height: int, compression: int, packed: bytes) -> bytes:
    """One row a strip, and all strips the same bytes."""
    lists = {ROWS_PER_STRIP: 1, STRIP_OFFSETS: [16] * height, STRIP_BYTES: [len(packed)] * height}
    return gray(SIDE, height, packed, lists, compression=compression)


def tiff_chain(count: int, tags: Mapping[int, Value], loop: bool = False) -> bytes:
    """Directories of thumbnails, each with a link to the next, behind GRAY."""
    size = len(tiff(tags)) - 16
    begin = 16 + SIDE * SIDE
    links = [begin + size * (i + 1) for i in range(count - 1)] + [begin if loop else 0]
    chain = b"".join(tiff(tags)[16:-4] + struct.pack("<I", link) for link in links)
    return gray(SIDE, SIDE, GRAY.tobytes() + chain, {STRIP_BYTES: SIDE * SIDE}, link=begin)


def tiff_of_tiles(width: int, height: int, tile: tuple[int, int], make: Callable[[], bytes], compression: int) -> bytes:
    return tiled(width, height, tile, make(), compression)


@functools.cache
def zeros(mebibytes: int) -> bytes:
    """So many MiB of zeros, deflated."""
    return zlib.compress(bytes(mebibytes * MEGA), 9)


def lzw_zeros() -> bytes:
    """LZW codes that stand for 64 million zeros."""
    image = Image.new("L", (4000, 16_000))
    data = save_with_pillow(image, "TIFF", compression="tiff_lzw")
    return data[8 : int.from_bytes(data[4:8], "little")]


def tiff_files() -> Files:
    many = bytes(16 * MEGA)
    for big in (False, True):
        kind = "big-tiff" if big else "tiff"
        for name, tag in (
            ("width", WIDTH),
            ("bits", BITS),
            ("samples", SAMPLES),
            ("strips", STRIP_OFFSETS),
            ("sizes", STRIP_BYTES),
        ):
            claim = Claim(LONG8 if big else LONG, 16 * MEGA // 8, 16)
            yield f"{kind}-values-{name}", partial(tiff_of, {tag: claim}, many, big=big)
            yield f"{kind}-endless-{name}", partial(tiff_of, {tag: Claim(LONG, 2**32 - 1, 16)}, big=big)
        everywhere = {
            tag: Claim(LONG, 4 * MEGA, 16) for tag in (WIDTH, BITS, COMPRESSION, SAMPLES, PHOTOMETRIC, PLANAR)
        }
        yield f"{kind}-values-everywhere", partial(tiff_of, everywhere, many, big=big)
        unknown = {0x9000 + i: Claim(UNDEFINED, MEGA, 16) for i in range(2000)}
        yield f"{kind}-shared-values", partial(tiff_of, unknown, bytes(MEGA), big=big)
        yield f"{kind}-profile", partial(tiff_of, {0x8773: Claim(UNDEFINED, 2**31, 16)}, big=big)
        yield f"{kind}-xmp", partial(tiff_of, {0x02BC: Claim(UNDEFINED, 30 * MEGA, 16)}, bytes(30 * MEGA), big=big)
    yield "tiff-directories", partial(tiff_chain, 5000, {0xFE: 1, WIDTH: 1})
    yield "tiff-circle", partial(tiff_chain, 10, {0xFE: 1, WIDTH: 1}, loop=True)
    yield "tiff-large-directories", partial(tiff_chain, 60, {0xFE: 1} | {0x9000 + i: 1 for i in range(4000)})
    yield "tiff-directories-values", partial(tiff_chain, 60, {0xFE: 1, BITS: Claim(LONG, 60, 16)})
    for name, compression, body in (
        ("deflate", 8, partial(zeros, 64)),
        ("lzw", 5, lzw_zeros),
        ("packbits", 32_773, lambda: b"\x81\0" * 500_000),
        ("plain", 1, GRAY.tobytes),
    ):
        for tile in ((26_000, 26_000), (65_536, 16), (16, 1_000_000), (1_000_000_000, 1_000_000_000)):
            yield f"tiff-tile-{tile[0]}-{tile[1]}-{name}", partial(tiff_of_tiles, SIDE, SIDE, tile, body, compression)
        yield (
            f"tiff-strip-{name}",
            partial(lambda make, how: gray(SIDE, SIDE, make(), compression=how), body, compression),
        )
        yield (
            f"tiff-short-{name}",
            partial(lambda make, how: gray(8000, 8000, make()[:1000], compression=how), body, compression),
        )
        yield f"tiff-thin-{name}", partial(tiff_of_tiles, 65_500, 1, (1024, 1024), body, compression)
    yield "tiff-rows", partial(tiff_of_strips, 200_000, 1, GRAY.tobytes()[:SIDE])
    yield "tiff-deflated-rows", partial(tiff_of_strips, 200_000, 8, zlib.compress(bytes(SIDE)))
    noise = np.random.default_rng(0).bytes(MEGA)
    yield "tiff-overlapping-rows", lambda: tiff_of_strips(50_000, 8, zlib.compress(noise))
    yield "tiff-fax-rows", partial(gray, 64, 900_000, bytes(range(1, 251)) * 100, {BITS: 1}, compression=4)
    yield "tiff-scans", lambda: gray(2000, 2000, repeat_scan(jpeg("L", 2000, progressive=True), 600), compression=7)
    yield "tiff-jpeg-size", lambda: gray(SIDE, SIDE, claim_size(jpeg("L"), 60_000, 60_000), compression=7)
    for name, tags in (
        ("no-rows", {ROWS_PER_STRIP: 0}),
        ("all-rows", {ROWS_PER_STRIP: 2**32 - 1}),
        ("samples", {SAMPLES: 65_535}),
        ("planes", {SAMPLES: 65_535, PLANAR: 2}),
        ("bits", {BITS: 65_535}),
        ("extra", {0x0152: Claim(SHORT, 65_535, 16)}),
        ("palette", {PHOTOMETRIC: 3, 0x0140: Claim(SHORT, 2**31 - 1, 16)}),
        ("tables", {COMPRESSION: 7, 0x015B: Claim(UNDEFINED, 2**31 - 1, 16)}),
        ("below", {0x014A: Claim(LONG, 16 * MEGA // 4, 16)}),
    ):
        yield f"tiff-{name}", partial(tiff_of, tags, many)


# BMP, WebP, AVIF, GIF


def bmp(width: int, height: int, coded: bytes, *, compression: int = 1, bits: int = 8, colors: int = 256) -> bytes:
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    begin = 54 + len(palette)
    head = struct.pack("<IHHI", begin + len(coded), 0, 0, begin)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(coded), 0, 0, colors, colors)
    return b"BM" + head + info + palette + coded


def bmp_files() -> Files:
    for name, coded in (
        ("rows", b"\0\0"),
        ("skips", b"\0\2\0\0"),
        ("ends", b"\0\1"),
        ("short-runs", b"\1\0"),
        ("no-runs", b"\0\0\0\2\0\1"),
        ("literals", b"\0\3\1\2\3\0"),
    ):
        for bits in (8, 4):
            body = coded * (20_000_000 // len(coded))
            yield f"bmp-{name}-{bits}", partial(bmp, 8000, 8000, body, compression=1 if bits == 8 else 2, bits=bits)
    yield "bmp-thin", partial(bmp, 1, 60_000_000, b"\0\0" * 1000)
    yield "bmp-huge", partial(bmp, 2**31 - 1, 2**31 - 1, b"\0\1")
    yield "bmp-upside-down", partial(bmp, 8000, -(2**31), b"\0\1")
    yield "bmp-colors", partial(bmp, SIDE, SIDE, b"\0\1", compression=0, colors=2**32 - 1)
    yield "bmp-short", partial(bmp, 8000, 8000, bytes(1000), compression=0)
    yield "bmp-unknown", partial(bmp, 8000, 8000, bytes(1000), compression=99)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for k, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_files() -> Files:
    coded = save_with_pillow(BASE, "WEBP", lossless=True)[12:]
    image = coded[:4], coded[8 : 8 + int.from_bytes(coded[4:8], "little")]
    canvas = struct.pack("<I", 0) + b"\x0f\0\0" * 2
    large = struct.pack("<I", 0) + struct.pack("<I", 7999)[:3] * 2
    yield "webp-chunks", lambda: riff((b"VP8X", canvas), image, *[(b"ABCD", b"")] * 500_000)
    yield "webp-canvas", lambda: riff((b"VP8X", large), image)
    yield "webp-huge", lambda: riff((b"VP8X", struct.pack("<I", 0) + b"\xff" * 6), image)
    frame = (b"ANMF", bytes(6) + b"\x0f\0\0" * 2 + bytes(4) + image[0] + struct.pack("<I", len(image[1])) + image[1])
    moving = struct.pack("<I", 2) + b"\x0f\0\0" * 2
    yield "webp-frames", lambda: riff((b"VP8X", moving), (b"ANIM", bytes(6)), *[frame] * 20_000)
    yield "webp-alpha", lambda: riff((b"VP8X", b"\x10\0\0\0" + large[4:]), (b"AL" + b"PH", b"\1" + bytes(1000)), image)
    for name, kind, flag in (("profile", b"ICCP", 0x20), ("exif", b"EXIF", 8), ("xmp", b"XMP ", 4)):
        head = bytes((flag, 0, 0, 0)) + canvas[4:]
        yield f"webp-{name}", partial(lambda *a: riff((b"VP8X", a[1]), image, (a[0], bytes(20 * MEGA))), kind, head)
    yield "webp-plain", lambda: save_with_pillow(Image.new("RGB", (7000, 7000)), "WEBP", lossless=True, method=0)
    yield "webp-length", lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff" + image[1]


Coded = tuple[list[Box], bytes]
"""Properties and data of BASE in an ISO media file."""


def read_coded(data: bytes) -> Coded:
    file = read_media_file(data)
    item = file.items[file.primary]
    return item.properties, file.read(item)


@functools.cache
def coded_avif() -> Coded:
    return read_coded(save_with_pillow(BASE, "AVIF", quality=95, subsampling="4:4:4"))


@functools.cache
def heic() -> bytes:
    return write_heic({"base": (BASE, {})})["base"]


def avif_with_exif(block: bytes) -> bytes:
    properties, data = coded_avif()
    items = {1: (b"av01", properties, data), 2: (b"Exif", [], bytes(4) + block)}
    return write_media_file(b"avifmif1", 1, items, [(b"cdsc", 2, (1,))])


def heic_with_exif(block: bytes) -> bytes:
    properties, data = read_coded(heic())
    items = {1: (b"hvc1", properties, data), 2: (b"Exif", [], bytes(4) + block)}
    return write_media_file(b"heicmif1", 1, items, [(b"cdsc", 2, (1,))])


def heic_of_size(width: int, height: int, *, coded: bool) -> bytes:
    """A file whose extent, and where `coded` its sequence header, are not those of its pixels."""
    properties, data = read_coded(heic())
    extent: Box = (b"ispe", struct.pack(">III", 0, width, height))
    more = [extent if kind == b"ispe" else (kind, content) for kind, content in properties]
    if coded:
        more = [(kind, content[: len(content) // 2] if kind == b"hvcC" else content) for kind, content in more]
    return write_media_file(b"heicmif1", 1, {1: (b"hvc1", more, data)}, [])


def heic_files() -> Files:
    yield "heic-large-extent", partial(heic_of_size, 8000, 8000, coded=False)
    yield "heic-huge-extent", partial(heic_of_size, 2**31, 2**31, coded=False)
    yield "heic-half-header", partial(heic_of_size, SIDE, SIDE, coded=True)
    yield "heic-half", lambda: heic()[: len(heic()) // 2]
    yield "heic-boxes", lambda: heic()[:32] + write_box(b"free", b"") * 1_000_000 + heic()[32:]


def avif_files() -> Files:
    def items(count: int, **references: tuple[int, ...]) -> bytes:
        properties, data = coded_avif()
        all_ = dict.fromkeys(range(1, count + 1), (b"av01", properties, data))
        return write_media_file(b"avifmif1", 1, all_, [(k.encode(), 1, to) for k, to in references.items()])

    def grid(columns: int, rows: int, width: int, height: int) -> bytes:
        properties, data = coded_avif()
        head = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
        extent: Box = (b"ispe", struct.pack(">III", 0, width, height))
        all_ = {1: (b"grid", [extent, *properties[1:2]], head), 2: (b"av01", properties, data)}
        return write_media_file(b"avifmif1", 1, all_, [(b"dimg", 1, (2,) * (columns * rows))])

    def lie(width: int, height: int, said: int) -> bytes:
        data = bytearray(save_with_pillow(Image.new("L", (width, height)), "AVIF", quality=10, speed=10))
        at = data.find(b"ispe")
        struct.pack_into(">II", data, at + 8, said, said)
        return bytes(data)

    yield "avif-small-extent", partial(lie, 9000, 9000, SIDE)
    yield "avif-large-extent", partial(lie, SIDE, SIDE, 60_000)
    yield "avif-items", partial(items, 4000)
    yield "avif-references", partial(items, 2, dimg=tuple([2] * 60_000), thmb=tuple([1] * 60_000))
    yield "avif-grid", partial(grid, 200, 200, 3200, 3200)
    yield "avif-large-grid", partial(grid, 255, 255, 60_000, 60_000)
    head = save_with_pillow(BASE, "AVIF")
    nested = b""
    for _ in range(5000):
        nested = write_box(b"meta", bytes(4) + nested)
    yield "avif-nested", lambda: head[:32] + nested
    yield "avif-boxes", lambda: head[:32] + write_box(b"free", b"") * 1_000_000 + head[32:]
    yield "avif-free", lambda: head[:32] + write_box(b"free", bytes(30 * MEGA)) + head[32:]
    yield "avif-no-length", lambda: head[:32] + b"\0\0\0\0meta" + bytes(MEGA)
    yield "avif-zero-length", lambda: head[:32] + b"\0\0\0\1meta" + bytes(MEGA)


def gif(count: int, width: int = SIDE, height: int = SIDE) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * count + b";"


def gif_files() -> Files:
    yield "gif-huge", partial(gif, 1, 65_535, 65_535)
    yield "gif-large", partial(gif, 1, 8000, 8000)
    yield "gif-frames", partial(gif, 500_000)
    yield "gif-extensions", lambda: gif(1)[:19] + b"!\xff\x0bNETSCAPE2.0" + b"\1\0" * 1_000_000 + b"\0" + gif(1)[19:]


def other_files() -> Files:
    yield "zeros", lambda: bytes(30 * MEGA)
    yield "text", lambda: b" " * 30 * MEGA
    yield "svg", lambda: b"<svg>" + b"<g>" * 1_000_000
    yield "zip", lambda: b"PK\3\4" + bytes(MEGA)
