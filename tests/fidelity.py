"""Measures what each operation preserves, for each kind of picture and output format.

Every cell is one request to the running service, with models that return their input, and the answer is read with other
code than the service's own where possible. `python -m tests.fidelity` writes `docs/fidelity.md`; a test compares it
with the service.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.app.api.service import Service, serving
from tests.app.imaging.heic_writer import write_heic
from tests.app.imaging.samples import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    XMP,
    exif,
    icc_gray,
    icc_rgb,
    png,
    sampled_jpeg,
    save_with_pillow,
    smooth,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "fidelity.md"
HEIGHT, WIDTH = 24, 40


@dataclass(frozen=True)
class Operation:
    """A request that returns the picture: its endpoint and fields, the scale of its answer, and what it adds."""

    path: str
    fields: dict[str, Any]
    scale: int = 1
    opacity: bool = False
    color: bool = False
    hole: tuple[int, int] | None = None
    """Row and column of the one pixel that is inpainted; it may differ."""

    @property
    def mask(self) -> dict[str, bytes]:
        """The file field with the mask of `hole`."""
        if self.hole is None:
            return {}
        missing = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
        missing[self.hole] = 255
        return {"mask": save_with_pillow(missing, "PNG")}

    @property
    def title(self) -> str:
        shown = {key: value for key, value in self.fields.items() if key != "model"}
        return ", ".join([f"`{self.path}`", *(f"`{key}={value}`" for key, value in shown.items())])


OPERATIONS = {
    "denoise": Operation("/denoise", {"model": "identity"}),
    "superres": Operation("/superres", {"scale": 2}, scale=2),
    "cutout": Operation("/segment", {"output": "cutout", "threshold": 0}, opacity=True),
    "overlay": Operation("/segment", {"output": "overlay", "opacity": 0}, color=True),
    "inpaint": Operation("/inpaint", {}, hole=(9, 14)),
    "stylize": Operation("/stylize", {"style": "starry-night", "strength": 0}),
}
FORMATS = ("auto", "png", "jpeg", "webp", "tiff", "avif")
LOSSLESS = ("png", "tiff")
LEGEND = {
    "8 bit": "16 bits are rounded to 8, because the format has no more; `X-Applied` says `depth=8`.",
    "RGB": "Gray is stored as three equal channels, because the format or its library has no such gray, or because "
    "colors are drawn over it.",
    "sRGB": "Colors are converted to sRGB and the profile is dropped, because networks are not trained on CMYK or "
    "linear light; `X-Applied` says `color=srgb`, or from what, as `color=bt709-linear->srgb`.",
    "no profile": "A profile for gray is dropped, because the result is not gray; `X-Applied` says `icc=dropped`.",
    "alpha": "The result has the transparency that was requested. Here all pixels are opaque, and WebP and AVIF do not "
    "store an opaque alpha channel.",
    "refused": "`invalid-field` (422): the format cannot store transparency, and it is not dropped silently.",
}
HEAD = """# Fidelity

What the service preserves of a picture: depth, color, transparency, profiles and metadata, for each operation, kind of
picture and output format. The tables are the results of {requests} requests to the running service with models that
return their input. `python -m tests.fidelity` writes this page; a test compares it with the service.

`kept` means that all of these are kept: width and height (times the scale), pixels (exactly in PNG and TIFF), bit
depth, gray or color, transparency, the ICC profile byte for byte (or one of the same colors where a file names them by
numbers), EXIF, XMP and print resolution. The orientation, which may be in XMP alone, is applied to the pixels and reset
to 1 in EXIF and XMP. The pixel dimensions in both are updated, and thumbnails are removed, as is XMP that speaks of
parts that an answer does not have: a gain map or depth map, a motion photo, extended XMP. `auto` also shows the format
that it chose. The other words mean:

| word | meaning |
|---|---|
{legend}

Rare files, whose reading does not depend on the operation, are in two of the tables only. The tables are for
`metadata=keep`. `color` keeps only the profile, `strip` nothing. Palettes and 1-bit pictures are returned as 8-bit gray
or RGB(A). Animations and files with several pages are refused.

Never kept:

