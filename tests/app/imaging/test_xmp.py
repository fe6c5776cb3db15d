"""XMP: what speaks of parts that are gone is removed, sizes and orientation are kept true, and nothing else changes."""

from __future__ import annotations

from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from app.imaging.codec import Output, decode, encode
from app.imaging.picture import Picture
from app.imaging.xmp import InvalidXmp, clean_xmp, resize_xmp
from tests.app.imaging.samples import XMP, exif, noise, png, save_with_pillow, smooth

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xap": "http://ns.adobe.com/xap/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "HDRGainMap": "http://ns.apple.com/HDRGainMap/1.0/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
}


def packet(attributes: str = "", content: str = "", *prefixes: str) -> bytes:
    """A packet of one description; it declares `prefixes`, and those that its attributes begin with."""
    used = {*prefixes, *(word.partition(":")[0] for word in attributes.split() if ":" in word)}
    declared = "".join(f' xmlns:{prefix}="{NAMESPACES[prefix]}"' for prefix in sorted(used))
    return (
        f'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}"><rdf:Description rdf:about=""{declared}'
        f'{" " * bool(attributes)}{attributes}>{content}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def clean(data: bytes) -> bytes:
    found = clean_xmp(data).packet
    ElementTree.fromstring(found)
    return found


DIRECTORY = (
    '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"/></rdf:li>'
    '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Length="612"/></rdf:li></rdf:Seq>'
    "</Container:Directory>"
)


@pytest.mark.parametrize(
    ("attributes", "content", "prefixes"),
    [
        ('hdrgm:Version="1.0"', DIRECTORY, ("Container", "Item")),
        ("", "<hdrgm:Version>1.0</hdrgm:Version><hdrgm:GainMapMax><rdf:Seq/></hdrgm:GainMapMax>", ("hdrgm",)),
        ("HDRGainMap:HDRGainMapVersion='65536'", "", ()),
        ('GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"', DIRECTORY, ("Container", "Item")),
        ('GCamera:MicroVideo="1" GCamera:MicroVideoOffset="1000"', "", ()),
        ("", "<GCamera:MotionPhoto>1</GCamera:MotionPhoto>", ("GCamera",)),
        ('xmpNote:HasExtendedXMP="0123456789ABCDEF0123456789ABCDEF"', "", ()),
        ("", "<xmpNote:HasExtendedXMP>0123</xmpNote:HasExtendedXMP>", ("xmpNote",)),
        ('GDepth:Format="RangeInverse" GDepth:Mime="image/png"', "<GDepth:Data/>", ()),
    ],
)
def test_parts_that_are_gone(attributes: str, content: str, prefixes: tuple[str, ...]) -> None:
    kept = 'dc:source="a > test"'
    found = clean(packet(f"{attributes} {kept}".strip(), content, *prefixes))
    assert found == packet(kept)


def test_other_prefixes_for_the_same_namespaces() -> None:
    data = packet('hdrgm:Version="1.0"', "<hdrgm:GainMapMin>0</hdrgm:GainMapMin>").replace(b"hdrgm", b"ns1")
    assert clean(data) == packet()
    inner = f'<a:Version xmlns:a="{NAMESPACES["hdrgm"]}">1</a:Version>'
    assert clean(packet(content=inner)) == packet()
    other = packet(content='<hdrgm:Version xmlns:hdrgm="another">1</hdrgm:Version>')
    assert clean(other) == other


def test_what_else_a_camera_says_is_kept() -> None:
    found = clean(packet('GCamera:MotionPhoto="1" GCamera:SpecialTypeID="portrait"'))
    assert found == packet('GCamera:SpecialTypeID="portrait"')


@pytest.mark.parametrize("prefix", ["xmp", "xap"])
def test_thumbnails(prefix: str) -> None:
    nested = (
        f"<{prefix}:Thumbnails><rdf:Alt><rdf:li><{prefix}:Thumbnails/>SECRET</rdf:li></rdf:Alt></{prefix}:Thumbnails>"
    )
    assert clean(packet('dc:source="a"', nested, prefix)) == packet('dc:source="a"', "", prefix)
    assert clean_xmp(packet('dc:source="a"', nested)).packet == packet('dc:source="a"')  # without a declaration


def test_everything_else_stays_byte_for_byte() -> None:
    odd = packet(
        'dc:source=\'&lt;a "quoted" &#8217;&gt;\'\n\tdc:format = "image/jpeg"',
        "<!-- hdrgm:Version --><dc:title><rdf:Alt><rdf:li xml:lang='x-default'>Übermut</rdf:li></rdf:Alt></dc:title>\n"
        "<![CDATA[<hdrgm:Version>]]>" + " " * 2048,
    )
    assert clean_xmp(odd).packet == odd
    assert clean_xmp(odd + b"\0\0").packet == odd
    latin = odd.decode().encode("latin-1", "ignore")
    assert clean_xmp(latin).packet == latin


def test_utf_16_becomes_utf_8() -> None:
    data = packet('hdrgm:Version="1.0" dc:source="Größe"')
    assert clean_xmp(data.decode().encode("utf-16")).packet == packet('dc:source="Größe"')


@pytest.mark.parametrize(
    ("attributes", "content"),
    [
        ('tiff:Orientation="6"', ""),
        ("tiff:Orientation = ' 6 '", ""),
        ('tiff:Orientation="&#54;"', ""),
        ("", "<tiff:Orientation>6</tiff:Orientation>"),
        ("", "<tiff:Orientation\n>\n6 </tiff:Orientation >"),
    ],
)
def test_the_orientation_is_read_and_reset(attributes: str, content: str) -> None:
    found = clean_xmp(packet(attributes, content, "tiff"))
    assert found.orientation == 6
    assert clean_xmp(found.packet).orientation == 1


def test_sizes_follow_the_picture() -> None:
    regions = (
        '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions stDim:w="96" stDim:h="64" '
        'stDim:unit="pixel"/></mwg-rs:Regions><stDim:w>5</stDim:w>'
    )
    data = packet('tiff:ImageWidth="96" tiff:Orientation="3" tiff:ImageLength="64"', regions, "mwg-rs", "stDim", "exif")
    data = data.replace(b"<mwg", b"<exif:PixelXDimension>96</exif:PixelXDimension><exif:PixelYDimension/><mwg", 1)
    found = clean_xmp(data)
    expected = data.replace(b'"96"', b'"1920"').replace(b">96<", b">1920<").replace(b'"64"', b'"5"')
    assert resize_xmp(found.packet, found.sizes, 1920, 5) == expected.replace(b'Orientation="3"', b'Orientation="1"')


def test_a_panorama_grows_with_the_picture() -> None:
    whole = 'GPano:FullPanoWidthPixels="1000" GPano:FullPanoHeightPixels="500" GPano:CroppedAreaLeftPixels="10" '
    data = packet(whole + 'GPano:CroppedAreaImageWidthPixels="96" GPano:CroppedAreaImageHeightPixels="64"')
    found = clean_xmp(data)
    resized = resize_xmp(found.packet, found.sizes, 192, 192)
    for before, after in ((b"1000", b"2000"), (b"500", b"1500"), (b"10", b"20"), (b"96", b"192"), (b"64", b"192")):
        data = data.replace(b'"' + before + b'"', b'"' + after + b'"')
    assert resized == data
    alone = packet('GPano:FullPanoWidthPixels="1000"')
    assert resize_xmp(alone, clean_xmp(alone).sizes, 192, 192) == alone


@pytest.mark.parametrize(
    "data",
    [
        b"<a>",
        b"no xml",
        b"<a b=1/>",
        b"<!DOCTYPE a [<!ENTITY b '" + b"c" * 1000 + b"'>]><a>" + b"&b;" * 1000 + b"</a>",
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1/"><a/>',
        b"<a>" * 5000 + b"</a>" * 5000,
        b"<a>" + b"<b/>" * 200_000 + b"</a>",
        b"<a" + b"".join(b" b%d=''" % i for i in range(200_000)) + b"/>",
        b"<a>" + b" " * (1 << 24) + b"</a>",
    ],
)
def test_no_xml_or_too_much_of_it(data: bytes) -> None:
    with pytest.raises(InvalidXmp):
        clean_xmp(data)


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def in_png(data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    return png(noise(8, 12, 3), 2, 8, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data), *extra)


def test_what_cannot_be_read_is_dropped_and_this_is_said() -> None:
    picture = read(in_png(b"<a>"))
    assert (picture.metadata.xmp, picture.warnings) == (None, ("xmp=dropped",))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "tiff16"])
