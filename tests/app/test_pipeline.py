"""From uploads to bytes."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest

from app.engine.latency_model import LatencyModel
from app.engine.protocol import RequestContext
from app.errors import ResultTooLarge
from app.imaging import codec
from app.imaging.codec import Output
from app.imaging.picture import Picture
from app.limits.pixel_budget import PixelBudget
from app.pipeline import Encoded, ImagePipeline, ImageRequest, Upload
from app.tasks import superres
from tests.engines import FunctionEngine, enlarge
from tests.model_repository import manifest, superres_signatures

NEAREST = manifest("superres", "nearest", signatures=superres_signatures(2))


class Enlarger(FunctionEngine):
    """An engine of one device that repeats each pixel."""

    def __init__(self) -> None:
        super().__init__(enlarge(2), NEAREST)
        self.latency = LatencyModel()
        self.worker_count = 1


class Silent:
    """Counts nothing."""

    def count_pixels(self, task: str, pixels: int) -> None: ...

    def observe_stage(self, task: str, stage: str, seconds: float) -> None: ...


def enlarged(engine: Enlarger, max_output_pixels: int) -> Encoded:
    """Return a picture of 10 × 10 pixels enlarged twice."""
    data, _ = codec.encode(Picture(np.zeros((10, 10, 3), np.uint8)), Output("png"))
    upload = Upload(io.BytesIO(data), len(data), "a.png")
    pipeline = ImagePipeline(
        engine, Silent(), budget=PixelBudget(1), max_pixels=10**6, max_output_pixels=max_output_pixels
    )
    request = ImageRequest(superres.TASK, superres.SuperresOptions(), Output("auto"), {"image": upload}, None)
    return asyncio.run(pipeline.run(request, RequestContext("test")))


def test_result_too_large_is_refused_before_any_work() -> None:
    encoded = enlarged(Enlarger(), 400)
    assert (encoded.width, encoded.height, encoded.media_type) == (20, 20, "image/png")
    engine = Enlarger()
    with pytest.raises(ResultTooLarge) as caught:
        enlarged(engine, 399)
    assert (caught.value.limit, caught.value.value) == (399, 400)
    assert "100 pixels enlarged 2 times in width and height would be 400 pixels" in caught.value.detail
    assert engine.requests == []


def fingerprint(data: bytes) -> tuple[int, int]:
    return Upload(io.BytesIO(data), len(data), "picture.jpg").fingerprint()


def test_a_file_has_one_fingerprint_and_another_of_its_size_has_another() -> None:
    for size in (3, 200_000):  # shorter than what is summed up, and longer
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert fingerprint(data) == fingerprint(bytes(data))
        assert fingerprint(data)[0] == size
        assert fingerprint(data) != fingerprint(data[:-1] + b"x")
        assert fingerprint(data) != fingerprint(data[:-1])


def test_fingerprints_leave_the_file_to_be_read() -> None:
    upload = Upload(io.BytesIO(b"picture"), 7, "picture.jpg")
    upload.fingerprint()
    assert upload.read() == b"picture"
