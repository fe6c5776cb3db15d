from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.errors import InvalidField, ModelUnavailable, UnknownModel, WrongSize
from app.imaging.picture import Metadata, Picture
from app.tasks.base import TaskResult
from app.tasks.denoise import DenoiseOptions, denoise
from models.manifest import Geometry, Tensor
from tests.engines import Function, FunctionEngine, identity
from tests.model_repository import DIGIT, correlated_signatures, digit_signatures, manifest, photo_signatures

TILED = Geometry(kind="tiled", halo=2, multiple=4, tile_size=32, tile_step=16)
PHOTO = manifest(name="photo", signatures=photo_signatures(), geometry=TILED)
PLAIN = manifest(name="plain", geometry=TILED)
DIGITS = manifest(name="digits", signatures=digit_signatures(), geometry=DIGIT)
BOTH = manifest(name="both", signatures=correlated_signatures(), geometry=TILED)
BLIND = manifest(name="blind", signatures={"denoise": photo_signatures()["denoise"]}, geometry=TILED)


def picture(height: int = 40, width: int = 50, channels: int = 3, dtype: Any = np.uint8) -> Picture:
    dice = np.random.default_rng(11)
    high = int(np.iinfo(dtype).max)
    pixels = dice.integers(0, high, (height, width, channels), dtype, endpoint=True)
    return Picture(pixels, dice.integers(0, high, (height, width), dtype), Metadata(icc=b"profile"), "tiff", ("note",))


def answering(*levels: float) -> Function:
    """Return what estimates `levels` in turn, and otherwise makes every pixel the level it is told."""
    remaining = list(levels)

    def answer(request: InferenceRequest) -> Arrays:
        if request.signature == "estimate":
            return {"level": np.full((1, 1, 1, 1), remaining.pop(0), np.float32)}
        return {"image": np.full_like(request.inputs["image"], request.inputs["level"].item())}

    return answer


def run(image: Picture, options: DenoiseOptions, function: Function) -> tuple[TaskResult, FunctionEngine]:
    engine = FunctionEngine(function, PHOTO, PLAIN, DIGITS, BLIND, BOTH)
    return asyncio.run(denoise(image, options, engine, RequestContext("test"))), engine


def levels(engine: FunctionEngine) -> set[float]:
    """Return the levels that the network was told."""
    return {round(float(one.inputs["level"].item()), 6) for one in engine.requests if one.signature == "denoise"}


def test_strength_is_the_level() -> None:
    answer, engine = run(picture(), DenoiseOptions(strength=0.4), answering())
    assert levels(engine) == {0.4}
    assert {request.signature for request in engine.requests} == {"denoise"}
    assert answer.decisions == {"strength": "0.400", "tiles": str(len(engine.requests)), "precision": "float32"}
    assert answer.model == "denoise/photo@1"


def test_the_end_of_the_range_is_a_level_too() -> None:
    answer, _ = run(picture(), DenoiseOptions(strength=1), answering())
    assert (answer.picture.pixels == 255).all()


def test_strength_0_leaves_the_pixels_as_they_are() -> None:
    answer, engine = run(picture(), DenoiseOptions(strength=0), answering())
    np.testing.assert_array_equal(answer.picture.pixels, picture().pixels)
    assert (answer.decisions, engine.requests) == ({"strength": "0.000"}, [])
    assert not DenoiseOptions(strength=0).uses_device  # so it does not wait for others
    assert DenoiseOptions().uses_device


def test_auto_is_the_median_of_eight_tiles() -> None:
    estimates = [0.2, 0.2, 0.2, 0.2, 0.2, 0.9, 0.9, 0.0]  # texture and sky
    answer, engine = run(picture(100, 100), DenoiseOptions(), answering(*estimates))
    assert levels(engine) == {0.2}
    assert answer.decisions["strength"] == "0.200"
    assert sum(request.signature == "estimate" for request in engine.requests) == 8


