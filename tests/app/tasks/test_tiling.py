from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.errors import ModelUnavailable, Overloaded, WrongSize
from app.imaging.picture import Picture
from app.imaging.tiles import MAX_OVERLAP, make_plan
from app.tasks.base import Size
from app.tasks.concurrency import IN_FLIGHT, ordered_gather
from app.tasks.tiling import (
    MAX_TILE_FLOPS,
    count_computed,
    count_covered,
    plan_for,
    run_tiled,
    sample,
    tile_size_for,
)
from models.manifest import Geometry, Manifest, QuantizedSignature, SizeRule
from tests.engines import Function, FunctionEngine, enlarge, identity, shift
from tests.model_repository import digit_signatures, manifest, superres_signatures

CALLER = RequestContext("test")
TILED = Geometry(kind="tiled", halo=3, multiple=4, tile_size=32, tile_step=16)


def picture(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> Picture:
    high = int(np.iinfo(dtype).max)
    return Picture(np.random.default_rng(5).integers(0, high, (height, width, channels), dtype, endpoint=True))


def run(
    image: Picture, function: Function, model: Manifest, signature: str = "denoise", tile_mebibytes: float = 0
) -> NDArray[Any]:
    async def work() -> NDArray[Any]:
        plan = await plan_for(image, model, signature, tile_mebibytes)
        return await run_tiled(image, plan, model, signature, FunctionEngine(function, model), CALLER)

    return asyncio.run(work())


@settings(max_examples=20)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.sampled_from([np.uint8, np.uint16]))
def test_identity_gives_the_picture_back(height: int, width: int, channels: int, dtype: Any) -> None:
    image = picture(height, width, channels, dtype)
    result = run(image, identity, manifest(geometry=TILED))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, image.pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (31, 47), (64, 64)])
def test_what_needs_no_more_than_the_halo_is_the_same_in_tiles_as_in_one(size: tuple[int, int]) -> None:
    image = picture(*size)
    many = run(image, shift(3), manifest(geometry=TILED))
    one = run(image, shift(3), manifest(geometry=TILED.model_copy(update={"tile_size": 128})))
    np.testing.assert_array_equal(many, one)
    np.testing.assert_array_equal(many[:, 3:], image.pixels[:, :-3])


@pytest.mark.parametrize("tile_mebibytes", [0, 1024])
@pytest.mark.parametrize("size", [Size(1, 1), Size(90, 1), Size(47, 31), Size(200, 300)])
def test_what_is_computed_is_counted_before(size: Size, tile_mebibytes: float) -> None:
    image = picture(size.height, size.width)
    computed = 0

    def counting(request: InferenceRequest) -> Arrays:
        nonlocal computed
        computed += request.pixels
        return identity(request)

    model = manifest(geometry=TILED)
    run(image, counting, model, tile_mebibytes=tile_mebibytes)
    assert count_computed(size, model, tile_mebibytes) == computed
    assert size.pixels <= count_covered(size, TILED) <= computed
    whole = manifest(geometry=Geometry(kind="whole"))
    assert count_computed(size, whole, tile_mebibytes) == count_covered(size, whole.geometry) == size.pixels


def test_larger_tiles_change_nothing() -> None:
    image, model = picture(200, 300), manifest(geometry=TILED)
    assert tile_size_for(Size(300, 200), model, 1024) != (32, 32)
    expected = run(image, shift(3), model)
    np.testing.assert_array_equal(run(image, shift(3), model, tile_mebibytes=1024), expected)


def test_a_tile_is_limited_by_its_memory_and_by_its_cost() -> None:
    size, model = Size(4000, 3000), manifest(geometry=TILED)

    def pixels(model: Manifest, tile_mebibytes: float) -> int:
        height, width = tile_size_for(size, model, tile_mebibytes)
        return height * width

    enough = pixels(model, 1024)
    assert count_computed(size, model, 1024) <= MAX_OVERLAP * size.pixels
    memory = model.serving.mebibytes_per_megapixel
    assert 32**2 < pixels(model, 0.5 * enough * memory / 1e6) <= 0.5 * enough
    costly = model.model_copy(update={"flops_per_pixel": int(MAX_TILE_FLOPS / (0.5 * enough))})
    assert 32**2 < pixels(costly, 1024) <= 0.5 * enough


def test_a_model_in_8_bit_keeps_the_tiles_that_its_file_is_for() -> None:
    entry = QuantizedSignature(
        signature="denoise",
        file="quantized/denoise.tflite",
        bytes=1,
        precision="int8",
        sizes=[(32, 32)],
        figures={"psnr25": (30.0, 30.0)},
        faster=2.0,
        operators=["CONV_2D"],
    )
    model = manifest(geometry=TILED).model_copy(update={"quantized": [entry]})
    assert tile_size_for(Size(4000, 3000), model, 1024) == (32, 32)


