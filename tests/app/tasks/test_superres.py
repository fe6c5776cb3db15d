from __future__ import annotations

import asyncio
import io
from typing import Any, Literal

import numpy as np
import pytest
import skimage.data
from PIL import Image

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.errors import ConflictingFields, InvalidField, ModelUnavailable, UnknownModel
from app.imaging.picture import Metadata, Picture
from app.tasks import superres as module
from app.tasks.base import TaskResult
from app.tasks.superres import SuperresOptions, add_grain, superres
from models.manifest import Geometry
from tests.engines import FunctionEngine, enlarge
from tests.model_repository import manifest, photo_signatures, superres_signatures, two_exit_signatures

TILED = Geometry(kind="tiled", halo=2, multiple=4, tile_size=32, tile_step=16)
NEAREST = manifest("superres", "nearest", signatures=superres_signatures(2, 3), geometry=TILED)

REAL = manifest("superres", "real", signatures=superres_signatures(2), geometry=TILED, defaults={"denoise": 1})
TWO_EXITS = manifest("superres", "photo", signatures=two_exit_signatures(2, 3), geometry=TILED)
ESTIMATOR = manifest("denoise", "photo", signatures=photo_signatures(), geometry=TILED, default=True)


def nearest(request: InferenceRequest) -> Arrays:
    return enlarge(int(request.signature.removeprefix("x")))(request)


def picture(height: int = 21, width: int = 34, channels: int = 3, dtype: Any = np.uint8) -> Picture:
    high = int(np.iinfo(dtype).max)
    pixels = np.random.default_rng(2).integers(0, high, (height, width, channels), dtype, endpoint=True)
    return Picture(pixels, metadata=Metadata(exif=b"II"), format="webp")


def run(image: Picture, scale: Literal[2, 3, 4] = 2, *, model: str = "") -> TaskResult:
    options = SuperresOptions(model=model, scale=scale)
    return asyncio.run(superres(image, options, FunctionEngine(nearest, NEAREST), RequestContext("test")))


def run_with_real(image: Picture, **options: Any) -> TaskResult:
    """Enlarge where there are a model that cleans, here to gray, and one that estimates the brightness as noise."""

    def answer(request: InferenceRequest) -> Arrays:
        image = request.inputs["image"]
        if request.signature == "estimate":
            return {"level": image.mean(axis=(1, 2, 3), keepdims=True)}
        found = nearest(request)["image"]
        return {"image": found if request.model == NEAREST.id else np.full_like(found, 0.5)}

    engine = FunctionEngine(answer, NEAREST, REAL, ESTIMATOR)
    return asyncio.run(superres(image, SuperresOptions(**options), engine, RequestContext("test")))


def run_with_two_exits(image: Picture, *evidence: float) -> tuple[TaskResult, FunctionEngine]:
    """Enlarge with a model whose evidence is given for each tile in turn; every pixel becomes the share it is told."""
    remaining = list(evidence)

    def answer(request: InferenceRequest) -> Arrays:
        if request.signature == "aliasing":
            found = np.full((1, 1, 1, 1), remaining.pop(0), np.float32)
            return {"x2": found, "x3": -found}
        return {"image": np.full_like(nearest(request)["image"], request.inputs["share"].item())}

    engine = FunctionEngine(answer, TWO_EXITS)
    options = SuperresOptions(model="photo")
    return asyncio.run(superres(image, options, engine, RequestContext("test"))), engine


def even(value: int, dtype: Any = np.uint8) -> Picture:
    return Picture(np.full((40, 50, 3), value, dtype))


def repeated(array: Any, scale: int) -> Any:
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_depth_and_channel_count(scale: int, channels: int, dtype: Any) -> None:
    image = picture(channels=channels, dtype=dtype)
    answer = run(image, scale)
    assert answer.picture.pixels.dtype == dtype
    np.testing.assert_array_equal(answer.picture.pixels, repeated(image.pixels, scale))
    assert answer.picture.alpha is None
    assert (answer.picture.metadata, answer.picture.format) == (image.metadata, image.format)
    assert answer.model == "superres/nearest@1"
    assert answer.decisions.keys() == {"tiles", "precision"}


def test_scale_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(InvalidField) as caught:
        run(picture(), 4)
    assert caught.value.detail == "The model superres/nearest@1 does not support `scale` 4. Scales: 2, 3."
    assert (caught.value.field, caught.value.value) == ("scale", 4)


