"""Wide holes are copied from their surroundings, thin ones are the model's, and neither takes more than it may."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.protocol import RequestContext
from app.errors import DeadlineExceeded, MaskEmpty, MaskFull, WorkTooLarge
from app.imaging.exemplar import fill as exemplar_fill
from app.imaging.picture import Picture
from app.tasks.base import TaskResult
from app.tasks.inpaint import plan
from app.tasks.inpaint.task import InpaintOptions, inpaint
from tests.app.imaging.exemplar.test_fill import make_stripes
from tests.app.imaging.samples import noise
from tests.app.tasks.inpaint.test_neural import MODEL, Planes
from tests.engines import FunctionEngine


def never(request: Any) -> Any:
    raise AssertionError(request)


NOTHING = FunctionEngine(never)


def filled(
    image: Picture,
    hole: np.ndarray,
    engine: FunctionEngine = NOTHING,
    context: RequestContext | None = None,
    **options: Any,
) -> TaskResult:
    mask = Picture(np.where(hole[..., None], np.uint8(255), np.uint8(0)))
    return asyncio.run(inpaint(image, InpaintOptions(**options), engine, context or RequestContext("test"), mask=mask))


def holes(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def test_auto_copies_into_wide_holes_and_runs_the_model_for_thin_ones() -> None:
    image = Picture(make_stripes(400, 600))
    hole = holes(400, 600, (100, 100, 140, 150), (300, 50, 304, 500), (50, 400, 58, 408))
    answer = filled(image, hole, FunctionEngine(Planes(), MODEL))
    assert answer.decisions["method"] == "exemplar:1+neural:2"  # 8 pixels are thin
    assert answer.model == "inpaint/planes@1"
    wide = holes(400, 600, (100, 100, 140, 150))
    assert (np.abs(answer.picture.pixels[wide].astype(int) - image.pixels[wide]) < 25).mean() > 0.97
    assert filled(image, hole, FunctionEngine(Planes(), MODEL), method="neural").decisions["method"] == "neural:3"
    assert filled(image, hole, FunctionEngine(Planes(), MODEL), method="exemplar").decisions["method"] == "exemplar:3"


def test_auto_gives_thin_holes_the_grain_around_them_and_neural_does_not() -> None:
    noisy = Picture(np.asarray(np.clip(np.random.default_rng(0).normal(128, 10, (160, 200, 3)), 0, 255), np.uint8))
    scratch = holes(160, 200, (70, 10, 75, 190))
    deviations = {
        method: filled(noisy, scratch, FunctionEngine(Planes(), MODEL), method=method).picture.pixels[scratch].std()
        for method in ("auto", "neural")
    }
    assert deviations["neural"] < 1
    assert deviations["auto"] == pytest.approx(10, rel=0.15)


def test_the_model_is_asked_once_for_a_small_picture_of_a_wide_hole() -> None:
    model = Planes()
    filled(Picture(noise(500, 700, 3)), holes(500, 700, (100, 100, 300, 500)), FunctionEngine(model, MODEL))
    assert model.sizes == [(256, 256)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_outside_the_enlarged_mask_nothing_changes(dtype: Any, channels: int, alpha: bool) -> None:
    pixels = make_stripes(160, 200, channels, dtype)
    white = np.iinfo(dtype).max
    image = Picture(pixels, (noise(160, 200, 1, dtype)[..., 0] // 4 + white // 2).astype(dtype) if alpha else None)
    hole = holes(160, 200, (60, 60, 100, 120))
    answer = filled(image, hole, method="exemplar", dilate=4, feather=6)
    away = np.ones((160, 200), bool)
    away[50:110, 50:130] = False
    np.testing.assert_array_equal(answer.picture.pixels[away], image.pixels[away])
    assert answer.picture.pixels.dtype == dtype
    if alpha:
        assert answer.picture.alpha is not None
        assert image.alpha is not None
        np.testing.assert_array_equal(answer.picture.alpha[away], image.alpha[away])
        assert answer.picture.alpha[hole].min() > white // 3


def test_an_extended_canvas_is_filled() -> None:
    true = make_stripes(200, 260)
    alpha = np.full((200, 260), 255, np.uint8)
    alpha[:, 200:] = alpha[:30] = 0
    image = Picture(np.where(alpha[..., None] > 0, true, 0).astype(np.uint8), alpha)
    options = InpaintOptions(mask_from="alpha", method="exemplar")
    answer = asyncio.run(inpaint(image, options, NOTHING, RequestContext("test")))
    assert answer.picture.alpha is None
    new = answer.picture.pixels[alpha == 0].astype(int)
    light, dark = (np.abs(new - color).max(axis=-1) < 25 for color in ((200, 180, 90), (60, 70, 130)))
    assert (light | dark).mean() > 0.95


def test_too_few_known_pixels_are_the_models_and_said() -> None:
    image, hole = Picture(noise(80, 80, 3)), holes(80, 80, (5, 5, 75, 75))
    answer = filled(image, hole, FunctionEngine(Planes(), MODEL), method="exemplar")
    assert answer.decisions["method"] == "neural:1"
    assert answer.decisions["not-exemplar"] == "too-few-known-pixels:1"
    assert filled(image, hole).decisions["method"] == "ns:1"


def test_too_much_is_refused_before_it_starts_and_left_to_the_model_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    image, hole = Picture(noise(300, 300, 3)), holes(300, 300, (50, 50, 90, 90), (200, 200, 240, 240))
    monkeypatch.setattr(plan, "MAX_EXEMPLAR_TOTAL", 3000)
    with pytest.raises(WorkTooLarge, match="3200 in total"):
        filled(image, hole, method="exemplar")
    answer = filled(image, hole, FunctionEngine(Planes(), MODEL))
    assert answer.decisions["not-exemplar"] == "too-large:2"
    monkeypatch.setattr(plan, "MAX_WINDOW", 10_000)
    with pytest.raises(WorkTooLarge, match="10000 for a hole with its surroundings"):
        filled(image, holes(300, 300, (50, 50, 90, 90)), method="exemplar")


def test_the_work_for_scattered_holes_is_in_proportion_to_the_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = []
    real = exemplar_fill.fill

    def count(planes: Any, unknown: Any, hole: Any, *rest: Any, **named: Any) -> Any:
        windows.append(hole.size)
        return real(planes, unknown, hole, *rest, **named)

    monkeypatch.setattr(exemplar_fill, "fill", count)
    boxes = [(40 + 150 * i, 40 + 60 * j, 70 + 150 * i, 70 + 60 * j) for i in range(3) for j in range(12)]
    answer = filled(Picture(noise(500, 800, 3)), holes(500, 800, *boxes))
    assert answer.decisions["method"] == "exemplar:36"
    assert max(windows) <= (30 + 2 * plan.NEAREST) ** 2


def test_a_deadline_ends_the_work_between_levels() -> None:
    context = replace(RequestContext("test"), deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        filled(Picture(noise(160, 160, 3)), holes(160, 160, (60, 60, 100, 100)), context=context)


def test_a_cancelled_request_stops_at_the_next_level(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled, ended = threading.Event(), threading.Event(), threading.Event()

    def wait(*_: Any, check: Any, **__: Any) -> Any:
        begun.set()
        assert cancelled.wait(30)
        try:
            check()
        except DeadlineExceeded:
            ended.set()
            raise

    monkeypatch.setattr(exemplar_fill, "fill", wait)
    mask = Picture(holes(160, 160, (60, 60, 100, 100))[..., None].astype(np.uint8))

    async def hurried() -> None:
        options = InpaintOptions(method="exemplar")
        work = asyncio.create_task(
            inpaint(Picture(noise(160, 160, 3)), options, NOTHING, RequestContext("x"), mask=mask)
        )
        while not begun.is_set():
            await asyncio.sleep(0.001)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        cancelled.set()

    asyncio.run(hurried())
    assert ended.wait(30)


def test_time_on_the_processor_is_counted_as_that_of_the_device() -> None:
    context = RequestContext("test")
    image, hole = Picture(noise(160, 160, 3)), holes(160, 160, (60, 60, 100, 100))
    filled(image, hole, context=context)
    assert context.usage.device_seconds > 0
    engine, other = FunctionEngine(never), RequestContext("test")
    engine.accelerated = True
    filled(image, hole, engine, other)
    assert other.usage.device_seconds == 0


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_mask_gets_an_answer(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    hole = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(1, 5))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        hole[top : top + data.draw(st.integers(1, height)), left : left + data.draw(st.integers(1, width))] = True
    image = Picture(
        noise(height, width, data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from([np.uint8, np.uint16])))
    )
    engine = FunctionEngine(Planes(), MODEL) if data.draw(st.booleans()) else NOTHING
    try:
        answer = filled(image, hole, engine, method=data.draw(st.sampled_from(["auto", "exemplar"])))
    except (MaskFull, MaskEmpty):
        assert hole.all()
        return
    np.testing.assert_array_equal(answer.picture.pixels[~hole], image.pixels[~hole])
