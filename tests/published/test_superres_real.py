"""`superres/real` takes every kind of picture, and says how much grain it left, through the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from app.engine.local import LocalEngine
from app.engine.protocol import RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.picture import Picture
from app.tasks.superres import SuperresOptions, superres
from tests.published.test_repository import PUBLISHED

pytestmark = pytest.mark.tf

CLEAN = skimage.data.coffee()[100:172, 200:296]
NOISY = np.clip(CLEAN + np.random.default_rng(0).normal(0, 12, CLEAN.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(Registry([PUBLISHED], Runtime()), precision="float32")
    yield engine
    asyncio.run(engine.close(60))


def enlarge(engine: LocalEngine, picture: Picture, **options: Any) -> Picture:
    chosen = SuperresOptions(**{"model": "real", "scale": 4} | options)
    answer = asyncio.run(superres(picture, chosen, engine, RequestContext("test")))
    assert answer.model.startswith("superres/real@")
    return answer.picture


def roughness(pixels: NDArray[Any]) -> float:
    return float(np.abs(cv2.Laplacian(pixels.astype(np.float32), -1)).mean())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_sixteen_bits_are_the_same_picture_without_steps(engine: LocalEngine, scale: int) -> None:
    shallow = enlarge(engine, Picture(NOISY), scale=scale).pixels
    deep = enlarge(engine, Picture(NOISY.astype(np.uint16) * 257), scale=scale).pixels
    assert shallow.shape == deep.shape == (scale * len(NOISY), scale * NOISY.shape[1], 3)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - shallow).max() <= 0.51
    assert len(np.unique(deep)) > 10 * len(np.unique(shallow))


def test_gray_stays_gray(engine: LocalEngine) -> None:
    gray = np.ascontiguousarray(NOISY[..., 1:2])
    alone = enlarge(engine, Picture(gray)).pixels
    assert alone.shape == (4 * len(gray), 4 * gray.shape[1], 1)
    colored = enlarge(engine, Picture(gray.repeat(3, axis=-1))).pixels
    assert np.abs(colored.astype(int) - alone).max() <= 12


def test_hidden_colors_do_not_come_through_and_alpha_is_enlarged(engine: LocalEngine) -> None:
    alpha = np.zeros(NOISY.shape[:2], np.uint8)
    alpha[:, 40:] = 255
    hidden = NOISY.copy()
    hidden[:, :40] = (255, 0, 255)
    one, other = (enlarge(engine, Picture(pixels, alpha)) for pixels in (NOISY, hidden))
    assert one.alpha is not None
    assert one.alpha.shape == one.pixels.shape[:2]
    opaque = one.alpha == 255
    assert 0.5 < opaque.mean() < 0.65
    np.testing.assert_array_equal(one.pixels[opaque], other.pixels[opaque])


def test_denoise_says_how_much_grain_goes(engine: LocalEngine) -> None:
    none, half, all_of_it = (roughness(enlarge(engine, Picture(NOISY), denoise=share).pixels) for share in (0, 0.5, 1))
    assert none > half > all_of_it
    assert roughness(enlarge(engine, Picture(CLEAN)).pixels) < none