def test_a_halo_that_is_too_small_shows() -> None:
    """That the test above can fail."""
    image = picture(64, 64)
    wrong = run(image, shift(5), manifest(geometry=TILED.model_copy(update={"halo": 1})))
    assert (wrong[:, 5:] != image.pixels[:, :-5]).any()


def test_scale_makes_the_result_larger() -> None:
    image = picture(37, 53, dtype=np.uint16)
    model = manifest("superres", geometry=TILED, signatures=superres_signatures(3))
    expected = image.pixels.repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(run(image, enlarge(3), model, "x3"), expected)


def test_grey_goes_as_three_equal_channels_and_comes_back_as_their_mean() -> None:
    image = picture(20, 20, 1)

    def tinted(request: InferenceRequest) -> Arrays:
        window = request.inputs["image"]
        assert window.shape[-1] == 3
        assert (np.ptp(window, axis=-1) == 0).all()
        return {"image": window * np.array([0.0, 0.5, 1.0], np.float32)}

    result = run(image, tinted, manifest(geometry=TILED))
    assert result.shape == (20, 20, 1)
    assert np.abs(result - image.pixels / 2.0).max() <= 0.5


def test_tickets_say_what_they_are() -> None:
    image, model = picture(40, 40), manifest(geometry=TILED)
    engine = FunctionEngine(identity, model)
    level = np.full((1, 1, 1, 1), 0.5, np.float32)

    async def work() -> None:
        plan = await plan_for(image, model, "denoise")
        await run_tiled(image, plan, model, "denoise", engine, CALLER, constants={"level": level})
        assert len(engine.requests) == len(plan.tiles) > 1

    asyncio.run(work())
    for request in engine.requests:
        assert (request.model, request.signature, request.context) == (model.id, "denoise", CALLER)
        assert request.inputs["level"] is level
        window = request.inputs["image"]
        assert window.dtype == np.float32
        assert window.shape[0] == 1
        assert request.pixels == window.shape[1] * window.shape[2]


def test_few_tiles_are_in_flight_however_large_the_picture() -> None:
    image, model = picture(300, 300), manifest(geometry=TILED)
    engine = FunctionEngine(identity, model)
    # The first answers wait for one another: quick ones would hide how many tiles may be in flight.
    engine.together = IN_FLIGHT
    asyncio.run(asyncio.wait_for(_through(image, model, engine), 60))
    assert len(engine.requests) > 100
    assert engine.most == IN_FLIGHT


async def _through(image: Picture, model: Manifest, engine: FunctionEngine) -> NDArray[Any]:
    return await run_tiled(image, await plan_for(image, model, "denoise"), model, "denoise", engine, CALLER)


def test_first_error_ends_the_rest_and_is_raised_as_it_is() -> None:
    image, model = picture(300, 300), manifest(geometry=TILED)

    def fails(request: InferenceRequest) -> Arrays:
        if len(engine.requests) >= 10:
            raise Overloaded("The queue is full.", retry_after=3)
        return identity(request)

    engine = FunctionEngine(fails, model)
    with pytest.raises(Overloaded) as caught:
        asyncio.run(_through(image, model, engine))
    assert caught.value.retry_after == 3
    assert len(engine.requests) < 10 + IN_FLIGHT
    assert engine.now == 0


def test_parts_are_kept_in_order_whichever_is_done_first() -> None:
    here, most, kept = 0, 0, []

    async def work(part: int) -> int:
        nonlocal here, most
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.002 * (part % 3 == 0))
        here -= 1
        return part * part

    async def keep(part: int, result: int) -> None:
        await asyncio.sleep(0)
        kept.append((part, result))

    asyncio.run(ordered_gather(range(20), work, keep))
    assert kept == [(part, part * part) for part in range(20)]
    assert most == IN_FLIGHT


def test_cancelling_ends_every_tile() -> None:
    image, model = picture(300, 300), manifest(geometry=TILED)

    class Stuck(FunctionEngine):
        async def run(self, request: InferenceRequest) -> Arrays:
            self.now += 1
            self.most = max(self.most, self.now)
            full.set() if self.now == IN_FLIGHT else None
            try:
                await asyncio.Event().wait()
            finally:
                self.now -= 1
            return {}

    full = asyncio.Event()
    engine = Stuck(identity, model)

    async def work() -> None:
        task = asyncio.create_task(_through(image, model, engine))
        await full.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (engine.now, engine.most) == (0, IN_FLIGHT)

    asyncio.run(work())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_never_drawn(value: float) -> None:
    def broken(request: InferenceRequest) -> Arrays:
        return {"image": np.full_like(request.inputs["image"], value)}

    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        run(picture(40, 40), broken, manifest(geometry=TILED))


def test_missing_signature_is_unavailable() -> None:
    with pytest.raises(ModelUnavailable, match="no signature 'sharpen'"):
        run(picture(8, 8), identity, manifest(geometry=TILED), "sharpen")