* the second picture of a JPEG (`X-Applied` says `mpo=first`);
* extended XMP beyond 64 KiB, IPTC outside XMP, PNG text;
* tags of a TIFF other than the descriptive ones;
* in JPEG: EXIF or XMP larger than a segment of 64 KiB (`exif=dropped`, `xmp=dropped`);
* EXIF and XMP that cannot be parsed (`exif=dropped`, `xmp=dropped`), and a profile for another kind of pixels or with
  missing parts (`icc=dropped`);
* more than 8 bits of an AVIF (`depth=8`);
* a print resolution of more than 65,535 dots per inch in JPEG (`resolution=dropped`).

Maker notes are kept unchanged. Print resolution is kept in dots per inch, also of an enlarged picture: read from JFIF,
PNG (`pHYs`), BMP, TIFF and else EXIF, and written to JFIF, `pHYs`, TIFF, and for WebP and AVIF to EXIF."""
WARNINGS = {"8 bit": "depth=8", "sRGB": "color=srgb", "no profile": "icc=dropped"}


@dataclass(frozen=True)
class Kind:
    """A file to send. `shown` is the upright picture, (height, width, 1 to 4) in [0, 1]."""

    name: str
    data: bytes
    shown: NDArray[np.float64]
    form: str
    bits: int = 8
    profile: bytes | None = None
    tags: bool = False
    xmp: bool = False
    converted: bool = False
    exact: bool = True
    artist: str | None = None
    dpi: int | None = None
    odd: bool = False
    """A rare file: how it is read does not depend on the operation, so it is sent to two of them only."""
    made: bool = False
    """The profile is made from code points: it is compared by its colors, not byte for byte."""

    @property
    def gray(self) -> bool:
        return self.shown.shape[2] < 3

    @property
    def alpha(self) -> bool:
        return self.shown.shape[2] in (2, 4)


@dataclass(frozen=True)
class Seen:
    """The content of an answer."""

    samples: NDArray[Any]
    profile: bytes | None
    tags: dict[str, Any]
    xmp: bytes | None
    dpi: tuple[float, float] | None = None


@cache
def kinds() -> list[Kind]:
    """Return every kind of picture that is sent."""
    return [*_depths(), *_palettes(), *_profiles(), *_orientations(), *_containers(), *_odd_files(), *_resolutions()]


def _plain(name: str, channels: int, dtype: type) -> Kind:
    array = smooth(HEIGHT, WIDTH, 4, dtype)[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]]
    bits = np.iinfo(dtype).bits
    data = png(array, {1: 0, 2: 4, 3: 2, 4: 6}[channels], bits)
    return Kind(name, data, array / np.iinfo(dtype).max, "png", bits)


def _depths() -> Iterator[Kind]:
    for channels, name in ((1, "gray"), (2, "gray + alpha"), (3, "RGB"), (4, "RGBA")):
        for dtype in (np.uint8, np.uint16):
            kind = _plain(f"{name}, {np.iinfo(dtype).bits} bit, PNG", channels, dtype)
            yield kind
            if dtype == np.uint16:
                array = np.rint(kind.shown * 65535).astype(np.uint16)
                out = BytesIO()
                tifffile.imwrite(
                    out,
                    array[..., 0] if channels == 1 else array,
                    photometric="rgb" if channels > 2 else "minisblack",
                    planarconfig="contig" if channels > 1 else None,
                    extrasamples=["unassalpha"] if kind.alpha else None,
                )
                yield replace(kind, name=f"{name}, 16 bit, TIFF", data=out.getvalue(), form="tiff")
    color = Image.fromarray(smooth(HEIGHT, WIDTH, 3)).convert("CMYK")
    shown = np.asarray(color.convert("RGB")) / 255
    data = save_with_pillow(color, "JPEG", quality=98, subsampling=0)
    yield Kind("CMYK, JPEG", data, shown, "jpeg", converted=True, exact=False)
    yield Kind("CMYK, TIFF", save_with_pillow(color, "TIFF"), shown, "tiff", converted=True, exact=False)


def _palettes() -> Iterator[Kind]:
    bits = smooth(HEIGHT, WIDTH, 1)[..., 0] > 120
    yield Kind("1 bit, PNG", save_with_pillow(Image.fromarray(bits), "PNG"), bits[..., None].astype(float), "png")
    image = Image.fromarray(smooth(HEIGHT, WIDTH, 3)).quantize(64)
    opaque = np.asarray(image.convert("RGB")) / 255
    yield Kind("palette, PNG", save_with_pillow(image, "PNG"), opaque, "png")
    opacity = bytes(range(0, 256, 4))
    transparent = np.frombuffer(opacity, np.uint8)[np.asarray(image)][..., None] / 255
    data = save_with_pillow(image, "PNG", transparency=opacity)
    yield Kind("palette with transparency, PNG", data, np.concatenate([opaque, transparent], axis=2), "png")


def _profiles() -> Iterator[Kind]:
    for name, primaries in (("sRGB", SRGB), ("Display-P3", DISPLAY_P3), ("Adobe RGB", ADOBE_RGB)):
        profile = icc_rgb(primaries)
        array = smooth(HEIGHT, WIDTH, 3)
        data = save_with_pillow(array, "JPEG", quality=98, subsampling=0, icc_profile=profile)
        yield Kind(f"RGB with {name}, JPEG", data, array / 255, "jpeg", profile=profile, exact=False)
        deep = smooth(HEIGHT, WIDTH, 3, np.uint16)
        out = BytesIO()
        tifffile.imwrite(out, deep, photometric="rgb", iccprofile=profile)
        yield Kind(f"RGB, 16 bit, with {name}, TIFF", out.getvalue(), deep / 65535, "tiff", bits=16, profile=profile)
    array = smooth(HEIGHT, WIDTH, 4)
    profile = icc_rgb(DISPLAY_P3)
    data = save_with_pillow(array, "PNG", icc_profile=profile)
    yield Kind("RGBA with Display-P3, PNG", data, array / 255, "png", profile=profile)
    gray = smooth(HEIGHT, WIDTH, 1)
    data = save_with_pillow(gray, "PNG", icc_profile=icc_gray())
    yield Kind("gray with a gray profile, PNG", data, gray / 255, "png", profile=icc_gray())
    light = smooth(HEIGHT, WIDTH, 3, np.uint16)
    linear = light / 65535
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    out = BytesIO()
    tifffile.imwrite(out, light, photometric="rgb", iccprofile=icc_rgb(SRGB, gamma=1))
    yield Kind("linear RGB (scRGB), 16 bit, TIFF", out.getvalue(), shown, "tiff", bits=16, converted=True, exact=False)


def _orientations() -> Iterator[Kind]:
    upright = smooth(HEIGHT, WIDTH, 3)
    for orientation in range(1, 9):
        stored = _store_with_orientation(upright, orientation)
        block = b"Exif\0\0" + exif(orientation, size=(stored.shape[1], stored.shape[0]), thumbnail=b"thumbnail")
        data = save_with_pillow(stored, "JPEG", quality=98, subsampling=0, exif=block)
        yield Kind(f"EXIF orientation {orientation}, JPEG", data, upright / 255, "jpeg", tags=True, exact=False)


def _store_with_orientation(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the samples as a camera would store them with this orientation."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def _containers() -> Iterator[Kind]:
    array = smooth(HEIGHT, WIDTH, 3)
    shown, profile, block = array / 255, icc_rgb(DISPLAY_P3), exif(size=(WIDTH, HEIGHT))
    all_of_it: dict[str, Any] = {"exif": b"Exif\0\0" + block, "icc_profile": profile, "xmp": XMP}
    full: dict[str, Any] = {"profile": profile, "tags": True, "xmp": True}
    data = save_with_pillow(array, "JPEG", quality=98, subsampling=0, **all_of_it)
    yield Kind("EXIF + ICC + XMP, JPEG", data, shown, "jpeg", exact=False, **full)
    data = save_with_pillow(array, "WEBP", lossless=True, **all_of_it)
    yield Kind("EXIF + ICC + XMP, WebP", data, shown, "webp", **full)
    data = save_with_pillow(array, "AVIF", quality=98, subsampling="4:4:4", **all_of_it)
    yield Kind("EXIF + ICC + XMP, AVIF", data, shown, "avif", exact=False, **full)
    packet = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
    data = png(array, 2, 8, (b"eXIf", block), (b"iTXt", packet))
    yield Kind("EXIF + XMP, PNG", data, shown, "png", tags=True, xmp=True)
    described = Image.Exif()
    described.load(block)
    described[0x02BC] = XMP
    data = save_with_pillow(array, "TIFF", exif=described, icc_profile=profile)
    yield Kind("EXIF + ICC + XMP, TIFF", data, shown, "tiff", **full)
    yield Kind("RGB, BMP", save_with_pillow(array, "BMP"), shown, "bmp")
    two = {"save_all": True, "append_images": [Image.fromarray(array[::-1].copy())], "quality": 98, "subsampling": 0}
    yield Kind("two pictures in one JPEG (MPO)", save_with_pillow(array, "MPO", **two), shown, "jpeg", exact=False)


def _odd_files() -> Iterator[Kind]:
    """Yield HEIC and GIF, and files that some libraries refuse, or read in another way than their authors meant."""
    yield from _heic()
    for kind in (*_odd_jpegs(), *_odd_pngs(), *_odd_tiffs(), _bit_fields(), *_odd_xmp(), *_code_points()):
        yield replace(kind, odd=True)
    image = Image.fromarray(smooth(HEIGHT, WIDTH, 3)).quantize(64)
    yield Kind("GIF", save_with_pillow(image, "GIF"), np.asarray(image.convert("RGB")) / 255, "gif", odd=True)


def _heic() -> Iterator[Kind]:
    array, deep, profile = smooth(HEIGHT, WIDTH, 4), smooth(HEIGHT, WIDTH, 3, np.uint16), icc_rgb(DISPLAY_P3)
    colors = array[..., :3].copy()
    upright = XMP.replace(b'Orientation="6"', b'Orientation="1"')  # pillow-heif would turn the picture
    metadata = {"exif": b"Exif\0\0" + exif(size=(WIDTH, HEIGHT)), "xmp": upright, "icc_profile": profile}
    files = write_heic({"8 bit": (colors, metadata), "alpha": (array, {}), "10 bit": (deep, {})})
    full: dict[str, Any] = {"profile": profile, "tags": True, "xmp": True}
    yield Kind("EXIF + ICC + XMP, HEIC", files["8 bit"], colors / 255, "heic", exact=False, **full)
    yield Kind("RGBA, HEIC", files["alpha"], array / 255, "heic", exact=False, odd=True)
    yield Kind("RGB, 10 bit, HEIC", files["10 bit"], deep / 65535, "heic", bits=16, exact=False, odd=True)


def _odd_jpegs() -> Iterator[Kind]:
    array, profile = smooth(HEIGHT, WIDTH, 3), icc_rgb(DISPLAY_P3)
    data = save_with_pillow(array, "JPEG", quality=98, subsampling=0)
    lossy: dict[str, Any] = {"shown": array / 255, "form": "jpeg", "exact": False}
    parts = [
        b"ICC_PROFILE\0" + bytes((number, 2)) + profile[200 * number :][: 200 if number == 0 else None]
        for number in (0, 1)
    ]
    segments = b"".join(_segment(0xE2, part) for part in parts)
    yield Kind("profile in parts numbered from 0, JPEG", data[:20] + segments + data[20:], **lossy, profile=profile)
    yield Kind("data before the end marker, JPEG", data[:-2] + b"Z" * 507 + data[-2:], **lossy)
    adobe = _segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 2))
    yield Kind("Adobe transform 2 without JFIF, JPEG", data[:2] + adobe + data[20:], **lossy)
    turned = exif(6, size=(HEIGHT, WIDTH)).replace(struct.pack("<HH", 0x0112, 3), struct.pack("<HH", 0x0112, 8))
    stored = _store_with_orientation(array, 6)
    data = save_with_pillow(stored, "JPEG", quality=98, subsampling=0, exif=b"Exif\0\0" + turned)
    yield Kind("EXIF orientation 6 as a signed number, JPEG", data, **lossy, tags=True)
    data = sampled_jpeg(0x42, WIDTH, HEIGHT)
    shown = np.asarray(Image.open(BytesIO(data))) / 255
    yield Kind("brightness sampled 4 × 2, JPEG", data, shown, "jpeg", exact=False)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _odd_pngs() -> Iterator[Kind]:
    bits = smooth(HEIGHT, WIDTH, 1)[..., 0] > 120
    packed = np.packbits(bits, axis=1)[..., None]
    shown = np.stack([bits, ~bits], axis=2).astype(float)
    yield Kind(
        "1 bit with the transparent color 255, PNG", png(packed, 0, 1, (b"tRNS", b"\0\xff"), width=WIDTH), shown, "png"
    )
    array, profile = smooth(HEIGHT, WIDTH, 3), icc_rgb(DISPLAY_P3)
    short = b"icc\0\0" + zlib.compress(profile)[:-4]
    yield Kind(
        "profile without a checksum, PNG", png(array, 2, 8, (b"iCCP", short)), array / 255, "png", profile=profile
    )


def _odd_tiffs() -> Iterator[Kind]:
    planes: dict[str, Any] = {"planarconfig": "separate", "compression": "deflate"}
    for channels, name, options in (
        (2, "gray + alpha in planes", {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        (3, "RGB in planes", {"photometric": "rgb"}),
    ):
        for dtype in (np.uint8, np.uint16):
            array = smooth(HEIGHT, WIDTH, 4, dtype)[..., [0, 3] if channels == 2 else [0, 1, 2]]
            out, bits = BytesIO(), np.iinfo(dtype).bits
            tifffile.imwrite(out, array.transpose(2, 0, 1), **options, **planes)
            yield Kind(f"{name}, {bits} bit, TIFF", out.getvalue(), array / np.iinfo(dtype).max, "tiff", bits)
    inks = Image.fromarray(smooth(HEIGHT, WIDTH, 3)).convert("CMYK")
    opacity = smooth(HEIGHT, WIDTH, 4)[..., 3:]
    out = BytesIO()
    array = np.concatenate([np.asarray(inks), opacity], axis=2)
    tifffile.imwrite(out, array, photometric="separated", extrasamples=["unassalpha"])
    shown = np.concatenate([np.asarray(inks.convert("RGB")), opacity], axis=2) / 255
    yield Kind("CMYK + alpha, TIFF", out.getvalue(), shown, "tiff", converted=True, exact=False)
    array, out = smooth(HEIGHT, WIDTH, 3), BytesIO()
    tags = [(0x013B, 2, 7, "artist", True)]
    tifffile.imwrite(
        out, array, bigtiff=True, photometric="rgb", resolution=(300, 300), resolutionunit="inch", extratags=tags
    )
    yield Kind("artist and 300 dpi, BigTIFF", out.getvalue(), array / 255, "tiff", artist="artist", dpi=300)


def _bit_fields() -> Kind:
    """Return a BMP of version 5 with red in bits 8 to 15, green in 16 to 23, blue in 24 to 31, and a profile."""
    array, profile = smooth(HEIGHT, WIDTH, 3), icc_rgb(DISPLAY_P3)
    rows = (array.astype("<u4") << np.array([8, 16, 24], "<u4")).sum(axis=2, dtype="<u4")[::-1].tobytes()
    masks = struct.pack("<4I4s", 0xFF00, 0xFF0000, 0xFF000000, 0, b"DEBM")
    info = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks
    info = info.ljust(112, b"\0") + struct.pack("<III", 124 + len(rows), len(profile), 0)
    head = b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(profile), 0, 0, 138)
    return Kind("bit fields and a profile, BMP", head + info + rows + profile, array / 255, "bmp", profile=profile)


def _odd_xmp() -> Iterator[Kind]:
    array = smooth(HEIGHT, WIDTH, 3)
    options: dict[str, Any] = {"quality": 98, "subsampling": 0}
    data = save_with_pillow(_store_with_orientation(array, 6), "JPEG", xmp=XMP, **options)
    yield Kind("orientation in XMP alone, JPEG", data, array / 255, "jpeg", xmp=True, exact=False)
    more = f' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" tiff:ImageWidth="{WIDTH}"'
    packet = XMP.replace(b' tiff:Orientation="6"', b' tiff:Orientation="1"' + more.encode())
    data = save_with_pillow(array, "JPEG", xmp=packet, **options)
    yield Kind("XMP of a gain map and with a size, JPEG", data, array / 255, "jpeg", xmp=True, exact=False)


def _code_points() -> Iterator[Kind]:
    """Yield files that name their colors by numbers, primaries and transfer: AVIF by `nclx`, PNG by `cICP`."""
    array = smooth(HEIGHT, WIDTH, 3)
    named = png(array, 2, 8, (b"cICP", bytes((12, 13, 0, 1))))
    yield Kind("Display-P3 by numbers, PNG", named, array / 255, "png", profile=icc_rgb(DISPLAY_P3), made=True)
    data = save_with_pillow(array, "AVIF", quality=98, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    lossy: dict[str, Any] = {"form": "avif", "exact": False}
    wide = data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]
    yield Kind("Display-P3 by numbers, AVIF", wide, array / 255, profile=icc_rgb(DISPLAY_P3), made=True, **lossy)
    linear = array / 255
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    yield Kind(
        "linear light by numbers, AVIF",
        data[:at] + struct.pack(">HH", 1, 8) + data[at + 4 :],
        shown,
        converted=True,
        **lossy,
    )


def _resolutions() -> Iterator[Kind]:
    array = smooth(HEIGHT, WIDTH, 3)
    for name, options in (("JPEG", {"quality": 98, "subsampling": 0}), ("PNG", {}), ("BMP", {}), ("TIFF", {})):
        data = save_with_pillow(array, name, dpi=(300, 300), **options)
        yield Kind(f"300 dpi, {name}", data, array / 255, name.lower(), exact=name != "JPEG", dpi=300, odd=True)


def expected(name: str, kind: Kind, form: str) -> set[str]:
    """Return the entries of the legend that this cell must have."""
    operation = OPERATIONS[name]
    alpha = kind.alpha or operation.opacity
    if alpha and form == "jpeg":
        return {"refused"}
    changes = set()
    if operation.opacity and not kind.alpha and form in LOSSLESS:
        changes.add("alpha")
    if kind.bits == 16 and form not in LOSSLESS:
        changes.add("8 bit")
    if kind.gray and (operation.color or form == "webp" or (form == "avif" and alpha)):
        changes.add("RGB")
    if kind.gray and kind.profile and "RGB" in changes:
        changes.add("no profile")
    if kind.converted:
        changes.add("sRGB")
    return changes


def expected_format(name: str, kind: Kind) -> str:
    """Return the format that `auto` must choose."""
    form = "jpeg" if kind.form == "heic" else kind.form
    opaque = not (kind.alpha or OPERATIONS[name].opacity)
    if form in ("bmp", "gif") or (form == "jpeg" and (kind.bits == 16 or not opaque)):
        return "png"
    return form


@dataclass(frozen=True)
class Cell:
    operation: str
    kind: Kind
    format: str
    form: str
    changes: set[str]
    faults: list[str]


def cells(service: Service) -> Iterator[Cell]:
    """Send every kind to every operation in every format and yield the results."""
    for name, operation in OPERATIONS.items():
        for kind in kinds():
            if kind.odd and name not in ("denoise", "superres"):
                continue
            for asked in FORMATS:
                fields = {**operation.fields, **operation.mask, "format": asked, "quality": 95}
                answer = service.send(operation.path, kind.data, **fields)
                yield _judge(name, kind, asked, answer)


def _judge(operation: str, kind: Kind, asked: str, answer: httpx.Response) -> Cell:
    if answer.status_code != 200:
        refused = answer.status_code == 422 and answer.json()["type"].endswith("/invalid-field")
        faults = [] if refused else [f"status {answer.status_code}"]
        return Cell(operation, kind, asked, asked, {"refused"}, faults)
    form = answer.headers["content-type"].removeprefix("image/")
    seen = read_file(answer.content, form)
    changes, faults = _changes(kind, seen)
    faults += _content_faults(kind, seen, form, OPERATIONS[operation])
    applied = answer.headers["x-applied"].split(";")
    for change, warning in WARNINGS.items():
        said = any(word.split("=")[0] == "color" for word in applied) if change == "sRGB" else warning in applied
        if (change in changes) != said:
            faults.append(f"X-Applied is {applied} for {sorted(changes)}")
    if asked == "auto" and form != expected_format(operation, kind):
        faults.append(f"auto chose {form}")
    return Cell(operation, kind, asked, form, changes, faults)


def _changes(kind: Kind, seen: Seen) -> tuple[set[str], list[str]]:
    """Return the changes that are in the legend, and faults: changes that are not."""
    changes, faults = set(), []
    bits = seen.samples.dtype.itemsize * 8
    if bits < kind.bits:
        changes.add("8 bit")
    elif bits > kind.bits:
        faults.append(f"{bits} bit")
    gray, alpha = seen.samples.shape[2] < 3, seen.samples.shape[2] in (2, 4)
    if kind.gray and not gray:
        changes.add("RGB")
    elif gray and not kind.gray:
        faults.append("gray")
    if alpha and not kind.alpha:
        changes.add("alpha")
    elif kind.alpha and not alpha:
        faults.append("alpha lost")
    if kind.converted:
        changes.add("sRGB")
        if seen.profile:
            faults.append("a profile with converted colors")
    elif kind.profile and kind.gray and not seen.profile:
        changes.add("no profile")
    elif seen.profile != kind.profile and not (kind.made and _mean_the_same(seen.profile, kind.profile)):
        faults.append("profile")
    return changes, faults


def _mean_the_same(*profiles: bytes | None) -> bool:
    """Tell whether profiles give the same colors, nearly."""
    if None in profiles:
        return False
    shown = [
        ImageCms.profileToProfile(
            Image.fromarray(smooth(HEIGHT, WIDTH, 3)),
            ImageCms.ImageCmsProfile(BytesIO(profile or b"")),
            ImageCms.createProfile("sRGB"),
        )
        for profile in profiles
    ]
    return bool(np.abs(np.asarray(shown[0]).astype(int) - np.asarray(shown[1]).astype(int)).mean() < 3)


def _content_faults(kind: Kind, seen: Seen, form: str, operation: Operation) -> list[str]:
    """Return what is wrong with an answer's pixels, tags and XMP."""
    faults, scale = [], operation.scale
    shown = kind.shown.repeat(scale, axis=0).repeat(scale, axis=1)
    if kind.gray and seen.samples.shape[2] > 2:
        shown = shown[..., [0, 0, 0, 1][: shown.shape[2] + 2]]
    if not kind.alpha and seen.samples.shape[2] in (2, 4):
        shown = np.concatenate([shown, np.ones_like(shown[..., :1])], axis=2)
    if seen.samples.shape != shown.shape:
        faults.append(f"shape {seen.samples.shape}")
    else:
        difference = np.abs(seen.samples / np.iinfo(seen.samples.dtype).max - shown)
        if operation.hole is not None:
            difference[operation.hole] = 0
        exact = kind.exact and form in LOSSLESS
        if scale > 1 and kind.alpha:  # enlarged smoothly, so it differs from the repeated one at steps
            if difference[..., -1].mean() > 0.03:
                faults.append("alpha differs")
            difference = difference[..., :-1] * (
                shown[..., -1:] > 0
            )  # colors of fully transparent pixels are not enlarged
        if difference.max() > (1e-6 if exact else 0.35) or difference.mean() > (1e-6 if exact else 0.03):
            faults.append(f"pixels differ by {difference.mean():.4f}, {difference.max():.4f} at most")
    if kind.tags:
        wanted = {"Make": "Maker of cameras", "PixelX": WIDTH * scale, "PixelY": HEIGHT * scale, "Orientation": 1}
        if seen.tags != {**wanted, "Artist": None}:
            faults.append(f"tags {seen.tags}")
    elif any(value not in (None, 1, kind.artist) for value in seen.tags.values()) or seen.tags["Artist"] != kind.artist:
        faults.append(f"unexpected tags: {seen.tags}")
    if kind.dpi and (seen.dpi is None or np.abs(np.subtract(seen.dpi, kind.dpi)).max() > 0.01):
        faults.append(f"{seen.dpi} dpi")
    if kind.xmp != bool(seen.xmp):
        faults.append("XMP")
    elif kind.xmp and seen.xmp and (b"a test" not in seen.xmp or b'tiff:Orientation="1"' not in seen.xmp):
        faults.append("XMP differs")
    elif seen.xmp and (b"hdrgm" in seen.xmp or _find_width(seen.xmp) not in (None, WIDTH * scale)):
        faults.append("XMP is not clean")
    return faults


