"""`superres/photo` as the service runs it: pictures however they were reduced, and the figures that it was made for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

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
from app.tasks.base import TaskResult
from app.tasks.superres import SuperresOptions, superres
from models.manifest import Manifest, QualityTable, read
from tests.published.test_repository import FOLDERS, PUBLISHED
from training.data import reductions

pytestmark = pytest.mark.tf

ASKED = [37.95, 34.1, 32.1, 33.45, 30.1, 28.45, 32.05, 28.95, 27.5]
"""Y PSNR of Set5, Set14 and B100 at ×2, ×3 and ×4."""
Scale = Literal[2, 3, 4]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return next(found for found in map(read, FOLDERS) if (found.task, found.name) == ("superres", "photo"))


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([PUBLISHED], Runtime())


@pytest.fixture
def engine(registry: Registry) -> Iterator[LocalEngine]:
    engine = LocalEngine(registry)
    yield engine
    asyncio.run(engine.close(60))


def table(manifest: Manifest, title: str) -> QualityTable:
    return next(one for one in manifest.quality if one.title.startswith(title))


def numbers(row: list[Any]) -> NDArray[np.float64]:
    return np.array(row[1:], np.float64).round(2)


def enlarge(engine: LocalEngine, small: NDArray[np.uint8], scale: Scale) -> TaskResult:
    options = SuperresOptions(model="photo", scale=scale)
    return asyncio.run(superres(Picture(small), options, engine, RequestContext("test")))


def share(result: TaskResult) -> float:
    return float(result.decisions["unfiltered"])


def error(large: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    return float(np.mean((large.astype(float) - truth) ** 2))


def test_no_figure_is_below_what_was_asked(manifest: Manifest) -> None:
    ours = table(manifest, "Y PSNR in dB").rows[-1]
    assert ours[0] == "superres/photo"
    assert (numbers(ours) >= ASKED).all()


def test_no_reduction_is_below_bicubic_enlargement(manifest: Manifest) -> None:
    rows = table(manifest, "Y PSNR in dB by how").rows
    assert [row[0] for row in rows] == list(reductions.REDUCTIONS)
    for row in rows:
        bicubic, ours = numbers(row)[::2], numbers(row)[1::2]
        assert (ours >= bicubic).all(), row[0]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_the_service_finds_how_a_picture_was_reduced(engine: LocalEngine, name: str, scale: Scale) -> None:
    large = getattr(skimage.data, name)()[:288, 60:348]
    filtered = reductions.bicubic(large, scale)
    unfiltered = reductions.unfiltered(large, scale)
    results = [enlarge(engine, small, scale) for small in (filtered, unfiltered)]
    assert share(results[0]) < 0.1
    assert share(results[1]) > 0.9
    for small, result in zip((filtered, unfiltered), results, strict=True):
        plain = cv2.resize(small, large.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        assert error(result.picture.pixels, large) <= 1.02 * error(plain, large)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 5), (64, 80)])
def test_flat_and_tiny_pictures_get_the_exit_for_filtered_ones(engine: LocalEngine, height: int, width: int) -> None:
    result = enlarge(engine, np.full((height, width, 3), 90, np.uint8), 2)
    assert share(result) < 0.1
    assert np.abs(result.picture.pixels.astype(int) - 90).max() <= 2