FIXED = manifest(
    name="digits", signatures=digit_signatures(), geometry=Geometry(kind="fixed", valid_sizes=[(28, 28), (14, 20)])
)
RULE = manifest(
    name="valid",
    signatures=digit_signatures(),
    geometry=Geometry(kind="whole", size_rule=SizeRule(modulus=8, remainder=4)),
)


@pytest.mark.parametrize(("model", "size"), [(FIXED, (28, 28)), (FIXED, (14, 20)), (RULE, (28, 60)), (RULE, (4, 12))])
def test_sizes_that_fit_go_whole(model: Manifest, size: tuple[int, int]) -> None:
    image = picture(*size, channels=1)
    engine = FunctionEngine(identity, model)
    result = asyncio.run(_through(image, model, engine))
    np.testing.assert_array_equal(result, image.pixels)
    assert [request.inputs["image"].shape for request in engine.requests] == [(1, *size, 1)]


@pytest.mark.parametrize(
    ("model", "image", "said"),
    [
        (
            FIXED,
            picture(80, 100, 1),
            "The model denoise/digits@1 accepts grayscale pictures of 28×28 or 20×14 pixels; "
            "this one is 100×80 pixels in grayscale.",
        ),
        (
            FIXED,
            picture(28, 28, 3),
            "The model denoise/digits@1 accepts grayscale pictures of 28×28 or 20×14 pixels; "
            "this one is 28×28 pixels in color.",
        ),
        (
            RULE,
            picture(28, 29, 1),
            "The model denoise/valid@1 accepts grayscale pictures whose sides are a multiple of 8 plus 4 pixels; "
            "this one is 29×28 pixels in grayscale.",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(model: Manifest, image: Picture, said: str) -> None:
    with pytest.raises(WrongSize) as caught:
        run(image, identity, model)
    assert caught.value.detail == said
    assert caught.value.field == "image"


def test_a_model_of_reduced_pictures_is_refused_rather_than_run_whole() -> None:
    model = manifest(geometry=Geometry(kind="canonical", canonical_sizes=[(512, 512)]))
    with pytest.raises(ModelUnavailable, match="scaled-down pictures"):
        run(picture(40, 50), identity, model)


@settings(max_examples=100)
@given(st.integers(0, 40), st.sampled_from([1, 2, 3, 4, 8, 16]), st.integers(1, 12))
def test_what_the_manifest_lets_pass_makes_a_plan(halo: int, multiple: int, blocks: int) -> None:
    try:
        geometry = Geometry(kind="tiled", halo=halo, multiple=multiple, tile_size=blocks * multiple, tile_step=multiple)
    except ValidationError:
        return
    plan = make_plan(50, 3, tile_size=blocks * multiple, tile_step=multiple, halo=halo, multiple=multiple)
    assert all(tile.inner.top - tile.window.top >= geometry.margin for tile in plan.tiles if tile.window.top)


def test_sample_is_spread_and_bounded() -> None:
    image, model = picture(300, 300), manifest(geometry=TILED)

    def place(request: InferenceRequest) -> Arrays:
        return {"image": request.inputs["image"]}

    engine = FunctionEngine(place, model)

    async def work() -> tuple[int, list[Arrays]]:
        plan = await plan_for(image, model, "denoise")
        return len(plan.tiles), await sample(image, plan, model, "denoise", engine, CALLER, tiles=8)

    tiles, outputs = asyncio.run(work())
    assert tiles > 8 == len(outputs) == len(engine.requests)
    assert len({output["image"].tobytes() for output in outputs}) == 8
    engine.requests.clear()
    small = picture(30, 30)

    async def few() -> list[Arrays]:
        return await sample(small, await plan_for(small, model, "denoise"), model, "denoise", engine, CALLER, tiles=8)

    assert len(asyncio.run(few())) == 1


def test_sample_leaves_out_small_tiles_at_the_edge() -> None:
    image, model = picture(64, 72), manifest(geometry=TILED.model_copy(update={"tile_size": 64}))
    engine = FunctionEngine(identity, model)

    async def work() -> int:
        plan = await plan_for(image, model, "denoise")
        await sample(image, plan, model, "denoise", engine, CALLER)
        return len(plan.tiles)

    assert asyncio.run(work()) > 1
    shapes = [request.inputs["image"].shape[1:3] for request in engine.requests]
    assert shapes == [(64, 64)], "the rest of the picture is narrower than half a tile"


def test_sample_shows_the_picture_without_its_reflection() -> None:
    """But for a picture smaller than a step, which is extended to one."""
    model = manifest(geometry=TILED)

    async def work(image: Picture) -> list[Arrays]:
        engine = FunctionEngine(identity, model)
        return await sample(image, await plan_for(image, model, "denoise"), model, "denoise", engine, CALLER, tiles=8)

    image = picture(30, 19)
    (output,) = asyncio.run(work(image))
    np.testing.assert_array_equal(output["image"][0] * 255, image.pixels[:28, :16])
    (output,) = asyncio.run(work(picture(5, 30)))
    assert output["image"].shape == (1, 16, 28, 3)
