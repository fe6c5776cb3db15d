"""Good files of every format and kind, random damage to them, and a check that the codec stands it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from app.errors import ServiceError
from app.imaging.codec import decode
from tests.app.imaging.decoders.tiffs import ROWS_PER_STRIP, STRIP_BYTES, STRIP_OFFSETS, gray, tiled
from tests.app.imaging.heic_writer import write_heic
from tests.app.imaging.samples import (
    DISPLAY_P3,
    XMP,
    exif,
    icc_cmyk,
    icc_rgb,
    noise,
    png,
    save_with_pillow,
    smooth,
)

HEIGHT, WIDTH = 40, 56


def make_seeds() -> list[bytes]:
    """Return good files: every format, color model, depth, compression and block of metadata."""
    return [*_make_plain(), *_make_described(), *_make_tiffs(), *_make_heics()]


def _make_plain() -> Iterator[bytes]:
    color, gray_, clear = (smooth(HEIGHT, WIDTH, channels) for channels in (3, 1, 4))
    for name in ("png", "tiff", "webp", "avif"):
        for pixels in (color, gray_, clear):
            yield save_with_pillow(pixels, name)
    for name in ("jpeg", "bmp"):
        yield save_with_pillow(color, name)
        yield save_with_pillow(gray_, name)
    palette = Image.fromarray(color).quantize(16)
    for name in ("png", "bmp", "gif", "tiff"):
        yield save_with_pillow(palette, name)
    yield save_with_pillow(palette, "png", transparency=0)
    yield save_with_pillow(color, "jpeg", progressive=True)
    yield save_with_pillow(color, "webp", lossless=True)
    yield save_with_pillow(Image.fromarray(color).convert("CMYK"), "jpeg", icc_profile=icc_cmyk())
    for samples, kind in ((1, 0), (2, 4), (3, 2), (4, 6)):
        yield png(noise(HEIGHT, WIDTH, samples, np.uint16), kind, 16)
    yield png(noise(HEIGHT, 7, 1), 0, 1, width=WIDTH)


def _make_described() -> Iterator[bytes]:
    """Files with EXIF, XMP and a color profile."""
    color, block, profile = smooth(HEIGHT, WIDTH, 3), exif(6, thumbnail=b"x" * 300), icc_rgb(DISPLAY_P3)
    for name in ("jpeg", "webp", "avif"):
        yield save_with_pillow(color, name, exif=b"Exif\0\0" + block, icc_profile=profile, xmp=XMP)
    packet = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
    yield png(color, 2, 8, (b"iCCP", b"p\0\0" + zlib.compress(profile)), (b"eXIf", block), (b"iTXt", packet))
    described = Image.Exif()
    described[0x0112], described[0x010E] = 6, "a test"
    yield save_with_pillow(color, "tiff", exif=described, icc_profile=profile)


def _make_tiffs() -> Iterator[bytes]:
    color, pixels = Image.fromarray(smooth(HEIGHT, WIDTH, 3)), smooth(HEIGHT, WIDTH, 1).tobytes()
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield save_with_pillow(color, "tiff", compression=packing)
    yield save_with_pillow(color.convert("1"), "tiff", compression="group4")
    yield save_with_pillow(color.convert("CMYK"), "tiff")
    rows = {ROWS_PER_STRIP: 4, STRIP_OFFSETS: [16 + 4 * WIDTH * i for i in range(10)], STRIP_BYTES: [4 * WIDTH] * 10}
    yield gray(WIDTH, HEIGHT, pixels, rows)
    yield gray(WIDTH, HEIGHT, pixels, rows, big=True)
    yield tiled(WIDTH, HEIGHT, (16, 16), smooth(16, 16, 1).tobytes(), compression=1)
    deep = noise(HEIGHT, WIDTH, 1, np.uint16)
    yield save_with_pillow(Image.fromarray(deep[..., 0]), "tiff")
    yield save_with_pillow(Image.fromarray(deep[..., 0]), "tiff", compression="tiff_lzw")


def _make_heics() -> Iterable[bytes]:
    plain = {str(channels): (smooth(HEIGHT, WIDTH, channels), {}) for channels in (1, 3, 4)}
    described = {"info": {"exif": b"Exif\0\0" + exif(6), "xmp": XMP}}
    return write_heic({**plain, "exif": (smooth(HEIGHT, WIDTH, 3), described)}).values()


def check_changed_bytes(data: bytes, places: int) -> None:
    """Decode 300 copies of `data` with `places` random bytes: each is a picture within the limit, or a ServiceError."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), places):
            changed[place] = rng.integers(256)
        try:
            picture = decode(bytes(changed), max_pixels=100_000)
        except ServiceError:
            continue
        assert picture.width * picture.height <= 100_000


def damage(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few random faults."""
    wrong = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        if len(wrong) < 8:
            break
        at = int(len(wrong) * chance.random() ** 3)  # headers are where damage leads somewhere
        length = chance.randint(1, 16)
        match chance.randrange(7):
            case 0:
                wrong[at] ^= 1 << chance.randrange(8)
            case 1:
                wrong[at : at + length] = chance.randbytes(length)
            case 2:
                del wrong[at : at + length]
            case 3:
                wrong[at:at] = wrong[at : at + length * 4]
            case 4:
                wrong[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0"])
            case 5:
                del wrong[len(wrong) - int(len(wrong) * chance.random() ** 2) :]
            case _:
                wrong += chance.randbytes(length)
    return bytes(wrong)