@pytest.mark.parametrize(
    ("evidence", "share", "pixel"), [(-900.0, "0.00", 0), (-0.4, "0.40", 102), (0.0, "0.50", 128), (900.0, "1.00", 255)]
)
def test_the_share_of_the_second_exit_is_how_probable_aliasing_is(evidence: float, share: str, pixel: int) -> None:
    answer, engine = run_with_two_exits(picture(9, 12), evidence)
    assert answer.decisions == {"unfiltered": share, "tiles": "1", "precision": "float32"}
    assert (answer.picture.pixels == pixel).all()
    assert [request.signature for request in engine.requests] == ["aliasing", "x2"]


def test_evidence_is_the_mean_of_eight_tiles_and_the_same_for_all() -> None:
    answer, engine = run_with_two_exits(picture(100, 100), *[3.0, -3.0] * 3, 4.0, -4.0)
    asked = [request for request in engine.requests if request.signature == "aliasing"]
    assert len(asked) == 8
    assert len(engine.requests) - len(asked) == int(answer.decisions["tiles"]) > 8
    assert answer.decisions["unfiltered"] == "0.50"
    assert (answer.picture.pixels == 128).all()


def test_evidence_that_is_no_number_is_no_share() -> None:
    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        run_with_two_exits(picture(), *[float("nan")] * 8)


def test_a_signature_that_looks_at_pictures_is_no_scale() -> None:
    assert TWO_EXITS.scales == {2: "x2", 3: "x3"}
    options, _ = module.TASK.probe(TWO_EXITS, picture())
    assert options.scale == 2
    engine = FunctionEngine(nearest, TWO_EXITS)
    with pytest.raises(InvalidField, match=r"Scales: 2, 3\."):
        asyncio.run(superres(picture(), SuperresOptions(scale=4, model="photo"), engine, RequestContext("test")))


def test_unknown_model() -> None:
    with pytest.raises(UnknownModel):
        run(picture(), model="nobody")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_enlarged_and_keeps_its_depth_and_ends(dtype: Any) -> None:
    high = int(np.iinfo(dtype).max)
    alpha = np.zeros((21, 34), dtype)
    alpha[:, 17:] = high
    image = picture(dtype=dtype)
    answer = run(image.with_pixels(image.pixels, alpha), 3)
    result = answer.picture.alpha
    assert result is not None
    assert result.dtype == dtype
    assert result.shape == (63, 102)
    assert (result[:, :45] == 0).all()
    assert (result[:, 57:] == high).all()
    assert (np.diff(result[0, 49:53].astype(int)) > 0).all()  # a slope between, and its middle at the old edge
    assert abs(int(result[0, 50]) + int(result[0, 51]) - high) <= high * 0.01


def test_color_under_alpha_zero_does_not_bleed() -> None:
    pixels = np.zeros((30, 30, 3), np.uint8)  # black, as most programs leave it
    alpha = np.zeros((30, 30), np.uint8)
    pixels[10:20, 10:20] = (250, 120, 10)
    alpha[10:20, 10:20] = 255
    seen: list[Any] = []

    def record(request: InferenceRequest) -> Arrays:
        seen.append(request.inputs["image"])
        return nearest(request)

    engine = FunctionEngine(record, NEAREST)
    options = SuperresOptions()
    answer = asyncio.run(superres(Picture(pixels, alpha), options, engine, RequestContext("test")))
    for window in seen:  # the network sees no edge
        assert set(np.unique(window[..., 0])) <= {np.float32(250 / 255), np.float32(0)}
    visible = answer.picture.alpha
    assert visible is not None
    assert (answer.picture.pixels[visible > 0] == (250, 120, 10)).all()
    for band in (answer.picture.pixels[8:52, 20:40], answer.picture.pixels[20:40, 8:52]):
        assert (band == (250, 120, 10)).all()  # halo and a little more, at the result's size