def test_an_orientation_in_xmp_alone_turns_the_picture(kind: str) -> None:
    if kind == "png":
        data = in_png(XMP)
    elif kind.startswith("tiff"):
        data = in_tiff(XMP, np.uint16 if kind == "tiff16" else np.uint8)
    else:
        data = save_with_pillow(smooth(8, 12, 3), kind.upper(), xmp=XMP)
    assert (read(data).width, read(data).height) == (8, 12)


def in_tiff(data: bytes, dtype: type, *tags: tuple[int, int, int, int]) -> bytes:
    out = BytesIO()
    tifffile.imwrite(out, noise(8, 12, 3, dtype), photometric="rgb", extratags=[(0x02BC, 1, len(data), data), *tags])
    return out.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_tag_of_a_tiff_counts_before_xmp(dtype: type) -> None:
    assert read(in_tiff(XMP, dtype, (0x0112, 3, 1, 1))).width == 12
    assert read(in_tiff(packet('tiff:Orientation="1"'), dtype, (0x0112, 3, 1, 6))).width == 8


def test_exif_counts_before_xmp() -> None:
    assert read(in_png(XMP, (b"eXIf", exif(1)))).width == 12
    assert read(in_png(packet('tiff:Orientation="1"'), (b"eXIf", exif(6)))).width == 8


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "avif"])
def test_the_size_in_an_answer_is_that_of_its_picture(kind: str) -> None:
    picture = read(in_png(packet('tiff:ImageWidth="12" tiff:ImageLength="8" hdrgm:Version="1.0"')))
    larger = picture.with_pixels(picture.pixels.repeat(2, axis=0).repeat(2, axis=1), None)
    again = read(encode(larger, Output(kind))[0])
    assert again.metadata.xmp == packet('tiff:ImageWidth="24" tiff:ImageLength="16"')


@pytest.mark.parametrize("packet", [b"<x:xmpmeta/>", b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'])
def test_an_empty_packet(packet: bytes) -> None:
    assert clean_xmp(packet).packet == packet
