"""Holes of any size through a network of few: on a picture that is a plane, a model that fits planes is exact."""

from __future__ import annotations

import asyncio
from typing import Any

import cv2
import numpy as np
import pytest

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.errors import ModelUnavailable
from app.imaging.tiles import Box
from app.tasks.inpaint.neural import fill
from models.manifest import Geometry
from tests.engines import FunctionEngine
from tests.model_repository import CANONICAL, inpaint_signatures, manifest

SIZES = Geometry(kind="canonical", multiple=64, canonical_sizes=[(256, 256), (384, 384)])
MODEL = manifest("inpaint", "planes", signatures=inpaint_signatures(), geometry=SIZES)


class Planes:
    """Fits a plane to what is known of each channel, and fills with it; keeps what it was asked."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        self.shares: list[float] = []

    def __call__(self, request: InferenceRequest) -> Arrays:
        image, mask = request.inputs["image"][0], request.inputs["mask"][0, ..., 0]
        self.sizes.append(image.shape[:2])
        self.shares.append(float(mask.mean()))
        assert request.pixels == mask.size
        assert (image[mask > 0] == 0).all()
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
        places = np.stack([rows, columns, np.ones_like(rows)], -1).astype(np.float64)
        known = mask == 0
        planes = np.linalg.lstsq(places[known], image[known].astype(np.float64), rcond=None)[0]
        filled = np.where(known[..., None], image, places @ planes)
        return {"image": filled[None].astype(np.float32)}


def plane(height: int, width: int, channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    bands = [0.1 + 0.4 * rows + 0.3 * columns, 0.9 - 0.5 * rows, 0.2 + 0.7 * columns]
    return np.stack(bands[:channels], -1).astype(np.float32)


def filled(image: np.ndarray, missing: np.ndarray, model: Any = None) -> np.ndarray:
    engine = FunctionEngine(model or Planes(), MODEL)
    spoilt = np.where(missing[..., None], 7, image).astype(np.float32)
    return asyncio.run(fill(spoilt, missing, MODEL, engine, RequestContext("test")))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((300, 400), (100, 120, 150, 200)),  # in the middle
        ((300, 400), (0, 0, 60, 60)),  # in a corner
        ((300, 400), (299, 399, 300, 400)),  # one pixel
        ((40, 90), (5, 10, 30, 60)),  # a picture smaller than any window
        ((30, 700), (5, 100, 30, 130)),  # narrower than any window
        ((900, 1000), (100, 150, 700, 850)),  # larger than any window: coarse to fine
        ((900, 1000), (0, 0, 900, 700)),  # most of it
    ],
)
def test_a_hole_is_filled_wherever_and_however_large(
    size: tuple[int, int], box: tuple[int, int, int, int], channels: int
) -> None:
    image, missing = plane(*size, channels), np.zeros(size, bool)
    missing[box[0] : box[2], box[1] : box[3]] = True
    result = filled(image, missing)
    np.testing.assert_array_equal(result[~missing], image[~missing])
    # Halving moves a plane's value by half a pixel's step at odd ends, and its enlargement has flat ends: a few
    # hundredths in the corner of a picture that lies deep in a hole.
    error = np.abs(result - image)[missing]
    assert error.max() < 0.04
    assert error.mean() < 0.01


def test_holes_apart_have_windows_of_their_own_and_long_ones_parts() -> None:
    missing = np.zeros((1200, 1500), np.uint8)
    missing[20:30, 20:30] = missing[600:650, 1300:1400] = 1
    cv2.line(missing, (100, 1100), (1200, 100), 1, 4)
    model = Planes()
    result = filled(plane(1200, 1500), missing.view(bool), model)
    assert np.abs(result - plane(1200, 1500)).max() < 1e-3
    assert 5 < len(model.sizes) < 25
    assert set(model.sizes) == {(256, 256), (384, 384)}
    assert max(model.shares) < 0.4


def test_only_what_is_wanted_is_filled() -> None:
    image, missing = plane(300, 700), np.zeros((300, 700), bool)
    missing[100:110, 100:110] = missing[100:110, 600:610] = True
    model = Planes()
    wanted = Box(90, 80, 120, 105)  # half of the first
    spoilt = np.where(missing[..., None], 7, image).astype(np.float32)
    result = asyncio.run(fill(spoilt, missing, MODEL, FunctionEngine(model, MODEL), RequestContext("test"), wanted))
    assert len(model.sizes) == 1
    np.testing.assert_allclose(result[:, :600], image[:, :600], atol=1e-4)
    assert (result[100:110, 600:610] == 7).all()


def test_a_model_that_gives_no_numbers_or_has_no_size() -> None:
    missing = np.zeros((100, 100), bool)
    missing[40:50, 40:50] = True
    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        filled(plane(100, 100), missing, lambda request: {"image": request.inputs["image"] + np.nan})
    small = MODEL.model_copy(update={"geometry": CANONICAL})
    with pytest.raises(ModelUnavailable, match="canonical sizes of the model"):
        asyncio.run(fill(plane(100, 100), missing, small, FunctionEngine(Planes(), small), RequestContext("test")))