def _find_width(xmp: bytes) -> int | None:
    found = re.search(rb'tiff:ImageWidth="(\d+)"', xmp)
    return int(found[1]) if found else None


def read_file(data: bytes, form: str) -> Seen:
    """Return the content of a file, read with other code than the service's."""
    if form == "tiff":
        return _read_tiff(data)
    image = Image.open(BytesIO(data))
    found = image.getexif()
    inner = found.get_ifd(0x8769)
    tags = {
        "Make": found.get(0x010F),
        "PixelX": inner.get(0xA002),
        "PixelY": inner.get(0xA003),
        "Orientation": found.get(0x0112, 1),
        "Artist": found.get(0x013B),
    }
    if tags["Make"]:
        tags["Make"] = tags["Make"].rstrip("\0")
    in_exif = (found[0x011A], found[0x011B]) if 0x011A in found and form in ("webp", "avif") else None
    dpi = image.info.get("dpi", in_exif)
    if form == "png":
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        color = struct.unpack_from(">B", data, 25)[0]
        samples = samples[..., None] if color == 0 else samples[..., {2: [2, 1, 0], 4: [0, 3], 6: [2, 1, 0, 3]}[color]]
    else:
        samples = np.asarray(image)
        samples = samples if samples.ndim == 3 else samples[..., None]
    xmp = image.info.get("xmp")
    return Seen(samples, image.info.get("icc_profile"), tags, xmp.encode() if isinstance(xmp, str) else xmp, dpi)


