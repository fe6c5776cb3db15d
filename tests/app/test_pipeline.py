"""From uploads to bytes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from app.engine.latency_model import LatencyModel
from app.engine.protocol import BACKGROUND, Arrays, InferenceRequest, RequestContext
from app.errors import ResultTooLarge, WorkTooLarge
from app.imaging import codec
from app.imaging.codec import Output
from app.imaging.picture import Picture
from app.limits.admission import Admission
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


def make_pipeline(engine: Enlarger, max_output_pixels: int = 10**7, max_pixels: int = 10**6) -> ImagePipeline:
    return ImagePipeline(
        engine, Silent(), budget=PixelBudget(100), max_pixels=max_pixels, max_output_pixels=max_output_pixels
    )


def make_request(width: int, height: int) -> ImageRequest:
    """Ask for a black picture to be enlarged twice."""
    data, _ = codec.encode(Picture(np.zeros((height, width, 3), np.uint8)), Output("png"))
    upload = Upload(io.BytesIO(data), len(data), "a.png")
    return ImageRequest(superres.TASK, superres.SuperresOptions(), Output("auto"), {"image": upload}, None)


def enlarged(engine: Enlarger, max_output_pixels: int) -> Encoded:
    """Return a picture of 10 × 10 pixels enlarged twice."""
    pipeline = make_pipeline(engine, max_output_pixels)
    return asyncio.run(pipeline.run(make_request(10, 10), RequestContext("test")))


def test_result_too_large_is_refused_before_any_work() -> None:
    encoded = enlarged(Enlarger(), 400)
    assert (encoded.width, encoded.height, encoded.media_type) == (20, 20, "image/png")
    engine = Enlarger()
    with pytest.raises(ResultTooLarge) as caught:
        enlarged(engine, 399)
    assert (caught.value.limit, caught.value.value) == (399, 400)
    assert "100 pixels enlarged 2 times in width and height would be 400 pixels" in caught.value.detail
    assert engine.requests == []


def count_pixels_computed(engine: Enlarger) -> int:
    return sum(request.pixels for request in engine.requests)


@pytest.mark.parametrize("size", [(10, 10), (4000, 1), (3, 1000), (300, 200)])
def test_admission_goes_by_the_pixels_that_are_computed(size: tuple[int, int]) -> None:
    engine = Enlarger()
    pipeline = make_pipeline(engine)
    seen: list[int] = []

    class Recording(Admission):
        @contextmanager
        def enter(self, kind: str, work: int, *rest: Any) -> Iterator[float]:
            seen.append(work)
            with super().enter(kind, work, *rest) as due:
                yield due

    pipeline.admission = Recording(engine.latency)
    asyncio.run(pipeline.run(make_request(*size), RequestContext("test")))
    assert seen == [count_pixels_computed(engine)]


def test_memory_is_held_for_whole_tiles() -> None:
    engine = Enlarger()
    pipeline = make_pipeline(engine)
    held: list[float] = []

    def note(request: InferenceRequest) -> Arrays:
        held.append(pipeline.budget.used)
        return enlarge(2)(request)

    engine.function = note
    step = NEAREST.geometry.tile_step
    asyncio.run(pipeline.run(make_request(4000, 1), RequestContext("test")))
    assert set(held) == {-(-4000 // step) * step * step * (1 + 2**2) / 1e6}


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000)])
def test_a_picture_too_thin_for_its_pixels_is_refused_before_any_work(size: tuple[int, int]) -> None:
    engine = Enlarger()
    pipeline = make_pipeline(engine, max_pixels=40_000)
    for context in (RequestContext("direct"), RequestContext("job", weight=BACKGROUND)):
        with pytest.raises(WorkTooLarge) as caught:
            asyncio.run(pipeline.run(make_request(*size), context))
        assert caught.value.field == "image"
        assert f"{size[0]}×{size[1]}" in caught.value.detail
    with pytest.raises(WorkTooLarge):
        asyncio.run(pipeline.measure(make_request(*size), "test"))  # as for a new job
    assert engine.requests == []


@pytest.mark.parametrize("size", [(200, 200), (400, 100), (1000, 40), (4, 4)])
def test_pictures_of_usual_proportions_are_not_too_thin(size: tuple[int, int]) -> None:
    asyncio.run(make_pipeline(Enlarger(), max_pixels=40_000).measure(make_request(*size), "test"))


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
