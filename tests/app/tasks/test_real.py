"""Both tasks with a real engine and real, tiny SavedModels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.local import LocalEngine
from app.engine.protocol import RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.errors import DeadlineExceeded, InvalidField
from app.imaging.picture import Picture
from app.tasks.denoise import DenoiseOptions, denoise
from app.tasks.superres import SuperresOptions, superres
from tests.model_repository import tiny_repository as tiny_repository

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def registry(tiny_repository: Path) -> Registry:
    return Registry([tiny_repository], Runtime())


@pytest.fixture
def engine(registry: Registry) -> Iterator[LocalEngine]:
    engine = LocalEngine(registry)
    yield engine
    asyncio.run(engine.close(30))


def picture(height: int, width: int, seed: int = 1, channels: int = 3) -> Picture:
    return Picture(np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8))


def blurred(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the 3x3 mean of a picture in its frame: reflected up to whole steps of 32, zeros around that."""
    height, width = pixels.shape[:2]
    frame = [(0, -side % 32) for side in (height, width)]
    padded = np.pad(np.pad(pixels.astype(np.float64), [*frame, (0, 0)], mode="reflect"), [(1, 1), (1, 1), (0, 0)])
    total = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
    return np.asarray(total / 9)


@pytest.mark.parametrize("size", [(2, 2), (17, 31), (64, 64), (67, 130), (5, 301)])
def test_tiles_show_no_seams(engine: LocalEngine, size: tuple[int, int]) -> None:
    image = picture(*size)
    answer = asyncio.run(denoise(image, DenoiseOptions(model="blur"), engine, RequestContext("test")))
    assert np.abs(answer.picture.pixels - blurred(image.pixels)).max() <= 0.501


def test_strength_is_estimated_or_told(engine: LocalEngine) -> None:
    image = picture(100, 120)
    flat = Picture(np.full((100, 120, 3), 128, np.uint8))
    noisy = asyncio.run(denoise(image, DenoiseOptions(), engine, RequestContext("test")))
    still = asyncio.run(denoise(flat, DenoiseOptions(), engine, RequestContext("test")))
    assert (
        0.05 < float(noisy.decisions["strength"]) < 0.12
    )  # the variance of uniform noise is 1/12, an eighth less here
    assert float(still.decisions["strength"]) < 0.02
    told = asyncio.run(denoise(image, DenoiseOptions(strength=1.0), engine, RequestContext("test")))
    assert np.abs(told.picture.pixels - blurred(image.pixels)).max() <= 0.501
    assert told.seconds["model"] > 0


def test_scales(engine: LocalEngine) -> None:
    image = picture(41, 39)
    for scale in (2, 3):
        options = SuperresOptions(scale=scale)
        answer = asyncio.run(superres(image, options, engine, RequestContext("test")))
        expected = image.pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        np.testing.assert_array_equal(answer.picture.pixels, expected)
    with pytest.raises(InvalidField, match="Scales: 2, 3"):
        asyncio.run(superres(image, SuperresOptions(scale=4), engine, RequestContext("test")))


def test_fifty_at_once_each_get_their_own_picture(engine: LocalEngine) -> None:
    images = [picture(30 + i, 70 - i, seed=i) for i in range(50)]

    async def work() -> list[Any]:
        calls = [
            denoise(image, DenoiseOptions(model="identity"), engine, RequestContext(f"request {i}", f"client {i % 7}"))
            for i, image in enumerate(images)
        ]
        return await asyncio.gather(*calls)

    for image, answer in zip(images, asyncio.run(work()), strict=True):
        np.testing.assert_array_equal(answer.picture.pixels, image.pixels)


def test_same_request_gives_the_same_bytes_whatever_the_load(engine: LocalEngine) -> None:
    image = picture(150, 150)

    async def one(number: int) -> bytes:
        answer = await denoise(image, DenoiseOptions(strength=0.37), engine, RequestContext(str(number), str(number)))
        return bytes(answer.picture.pixels.tobytes())

    async def many() -> set[bytes]:
        return set(await asyncio.gather(*(one(number) for number in range(8))))

    assert {asyncio.run(one(0))} == asyncio.run(many())


def test_deadline_of_the_past(engine: LocalEngine) -> None:
    with pytest.raises(DeadlineExceeded):
        asyncio.run(denoise(picture(9, 9), DenoiseOptions(), engine, RequestContext("test", deadline=1.0)))
    asyncio.run(denoise(picture(9, 9), DenoiseOptions(), engine, RequestContext("test")))