def _read_tiff(data: bytes) -> Seen:
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        samples = page.asarray()
        samples = samples if samples.ndim == 3 else samples[..., None]
        found = {tag.code: tag.value for tag in page.tags}
        inner = found.get(0x8769) or {}
        make = found.get(0x010F)
        tags = {
            "Make": make.rstrip("\0") if make else None,
            "PixelX": inner.get("PixelXDimension"),
            "PixelY": inner.get("PixelYDimension"),
            "Orientation": found.get(0x0112, 1),
            "Artist": found.get(0x013B),
        }
        dpi = tuple(np.divide(*found[tag]) for tag in (0x011A, 0x011B)) if found.get(0x0128) == 2 else None
        return Seen(samples, found.get(0x8773), tags, found.get(0x02BC), dpi)


def document(found: list[Cell]) -> str:
    """Return `docs/fidelity.md` for these cells."""
    legend = "\n".join(f"| {word} | {meaning} |" for word, meaning in LEGEND.items())
    lines = [HEAD.format(requests=len(found), legend=legend)]
    for name, operation in OPERATIONS.items():
        lines += ["", f"## {operation.title}", "", f"| input | {' | '.join(f'`{form}`' for form in FORMATS)} |"]
        lines.append("|---" * (len(FORMATS) + 1) + "|")
        rows: dict[str, list[str]] = {}
        for cell in found:
            if cell.operation == name:
                rows.setdefault(cell.kind.name, []).append(_text(cell))
        lines += [f"| {kind} | {' | '.join(texts)} |" for kind, texts in rows.items()]
    return "\n".join(lines) + "\n"


def _text(cell: Cell) -> str:
    words = [word for word in LEGEND if word in cell.changes]
    text = ", ".join([*words, *(f"**{fault}**" for fault in cell.faults)]) or "kept"
    return f"{cell.form}: {text}" if cell.format == "auto" else text


if __name__ == "__main__":
    with serving() as running:
        PAGE.write_text(document(list(cells(running))), encoding="utf-8")