@pytest.mark.parametrize("strip", [1, 7, 64, 1000])
def test_strips_make_no_difference(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(4)
    colors = dice.integers(0, 256, (90, 40, 3), np.uint8)
    alpha = np.where(dice.random((90, 40)) < 0.02, 255, 0).astype(np.uint8)
    monkeypatch.setattr(module, "_STRIP", strip)
    filled = module._fill_hidden_colors(colors, alpha, 6)
    ys, xs = np.nonzero(alpha)
    far = 0
    for y in range(90):
        for x in range(40):
            distance = np.hypot(ys - y, xs - x)
            nearest_ones = distance <= distance.min() * 1.1 + 0.01  # OpenCV's distance is that of a 5x5 mask
            if distance.min() <= 5.5:
                assert any((filled[y, x] == colors[ys[i], xs[i]]).all() for i in np.flatnonzero(nearest_ones))
            elif distance.min() > 6.6:
                far += 1
                assert (filled[y, x] == colors[y, x]).all()
    assert far > 100


def test_visible_colors_go_to_the_network_as_they_are() -> None:
    image = picture(24, 24)
    alpha = np.random.default_rng(9).integers(0, 3, (24, 24)).astype(np.uint8) * 100
    answer = run(image.with_pixels(image.pixels, alpha))
    visible = repeated(alpha, 2) > 0
    np.testing.assert_array_equal(answer.picture.pixels[visible], repeated(image.pixels, 2)[visible])


@pytest.mark.parametrize("value", [0, 1, 255])
def test_alpha_of_one_value_leaves_colors_alone(value: int) -> None:
    image = picture()
    answer = run(image.with_pixels(image.pixels, np.full((21, 34), value, np.uint8)))
    np.testing.assert_array_equal(answer.picture.pixels, repeated(image.pixels, 2))
    assert (answer.picture.alpha == value).all()


def test_smallest_picture() -> None:
    image = picture(1, 1)
    answer = run(image.with_pixels(image.pixels, np.array([[7]], np.uint8)), 3)
    np.testing.assert_array_equal(answer.picture.pixels, repeated(image.pixels, 3))
    assert (answer.picture.alpha == 7).all()


def test_auto_takes_the_model_that_cleans_where_there_is_noise() -> None:
    assert run_with_real(even(60)).model == REAL.id
    assert run_with_real(even(60, np.uint16)).model == NEAREST.id  # 60 of 65535 is no noise
    assert run_with_real(even(3)).model == NEAREST.id


@pytest.mark.parametrize(("quality", "expected"), [(50, REAL.id), (98, NEAREST.id)])
def test_auto_takes_the_model_that_cleans_where_an_encoder_left_traces(quality: int, expected: str) -> None:
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()[100:300, 100:300]).save(file, "jpeg", quality=quality)
    coded = Picture(np.asarray(Image.open(file)))
    engine = FunctionEngine(nearest, NEAREST, REAL)  # none that estimates noise
    assert asyncio.run(superres(coded, SuperresOptions(), engine, RequestContext("test"))).model == expected


def test_auto_takes_the_default_where_the_other_does_not_have_the_scale() -> None:
    assert run_with_real(even(60), scale=3).model == NEAREST.id


@pytest.mark.parametrize("model", ["", "auto"])
def test_auto_without_a_model_that_cleans(model: str) -> None:
    assert run(picture(), model=model).model == NEAREST.id


def test_a_named_model_is_used_for_every_picture() -> None:
    assert run_with_real(even(60), model="nearest").model == NEAREST.id
    assert run_with_real(even(3), model="real").model == REAL.id


@pytest.mark.parametrize(("denoise", "expected"), [(1.0, 128), (0.5, 94), (0.0, 60)])
def test_denoise_says_how_much_is_cleaned(denoise: float, expected: int) -> None:
    answer = run_with_real(even(60), denoise=denoise)
    np.testing.assert_allclose(answer.picture.pixels, expected, atol=1)


def test_denoise_conflicts_with_a_model_that_does_not_clean() -> None:
    with pytest.raises(ConflictingFields) as caught:
        run_with_real(even(60), model="nearest", denoise=0.5)
    assert caught.value.field == "denoise"


@pytest.mark.parametrize("channels", [1, 3])
def test_with_all_of_its_grain_the_result_reduces_to_the_picture(channels: int) -> None:
    small = np.random.default_rng(0).random((24, 30, channels), dtype=np.float32)
    large = np.full((96, 120, channels), 0.5, np.float32)
    found = add_grain(small, large, 1.0)
    reduced = found.reshape(24, 4, 30, 4, channels).mean(axis=(1, 3))
    assert np.corrcoef(reduced.ravel(), small.ravel())[0, 1] > 0.97
    np.testing.assert_array_equal(add_grain(small, large, 0.0), large)