@pytest.mark.parametrize(("size", "tiles", "looked_at"), [((32, 50), 2, 2), ((50, 80), 6, 3), ((50, 200), 18, 8)])
def test_half_of_the_tiles_of_a_small_picture_are_looked_at(size: tuple[int, int], tiles: int, looked_at: int) -> None:
    _, engine = run(picture(*size), DenoiseOptions(), answering(*[0.2] * looked_at))
    assert Counter(request.signature for request in engine.requests) == {"estimate": looked_at, "denoise": tiles}


def test_auto_of_one_tile() -> None:
    answer, engine = run(picture(5, 5), DenoiseOptions(), answering(0.6))
    assert answer.decisions["strength"] == "0.600"
    assert [request.signature for request in engine.requests] == ["estimate", "denoise"]


@pytest.mark.parametrize(("estimate", "used"), [(-3.0, "0.000"), (7.0, "1.000")])
def test_estimate_is_kept_in_the_models_range(estimate: float, used: str) -> None:
    answer, _ = run(picture(5, 5), DenoiseOptions(), answering(estimate))
    assert answer.decisions["strength"] == used


def test_an_estimate_that_is_no_number_is_no_level() -> None:
    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        run(picture(5, 5), DenoiseOptions(), answering(float("nan")))


def test_range_of_levels_is_the_manifests() -> None:
    signatures = photo_signatures()
    narrow = Tensor(shape=[-1, 1, 1, 1], range=(0.0, 0.5), per="sample")
    told = signatures["denoise"].model_copy(update={"inputs": {**signatures["denoise"].inputs, "level": narrow}})
    model = manifest(name="narrow", signatures={**signatures, "denoise": told}, geometry=TILED)
    engine = FunctionEngine(answering(0.9), model)
    answer = asyncio.run(denoise(picture(5, 5), DenoiseOptions(), engine, RequestContext("test")))
    assert answer.decisions["strength"] == "0.500"


def telling(level: float, correlation: float) -> Function:
    """Return what estimates `level` and `correlation`, and otherwise gives pictures back."""

    def answer(request: InferenceRequest) -> Arrays:
        if request.signature == "estimate":
            found = {"level": level, "correlation": correlation}
            return {name: np.full((1, 1, 1, 1), value, np.float32) for name, value in found.items()}
        return identity(request)

    return answer


@pytest.mark.parametrize("strength", ["auto", 0.3])
@pytest.mark.parametrize(("correlation", "used"), [(0.0, "denoise"), (0.6, "denoise_correlated")])
def test_correlated_noise_has_a_network_of_its_own(strength: Any, correlation: float, used: str) -> None:
    answer, engine = run(picture(), DenoiseOptions(model="both", strength=strength), telling(0.2, correlation))
    assert {request.signature for request in engine.requests} == {"estimate", used}
    assert answer.decisions["strength"] == (
        f"{0.2 * min(1 + 2.5 * correlation, 1.95):.3f}" if strength == "auto" else "0.300"
    )


def signature_used(engine: FunctionEngine) -> str:
    (used,) = {request.signature for request in engine.requests} - {"estimate"}
    return used


@pytest.mark.parametrize(("correlation", "used"), [(0.1, "0.100"), (0.3, "0.010")])
def test_grain_that_is_plain_at_half_size_only_is_believed_there(correlation: float, used: str) -> None:
    """Where it is white there, it is no texture."""

    def answer(request: InferenceRequest) -> Arrays:
        if request.signature != "estimate":
            return identity(request)
        reduced = max(request.inputs["image"].shape[1:3]) < TILED.tile_size
        found = {"level": 0.1, "correlation": correlation} if reduced else {"level": 0.01, "correlation": 0.05}
        return {name: np.full((1, 1, 1, 1), value, np.float32) for name, value in found.items()}

    result, _ = run(picture(64, 64), DenoiseOptions(model="both"), answer)
    assert result.decisions["strength"] == used


def test_a_gray_picture_has_the_same_noise_in_three_channels() -> None:
    gray = picture(channels=1)
    color_file = gray.with_pixels(np.repeat(gray.pixels, 3, axis=-1), gray.alpha)
    for image in (gray, color_file):
        _, engine = run(image, DenoiseOptions(model="both"), telling(0.2, 0.0))
        assert signature_used(engine) == "denoise_correlated"
    _, engine = run(picture(), DenoiseOptions(model="both"), telling(0.2, 0.0))
    assert signature_used(engine) == "denoise"


