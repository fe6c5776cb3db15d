"""A picture as a whole: reduced to sizes that a network takes, whatever its proportion."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.protocol import RequestContext
from app.errors import ModelUnavailable
from app.tasks.inference import MAX_SIDE, MIN_SIDE, infer, manifest_default, reduce_picture
from tests.engines import FunctionEngine
from tests.model_repository import manifest, stylize_signatures

MODEL = manifest("stylize", "color", signatures=stylize_signatures())


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([64, 256, 512]), st.sampled_from([4, 16]))
def test_its_sides_are_whole_multiples_and_its_pixels_few(height: int, width: int, side: int, multiple: int) -> None:
    small = reduce_picture(np.broadcast_to(np.uint8(255), (height, width, 1)).copy(), side, multiple)
    _, tall, wide, channels = small.shape
    assert channels == 3
    assert tall % multiple == wide % multiple == 0
    assert min(tall, wide) >= MIN_SIDE
    assert max(tall, wide) <= MAX_SIDE
    if 1 / 4 < height / width < 4:
        assert tall * wide <= max(1.3 * side**2, (4 * MIN_SIDE) ** 2)
    assert (small == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_it_has_the_pictures_tone(dtype: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (600, 400, 3), dtype)
    small = reduce_picture(pixels, 128, 4)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.mean(axis=(0, 1, 2)), pixels.mean(axis=(0, 1)) / np.iinfo(dtype).max, atol=2e-3)


def test_what_fits_is_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    np.testing.assert_allclose(reduce_picture(pixels, 512, 4)[0], pixels / np.float32(255), atol=1e-6)


def test_answers_that_are_no_numbers_are_refused() -> None:
    engine = FunctionEngine(lambda request: {"vector": np.full((1, 3), np.nan, np.float32)}, MODEL)
    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        asyncio.run(infer(MODEL, "preset", {"index": np.zeros((1, 1), np.float32)}, engine, RequestContext("test")))


def test_a_manifest_that_lacks_a_number_says_which() -> None:
    with pytest.raises(ModelUnavailable, match="no default 'style_side'"):
        manifest_default(MODEL, "style_side")
    assert manifest_default(MODEL.model_copy(update={"defaults": {"style_side": 32}}), "style_side") == 32
