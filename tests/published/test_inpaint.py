"""The published inpainting models fill holes, and leave every other pixel as it was, through the real engine."""

from __future__ import annotations

import asyncio
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from app.engine.local import LocalEngine
from app.engine.protocol import RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.picture import Picture
from app.tasks.base import TaskResult
from app.tasks.inpaint.task import InpaintOptions, inpaint
from models.manifest import read
from tests.published.test_repository import FOLDERS, PUBLISHED

pytestmark = pytest.mark.tf

SIZES = {"photo": (150, 310), "mountain": (100, 124), "mountain-autoencoder": (100, 124), "digits": (28, 28)}
MODELS = [found for found in map(read, FOLDERS) if found.task == "inpaint"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([PUBLISHED], Runtime())


def filled(registry: Registry, picture: Picture, missing: np.ndarray, **options: Any) -> TaskResult:
    async def asked() -> TaskResult:
        engine = LocalEngine(registry)
        try:
            mask = Picture((missing * 255).astype(np.uint8)[..., None])
            return await inpaint(picture, InpaintOptions(**options), engine, RequestContext("test"), mask=mask)
        finally:
            await engine.close(60)

    return asyncio.run(asked())


def error(answer: TaskResult, true: Picture, missing: np.ndarray) -> float:
    """Return the root mean square error where `missing`, of the range."""
    difference = answer.picture.pixels[missing].astype(float) - true.pixels[missing]
    return float(np.sqrt(np.mean((difference / true.maximum) ** 2)))


@pytest.mark.parametrize("name", [found.name for found in MODELS])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("dilate", "feather"), [(0, 0), (1, 2)])
def test_the_rest_of_the_picture_is_as_it_was(
    name: str, dtype: Any, dilate: int, feather: int, registry: Registry
) -> None:
    height, width = SIZES[name]
    channels = 1 if name == "digits" else 3
    random = np.random.default_rng(0)
    pixels = random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)
    missing = np.zeros((height, width), np.uint8)
    missing[5:9, 8:20] = 1
    cv2.line(missing, (2, height - 4), (width - 3, height - 8), 1, 2)
    method = "dcgan" if name == "digits" else "neural"
    answer = filled(registry, Picture(pixels), missing > 0, method=method, model=name, dilate=dilate, feather=feather)
    distance = cv2.distanceTransform(1 - missing, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    far = distance > dilate + feather
    np.testing.assert_array_equal(answer.picture.pixels[far], pixels[far])
    assert (answer.picture.pixels[missing > 0] != pixels[missing > 0]).any()


def test_photo_goes_on_with_what_is_around(registry: Registry) -> None:
    true = Picture(np.ascontiguousarray(skimage.data.coffee()[:300, :400]))
    missing = np.zeros((300, 400), np.uint8)
    cv2.line(missing, (20, 280), (380, 30), 1, 4)
    missing[200:290, 300:390] = 1  # thick: coarse to fine
    network = error(filled(registry, true, missing > 0), true, missing > 0)
    assert network < error(filled(registry, true, missing > 0, method="ns"), true, missing > 0)


def test_digits_are_completed(registry: Registry) -> None:
    drawn = np.zeros((224, 224), np.uint8)
    cv2.ellipse(drawn, (112, 112), (44, 68), 0, 0, 360, 255, 20)
    true = Picture(cv2.resize(drawn, (28, 28), interpolation=cv2.INTER_AREA)[..., None])
    missing = np.zeros((28, 28), bool)
    missing[9:19, 14:24] = True
    searched = filled(registry, true, missing, method="dcgan", model="digits")
    assert searched.model.startswith("inpaint/digits@")
    mean = np.sqrt(np.mean((true.pixels[missing] / 255 - true.pixels[~missing].mean() / 255) ** 2))
    assert error(searched, true, missing) < 0.7 * mean