def test_no_more_is_taken_away_than_noise_of_that_level() -> None:
    """Here the network takes everything for noise."""
    image = picture()
    answer, _ = run(image, DenoiseOptions(strength=10 / 75), answering())
    taken = answer.picture.pixels.astype(float) - image.pixels
    assert 0.5 < np.sqrt(np.square(taken).mean()) < 17


def test_model_without_level_takes_auto_and_no_number() -> None:
    answer, _ = run(picture(), DenoiseOptions(model="plain"), identity)
    np.testing.assert_array_equal(answer.picture.pixels, picture().pixels)
    assert answer.decisions.keys() == {"tiles", "precision"}
    with pytest.raises(InvalidField, match="denoise/plain@1 has no strength") as caught:
        run(picture(), DenoiseOptions(model="plain", strength=0.3), identity)
    assert caught.value.field == "strength"


def test_model_that_cannot_estimate_wants_a_number() -> None:
    with pytest.raises(InvalidField, match="cannot estimate the noise"):
        run(picture(), DenoiseOptions(model="blind"), identity)
    _, engine = run(picture(), DenoiseOptions(model="blind", strength=0.2), answering())
    assert levels(engine) == {0.2}


@pytest.mark.parametrize("preserve", [0.0, 0.25, 1.0])
def test_preserve_blends_the_original_back(preserve: float) -> None:
    image = picture(dtype=np.uint16)
    answer, _ = run(image, DenoiseOptions(strength=0.5, preserve=preserve), answering())
    expected = 65535 * 0.5 * (1 - preserve) + preserve * image.pixels
    assert np.abs(answer.picture.pixels - expected).max() <= 0.51


def test_what_overshoots_is_clipped_before_it_is_blended() -> None:
    image = picture(8, 8)
    answer, _ = run(image, DenoiseOptions(model="plain", preserve=0.5), lambda t: {"image": t.inputs["image"] + 10})
    assert np.abs(answer.picture.pixels - (255 + image.pixels.astype(float)) / 2).max() <= 0.51


@pytest.mark.parametrize("options", [
    {"strength": -0.1}, {"strength": 1.1}, {"strength": float("nan")}, {"preserve": 2.0}, {"preserve": float("nan")},
])  # fmt: skip
def test_values_out_of_range_are_no_options(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError) as caught:
        DenoiseOptions.model_validate(options)
    assert caught.value.errors()[0]["loc"][0] == next(iter(options))


def test_everything_else_of_the_picture_is_kept() -> None:
    for dtype in (np.uint8, np.uint16):
        for channels in (1, 3):
            image = picture(channels=channels, dtype=dtype)
            answer, _ = run(image, DenoiseOptions(model="plain"), identity)
            np.testing.assert_array_equal(answer.picture.pixels, image.pixels)
            assert answer.picture.alpha is image.alpha
            assert (answer.picture.metadata, answer.picture.format) == (image.metadata, image.format)
            assert answer.picture.warnings == image.warnings


def test_digits_take_digits_only() -> None:
    image = picture(28, 28, 1)
    answer, _ = run(image, DenoiseOptions(model="digits"), identity)
    np.testing.assert_array_equal(answer.picture.pixels, image.pixels)
    for wrong in (picture(28, 27, 1), picture(28, 28, 3)):
        with pytest.raises(WrongSize, match="grayscale pictures of 28×28 pixels"):
            run(wrong, DenoiseOptions(model="digits"), identity)


def test_unknown_model() -> None:
    with pytest.raises(UnknownModel):
        run(picture(), DenoiseOptions(model="nobody"), identity)


def test_seconds_are_the_devices_and_the_rest() -> None:
    context = RequestContext("test")
    context.usage.device_seconds = 5.0  # from before

    def working(request: InferenceRequest) -> Arrays:
        request.context.usage.device_seconds += 0.5
        return identity(request)

    engine = FunctionEngine(working, PLAIN)
    answer = asyncio.run(denoise(picture(5, 5), DenoiseOptions(), engine, context))
    assert answer.seconds == {"queue": 0.0, "model": 0.5}
