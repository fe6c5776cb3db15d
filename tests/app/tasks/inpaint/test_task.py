"""Holes are filled whatever the method, the rest of the picture is as it was, and too much work is refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.errors import (
    ConflictingFields,
    MaskEmpty,
    MaskFull,
    MaskSize,
    UnknownModel,
    WorkTooLarge,
    WrongSize,
)
from app.imaging.picture import Picture
from app.tasks import inpaint as task
from app.tasks.base import TaskResult
from app.tasks.inpaint.task import InpaintOptions, inpaint
from models.manifest import Geometry, Manifest, Signature, SizeRule, Tensor
from tests.app.imaging.samples import smooth
from tests.app.tasks.inpaint.test_neural import MODEL, Planes
from tests.engines import FunctionEngine
from tests.model_repository import manifest
from tests.model_repository import picture as shape

METHODS = ("auto", "exemplar", "telea", "ns", "biharmonic")


def picture(channels: int = 3, dtype: Any = np.uint8, alpha: bool = False) -> Picture:
    pixels = smooth(120, 160, 4, dtype)
    return Picture(np.ascontiguousarray(pixels[..., :channels]), pixels[..., 3].copy() if alpha else None)


def mask(height: int = 120, width: int = 160, value: int = 255) -> Picture:
    white = np.zeros((height, width, 1), np.uint8)
    cv2.line(white, (10, 100), (150, 20), value, 3)
    white[60:68, 100:112] = value
    return Picture(white)


def never(request: Any) -> Any:
    raise AssertionError(request)


NOTHING = FunctionEngine(never)


def filled(image: Picture, engine: FunctionEngine = NOTHING, *, mask: Picture | None, **options: Any) -> TaskResult:
    return asyncio.run(inpaint(image, InpaintOptions(**options), engine, RequestContext("test"), mask=mask))


def spoiled(image: Picture, where: np.ndarray) -> Picture:
    pixels = image.pixels.copy()
    pixels[where] = image.maximum
    return Picture(pixels, image.alpha)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
def test_the_rest_of_the_picture_is_as_it_was(method: str, channels: int, dtype: Any, alpha: bool) -> None:
    true, hole = picture(channels, dtype, alpha), mask()
    missing = hole.pixels[..., 0] > 0
    answer = filled(spoiled(true, missing), mask=hole, method=method)
    np.testing.assert_array_equal(answer.picture.pixels[~missing], true.pixels[~missing])
    error = np.abs(answer.picture.pixels[missing].astype(float) - true.pixels[missing]) / true.maximum
    assert error.mean() < 0.01
    assert answer.decisions["missing"] == str(np.count_nonzero(missing))
    if alpha:
        assert answer.picture.alpha is not None
        assert true.alpha is not None
        np.testing.assert_array_equal(answer.picture.alpha[~missing], true.alpha[~missing])
        off = np.abs(answer.picture.alpha[missing].astype(float) - true.alpha[missing]) / true.maximum
        assert off.mean() < 0.01


@pytest.mark.parametrize(("dilate", "feather"), [(0, 6), (4, 0), (5, 7)])
def test_outside_the_widened_and_faded_mask_nothing_changes(dilate: int, feather: int) -> None:
    image, hole = picture(), Picture(np.zeros((120, 160, 1), np.uint8))
    hole.pixels[50:60, 70:80] = 255
    answer = filled(image, mask=hole, method="telea", dilate=dilate, feather=feather)
    rows, columns = np.mgrid[:120, :160]
    away = np.hypot(
        np.maximum(np.maximum(50 - rows, rows - 59), 0), np.maximum(np.maximum(70 - columns, columns - 79), 0)
    )
    np.testing.assert_array_equal(answer.picture.pixels[away > dilate + feather], image.pixels[away > dilate + feather])
    spoilt = filled(spoiled(image, away <= dilate), mask=hole, method="telea", dilate=dilate, feather=feather)
    # What the widened mask covers is not seen at all, even where the filling fades.
    assert np.abs(spoilt.picture.pixels.astype(int) - image.pixels).max() < 25


def test_a_fade_goes_from_the_filling_to_the_picture() -> None:
    image = Picture(np.full((60, 60, 1), 200, np.uint8))
    image.pixels[20:40, 20:40] = 0
    hole = Picture(np.zeros((60, 60, 1), np.uint8))
    hole.pixels[28:32, 28:32] = 255
    row = filled(image, mask=hole, method="ns", dilate=12, feather=8).picture.pixels[30, :, 0]
    # The dark square lies in the widened mask; what is filled is as light as the rest.
    assert (np.abs(row.astype(int) - 200) <= 3).all()
    step = filled(image, mask=hole, method="ns", dilate=4, feather=8).picture.pixels[30, 30:45, 0].astype(int)
    assert step[0] > 100
    assert step[9] < step[0]


def test_transparency_is_a_mask() -> None:
    true = picture()
    alpha = np.full((120, 160), 255, np.uint8)
    alpha[40:60, 50:80] = 0
    alpha[60, 50:80] = 128
    image = Picture(np.where(alpha[..., None] > 0, true.pixels, 0).astype(np.uint8), alpha)
    answer = filled(image, mask=None)
    assert answer.picture.alpha is None
    np.testing.assert_array_equal(answer.picture.pixels[alpha == 255], true.pixels[alpha == 255])
    assert np.abs(answer.picture.pixels.astype(int) - true.pixels).max() < 12
    with pytest.raises(ConflictingFields):
        filled(true, mask=None)


def test_colors_of_what_is_seen_through_do_not_spread() -> None:
    pixels, alpha = np.full((60, 60, 3), 90, np.uint8), np.full((60, 60), 255, np.uint8)
    pixels[:, :25], alpha[:, :25] = 255, 0  # invisible white beside the hole
    hole = Picture(np.zeros((60, 60, 1), np.uint8))
    hole.pixels[20:40, 20:35] = 255
    result = filled(Picture(pixels, alpha), mask=hole, method="biharmonic").picture
    assert result.alpha is not None
    seen = (hole.pixels[..., 0] > 0) & (result.alpha > 8)
    assert np.abs(result.pixels[seen].astype(int) - 90).max() <= 6


def test_masks_of_lossy_files_have_faint_black() -> None:
    faint = mask(value=255).pixels.astype(int)
    faint[:20, :20] = 9
    grey = np.clip(faint, 0, 255).astype(np.uint8)
    exact = filled(picture(), mask=Picture(grey, format="png")).decisions["missing"]
    lossy = filled(picture(), mask=Picture(grey, format="jpeg")).decisions["missing"]
    assert int(exact) - int(lossy) == 400


def test_what_a_mask_hides_itself_is_not_missing() -> None:
    white = Picture(np.full((120, 160, 3), 255, np.uint8), mask().pixels[..., 0])
    assert filled(picture(), mask=white).decisions["missing"] == filled(picture(), mask=mask()).decisions["missing"]


def test_masks_that_cannot_be() -> None:
    with pytest.raises(MaskSize, match="160×120"):
        filled(picture(), mask=mask(160, 120))
    with pytest.raises(MaskEmpty):
        filled(picture(), mask=Picture(np.zeros((120, 160, 1), np.uint8)))
    with pytest.raises(MaskFull):
        filled(picture(), mask=Picture(np.full((120, 160, 3), 1, np.uint8)))
    nearly = np.full((120, 160, 1), 255, np.uint8)
    nearly[50:60, 70:80] = 0
    for widened in ({"dilate": 12}, {"feather": 12}):
        with pytest.raises(MaskFull, match=f"Enlarged by `{next(iter(widened))}`"):
            filled(picture(), mask=Picture(nearly), **widened)
    assert filled(picture(), mask=Picture(nearly), method="ns").decisions["method"] == "ns:1"


@pytest.mark.parametrize("options", [{"radius": 0}, {"radius": 65}, {"dilate": -1}, {"feather": 65}])
def test_lengths_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        filled(picture(), mask=mask(), **options)


def test_too_much_work_is_refused_before_it_starts() -> None:
    image = Picture(np.zeros((1500, 1500, 3), np.uint8))
    hole = Picture(np.zeros((1500, 1500, 1), np.uint8))
    hole.pixels[100:500, 100:600] = 255
    with pytest.raises(WorkTooLarge, match="819200000"):
        filled(image, mask=hole, method="telea", radius=64)
    with pytest.raises(WorkTooLarge, match="160000"):
        filled(image, mask=hole, method="biharmonic")
    assert filled(image, mask=hole).decisions["method"] == "exemplar:1"


def test_each_hole_on_its_own_and_said() -> None:
    image = Picture(np.zeros((900, 1400, 1), np.uint8))
    hole = Picture(np.zeros((900, 1400, 1), np.uint8))
    hole.pixels[10:18, 10:18] = 255
    hole.pixels[400:800, 600:1000] = 255
    hole.pixels[700:702, 30:300] = 255
    assert filled(image, mask=hole).decisions == {
        "method": "biharmonic:2+exemplar:1",
        "missing": str(64 + 160000 + 540),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
def test_through_a_model(channels: int, dtype: Any, alpha: bool) -> None:
    true, hole = picture(channels, dtype, alpha), mask()
    missing = hole.pixels[..., 0] > 0
    for method in ("auto", "neural"):
        model = Planes()
        answer = filled(spoiled(true, missing), FunctionEngine(model, MODEL), mask=hole, method=method)
        assert answer.model == "inpaint/planes@1"
        assert answer.decisions["method"] == "neural:1"  # one hole with a box in it, however thin the rest
        assert answer.decisions["precision"] == "float32"
        assert len(model.sizes) == (2 if alpha else 1)
        np.testing.assert_array_equal(answer.picture.pixels[~missing], true.pixels[~missing])
        error = np.abs(answer.picture.pixels[missing].astype(float) - true.pixels[missing]) / true.maximum
        assert error.mean() < 0.05


def test_a_model_that_takes_pictures_as_they_are() -> None:
    size = Geometry(kind="whole", size_rule=SizeRule(modulus=8, remainder=4))
    blind = {"inpaint": Signature(inputs={"image": shape()}, outputs={"image": shape()})}
    model = manifest("inpaint", "blind", signatures=blind, geometry=size)
    seen: list[Any] = []

    def white(request: Any) -> Any:
        seen.append(request.inputs)
        return {"image": np.ones_like(request.inputs["image"])}

    image, hole = Picture(smooth(100, 60, 3)), mask(100, 60)
    answer = filled(image, FunctionEngine(white, model), mask=hole, method="neural")
    assert [list(inputs) for inputs in seen] == [["image"]]
    assert seen[0]["image"].shape == (1, 100, 60, 3)
    missing = hole.pixels[..., 0] > 0
    assert (answer.picture.pixels[missing] == 255).all()
    np.testing.assert_array_equal(answer.picture.pixels[~missing], image.pixels[~missing])
    with pytest.raises(WrongSize, match="a multiple of 8 plus 4 pixels"):
        filled(picture(), FunctionEngine(white, model), mask=mask(), method="neural")


def searching(calls: int) -> Manifest:
    grey = shape(1, 28)
    state = {
        "state": Tensor(shape=[-1, 2, 3], per="sample"),
        "step": Tensor(shape=[-1, 1], per="sample"),
    }
    search = Signature(inputs={"image": grey, "mask": grey, **state}, outputs={"image": grey, **state})
    size = Geometry(kind="fixed", valid_sizes=[(28, 28)])
    return manifest("inpaint", "digits", signatures={"search": search}, geometry=size, defaults={"calls": calls})


def test_a_search_goes_on_from_call_to_call() -> None:
    states: list[tuple[float, float]] = []

    def lighter(request: Any) -> Any:
        given = request.inputs
        assert request.signature == "search"
        assert given["state"].shape == (1, 2, 3)
        assert (given["image"][given["mask"] > 0] == 0).all()
        states.append((given["state"].max(), given["step"].item()))
        nearer = given["image"] + given["mask"] * (given["step"].item() + 1) / 10
        return {"image": nearer, "state": given["state"] + 0.5, "step": given["step"] + 1}

    image, hole = Picture(np.full((28, 28, 1), 200, np.uint8)), Picture(np.zeros((28, 28, 1), np.uint8))
    hole.pixels[3:9, 3:9] = hole.pixels[20:22, 20:22] = 255  # one search for both
    engine = FunctionEngine(lighter, searching(4))
    answer = filled(image, engine, mask=hole, method="dcgan", model="digits")
    assert states == [(0, 0), (0.5, 1), (1, 2), (1.5, 3)]
    np.testing.assert_array_equal(answer.picture.pixels, np.where(hole.pixels, np.uint8(102), image.pixels))
    assert answer.model == "inpaint/digits@1"
    assert answer.decisions == {"method": "dcgan:1", "missing": "40", "precision": "float32"}
    with pytest.raises(WrongSize):
        filled(picture(1), engine, mask=mask(), method="dcgan", model="digits")


def test_a_model_of_another_method() -> None:
    with pytest.raises(ConflictingFields, match="does not support `method=neural`"):
        filled(picture(), FunctionEngine(never, searching(1)), mask=mask(), method="neural", model="digits")
    with pytest.raises(ConflictingFields, match="does not support `method=dcgan`"):
        filled(picture(), FunctionEngine(never, MODEL), mask=mask(), method="dcgan", model="planes")
    # Nobody asked for it, and it may not take this picture.
    assert filled(picture(), FunctionEngine(never, searching(1)), mask=mask()).decisions["method"] == "biharmonic:1"


def test_no_model_is_no_neural_method() -> None:
    with pytest.raises(UnknownModel):
        filled(picture(), mask=mask(), method="neural")
    with pytest.raises(UnknownModel):
        filled(picture(), mask=mask(), model="none")


def test_a_caller_whose_time_is_up_leaves_after_the_hole_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real, told = task._fill_classically, threading.Event()

    def held(*given: Any) -> Any:
        seen.append(given[1])
        assert told.wait(30)
        return real(*given)

    monkeypatch.setattr(task, "_fill_classically", held)
    hole = Picture(np.zeros((900, 900, 1), np.uint8))
    hole.pixels[10::200, 10::200] = 255

    async def hurried() -> None:
        going = asyncio.create_task(
            inpaint(
                Picture(np.zeros((900, 900, 3), np.uint8)),
                InpaintOptions(method="biharmonic"),
                NOTHING,
                RequestContext("test"),
                mask=hole,
            )
        )
        while not seen:
            await asyncio.sleep(0)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)

    asyncio.run(hurried())
    told.set()
    task._pool("biharmonic").submit(lambda: None).result(30)  # behind whatever was not taken off
    assert len(seen) <= 2


class Late(FunctionEngine):
    """Fills with the mean of what is known; the window in which so many pixels are missing is done after all others."""

    def __init__(self, late: int = 0) -> None:
        super().__init__(self.mean, MODEL)
        self.late = late

    @staticmethod
    def mean(request: InferenceRequest) -> Arrays:
        image, mask = request.inputs["image"], request.inputs["mask"]
        return {"image": image + mask * image.sum(axis=(1, 2), keepdims=True) / (1 - mask).sum()}

    async def run(self, request: InferenceRequest) -> Arrays:
        if request.inputs["mask"].sum() == self.late:
            await asyncio.sleep(0.1)
        return await super().run(request)


def test_a_hole_in_the_box_of_another_is_filled_the_same_whichever_is_done_first() -> None:
    image = Picture((smooth(360, 360, 3, np.uint8).astype(int) ** 2 // 255).astype(np.uint8))
    hole = Picture(np.zeros((360, 360, 1), np.uint8))
    hole.pixels[10:280, 10:14] = hole.pixels[276:280, 10:280] = 255  # an L
    hole.pixels[20:30, 262:272] = 255  # in its angle, a hole by itself
    hole.pixels[66:76, 98:108] = 255  # and one that is a hole by itself only within what is seen of the L
    first = Late()
    answers = [filled(image, first, mask=hole, method="neural")]
    assert answers[0].decisions["method"] == "neural:2"
    windows = {int(request.inputs["mask"].sum()) for request in first.requests}
    assert len(windows) == len(first.requests) == 4
    answers += [filled(image, Late(late), mask=hole, method="neural") for late in windows]
    assert len({answer.picture.pixels.tobytes() for answer in answers}) == 1
