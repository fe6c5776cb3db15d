"""What a JPEG may cost: fill bytes, segments, scans, and pictures with less coded data than their size needs."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from app.errors import BrokenImage, UnsupportedImage
from app.imaging.codec import decode, measure
from app.imaging.decoders import jpeg
from tests.app.imaging.samples import save_with_pillow, smooth

MODES = ["L", "RGB", "CMYK"]


def photo(mode: str = "RGB", size: tuple[int, int] = (48, 32), **options: object) -> bytes:
    image = Image.fromarray(smooth(size[1], size[0], 3)).convert(mode)
    return save_with_pillow(image, "JPEG", quality=90, **options)


def claim(data: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header gives another size."""
    wrong = bytearray(data)
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    struct.pack_into(">HH", wrong, at, height, width)
    return bytes(wrong)


@pytest.mark.parametrize("place", ["before the frame", "before the scan"])
def test_fill_bytes_take_one_step(place: str) -> None:
    data = photo()
    at = data.index(b"\xff\xc0" if place == "before the frame" else b"\xff\xda")
    filled = data[:at] + b"\xff" * 20_000_000 + data[at:]
    assert measure(filled, max_pixels=10**6) == (48, 32)
    np.testing.assert_array_equal(decode(filled, max_pixels=10**6).pixels, decode(data, max_pixels=10**6).pixels)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_file_with_next_to_no_data_for_its_size_is_broken(mode: str, progressive: bool) -> None:
    data = claim(photo(mode, (8, 8), progressive=progressive), 8000, 8000)
    assert len(data) < 2000
    with pytest.raises(BrokenImage):
        decode(data, max_pixels=10**8)


def test_next_to_no_data_is_found_before_a_decoder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(simplejpeg, "decode_jpeg")
    with pytest.raises(BrokenImage):
        decode(claim(photo(size=(8, 8)), 8000, 8000), max_pixels=10**8)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_one_color_has_enough_data(mode: str, progressive: bool) -> None:
    image = Image.new(mode, (2000, 1600), 0)
    data = save_with_pillow(image, "JPEG", quality=1, optimize=True, progressive=progressive)
    assert decode(data, max_pixels=10**8).width == 2000


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_file_is_broken_in_every_color_model(mode: str, share: float) -> None:
    data = photo(mode, (160, 120))
    begin = data.index(b"\xff\xda")
    cut = data[: begin + int((len(data) - begin) * share)]
    for end in (b"", b"\xff\xd9"):
        with pytest.raises(BrokenImage):
            decode(cut + end, max_pixels=10**6)


def test_many_scans_are_not_decoded_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    data = photo("L", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    calls = 0

    def fail(*_: object) -> str:
        nonlocal calls
        calls += 1
        return "7 extraneous bytes before marker 0xd9"

    monkeypatch.setattr(jpeg, "_try_simplejpeg", fail)
    decode(data, max_pixels=10**6)
    assert calls == 1 + jpeg._MAX_CUTS
    calls = 0
    decode(data[:-2] + last * 30 + b"\xff\xd9", max_pixels=10**6)
    assert calls == 1


def test_scans_times_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = photo("L", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(jpeg, "_MAX_SCANNED_PIXELS", 50 * 48 * 32)
    with pytest.raises(UnsupportedImage, match="scans"):
        decode(data[:-2] + last * 50 + b"\xff\xd9", max_pixels=10**8)
