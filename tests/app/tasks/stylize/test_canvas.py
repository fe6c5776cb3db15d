"""The canvas: one size for all pictures; and the painting at full size, with the picture's details and depth."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.imaging.picture import Picture
from app.tasks.base import Size
from app.tasks.stylize.canvas import LONG_SIDE, MAX_ENLARGEMENT, canvas_size, finish_painting, make_canvas
from tests.app.imaging.samples import smooth


def sharp(height: int = 800, width: int = 1000, dtype: Any = np.uint8, channels: int = 3) -> Picture:
    """Return a picture with fine lines on a ramp."""
    pixels = smooth(height, width, 4, dtype)[..., :channels] // 2
    pixels[::8] += np.iinfo(dtype).max // 4
    return Picture(np.ascontiguousarray(pixels))


@given(width=st.integers(1, 20000), height=st.integers(1, 20000), stroke_size=st.floats(0.5, 2, allow_nan=False))
def test_the_canvas_has_one_long_side(width: int, height: int, stroke_size: float) -> None:
    size = canvas_size(Size(width, height), stroke_size)
    assert min(size) >= 1
    assert max(size) <= round(LONG_SIDE / stroke_size)
    assert max(size) in (round(LONG_SIDE / stroke_size), MAX_ENLARGEMENT * max(width, height))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [Size(500, 400), Size(1500, 1200)])
def test_what_is_painted_as_it_was_comes_back_with_its_details(dtype: Any, channels: int, size: Size) -> None:
    picture = sharp(dtype=dtype, channels=channels)
    canvas = make_canvas(picture, size)
    found = finish_painting(picture, canvas, canvas.pixels, 1.0, preserve_color=False)
    assert found.dtype == dtype
    assert found.shape == picture.pixels.shape
    error = np.abs(found.astype(float) - picture.pixels).mean() / picture.maximum
    reduced = cv2.resize(canvas.pixels, (1000, 800), interpolation=cv2.INTER_LINEAR).reshape(found.shape)
    blur = np.abs(reduced.astype(float) / 65535 - picture.pixels / picture.maximum).mean()
    assert error < (0.4 * blur if size.width < 1000 else 0.02)


def test_details_follow_the_painting_and_not_its_negative() -> None:
    picture = sharp()
    canvas = make_canvas(picture, Size(500, 400))
    negative = finish_painting(picture, canvas, np.uint16(65535) - canvas.pixels, 1.0, preserve_color=False)
    flat = finish_painting(picture, canvas, np.full_like(canvas.pixels, 30000), 1.0, preserve_color=False)
    assert np.ptp(flat) <= 1
    lines = negative[8:792:8].astype(float) - negative[10:794:8]
    assert np.abs(lines.mean()) < 20


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_strength_is_the_share_of_the_painting(strength: float) -> None:
    picture = Picture(np.full((90, 120, 3), 100, np.uint8))
    canvas = make_canvas(picture, Size(40, 30))
    white = np.full_like(canvas.pixels, 65535)
    found = finish_painting(picture, canvas, white, strength, preserve_color=False)
    assert np.abs(found - (100 + 155 * strength)).max() <= 1


def test_a_ramp_of_16_bits_stays_without_steps() -> None:
    ramp = np.linspace(20000, 20600, 1600).astype(np.uint16)[None, :, None].repeat(900, 0).repeat(3, 2)
    canvas = make_canvas(Picture(ramp), Size(768, 432))
    found = finish_painting(Picture(ramp), canvas, canvas.pixels, 1.0, preserve_color=False)
    assert np.abs(np.diff(found[450, 4:-4, 0].astype(int))).max() <= 2
