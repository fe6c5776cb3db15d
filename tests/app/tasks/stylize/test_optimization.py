"""Style by optimisation: coarse to fine, few steps a ticket, and not for callers in a hurry."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest

from app.engine.protocol import BACKGROUND, Arrays, InferenceRequest, RequestContext
from app.errors import WorkTooLarge
from app.imaging.picture import Picture
from app.tasks.stylize.optimization import apply_difference, optimize_style
from tests.app.imaging.samples import smooth
from tests.engines import FunctionEngine, Painter
from tests.model_repository import OPTIMIZER, WHOLE, manifest, optimize_signatures

MODEL = manifest("stylize", "vgg19", signatures=optimize_signatures(), geometry=WHOLE, defaults=dict(OPTIMIZER))


def run(
    picture: Picture, style: Picture, steps: int, *, context: RequestContext | None = None, gpu: bool = False
) -> Any:
    painter = Painter()

    def answer(request: InferenceRequest) -> Arrays:
        return painter.run(request.signature, request.inputs)

    engine = FunctionEngine(answer, MODEL)
    engine.accelerated = gpu
    found = asyncio.run(
        optimize_style(picture, style, steps, MODEL, engine, context or RequestContext("test", weight=BACKGROUND))
    )
    return found, [request for request in engine.requests if request.signature == "optimize"]


def grey(value: int, height: int = 600, width: int = 900) -> Picture:
    return Picture(np.full((height, width, 3), value, np.uint8))


@pytest.mark.parametrize("steps", [10, 37, 300])
def test_every_step_is_taken_once_and_no_ticket_costs_more_than_a_tile(steps: int) -> None:
    _, requests = run(grey(100), grey(200), steps)
    turns = [request.inputs["turn"][0] for request in requests]
    assert sum(count for count, *_ in turns) == steps
    done = 0.0
    for count, before, whole, weight in turns:
        assert before == done
        done = (before + count) % whole
        assert weight == OPTIMIZER["style_weight"]
    for request in requests:
        pixels = request.inputs["image"][0, ..., 0].size
        count = request.inputs["turn"][0, 0]
        assert request.pixels == pixels * count
        assert request.pixels <= OPTIMIZER["pixels_a_call"] or count == 1
        assert pixels <= 1.1 * OPTIMIZER["side"] ** 2


def test_it_goes_from_coarse_to_fine_and_on_from_what_there_is() -> None:
    found, requests = run(grey(100), grey(200), 30)
    sizes = [request.inputs["image"].shape[1:3] for request in requests]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 2  # 128 and 256
    assert found.shape[:2] == sizes[-1]
    # A hundredth of the way a step (as one, where steps are taken together): a restart would lose the first half.
    assert 0.2 * 100 / 255 < found.mean() < 0.3 * 100 / 255
    # The moments of Adam are carried from call to call, and begin anew at each size.
    for one, next_one in itertools.pairwise(requests):
        begun = next_one.inputs["mean"].mean()
        carried = one.inputs["mean"].mean() + one.inputs["turn"][0, 0]
        assert begun == (carried if next_one.inputs["turn"][0, 1] else 0)


def test_an_accelerator_works_on_more_pixels() -> None:
    _, requests = run(grey(100, 1000, 1000), grey(200), 20, gpu=True)
    assert requests[-1].inputs["image"].shape[1:3] == (512, 512)


def test_a_small_picture_is_worked_on_as_it_is() -> None:
    found, requests = run(grey(100, 96, 128), grey(200), 20)
    assert {request.inputs["image"].shape[1:3] for request in requests} == {(96, 128)}
    assert found.shape == (96, 128, 3)


def test_whoever_waits_is_sent_to_a_job() -> None:
    hurried = RequestContext("test")
    with pytest.raises(WorkTooLarge, match="respond-async") as refused:
        run(grey(100), grey(200), 2000, context=hurried)
    assert refused.value.field == "steps"
    assert 1 <= int(str(refused.value.limit)) < 2000
    _, requests = run(grey(100), grey(200), int(str(refused.value.limit)), context=hurried)
    assert requests
    assert hurried.progress.done == hurried.progress.all == refused.value.limit


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_change_is_added_and_nothing_else(dtype: Any) -> None:
    picture = Picture(smooth(130, 170, 3, dtype))
    same = apply_difference(picture, np.zeros((48, 64, 3), np.float32), luminance_only=False)
    np.testing.assert_array_equal(same, picture.pixels)
    more = apply_difference(picture, np.full((48, 64, 3), 2.0, np.float32), luminance_only=False)
    assert (more == picture.maximum).all()


def test_only_luminance_may_change() -> None:
    picture = grey(100, 50, 60)
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 0.2
    found = apply_difference(picture, red, luminance_only=True)
    assert (found == 100 + round(0.299 * 0.2 * 255)).all()
    shades = Picture(picture.pixels[..., :1])
    np.testing.assert_array_equal(apply_difference(shades, red, luminance_only=False), found[..., :1])
