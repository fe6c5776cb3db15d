from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.errors import ConflictingFields, InvalidField, ModelUnavailable, UnknownClass
from app.imaging.picture import Metadata, Picture
from app.tasks.base import TaskResult
from app.tasks.segment.task import CutoutOptions, SegmentOptions, segment
from models.manifest import Class, Geometry
from tests.app.imaging.samples import ADOBE_RGB, icc_rgb
from tests.engines import FunctionEngine
from tests.model_repository import CANONICAL, LIGHT_CLASSES, manifest, segment_signatures

TILED = Geometry(kind="tiled", halo=2, multiple=4, tile_size=32, tile_step=16)


COLORS = manifest(
    "segment",
    "colors",
    signatures=segment_signatures(3),
    geometry=CANONICAL,
    classes=[
        Class(id=0, name="background", color=(0, 0, 0)),
        Class(id=3, name="red", color=(255, 0, 0)),
        Class(id=7, name="green", color=(0, 255, 0)),
    ],
)
NOTHING_LEFT_OUT = COLORS.model_copy(
    update={
        "name": "everything",
        "classes": [one.model_copy(update={"name": f"{one.name}s"}) for one in COLORS.classes],
    }
)
LIGHT = manifest(
    "segment",
    "light",
    signatures=segment_signatures(1),
    geometry=CANONICAL,
    classes=LIGHT_CLASSES,
)
ROAD = LIGHT.model_copy(update={"name": "road", "geometry": TILED})


def colors(request: InferenceRequest) -> Arrays:
    """Red, green or neither; or, for one class, how light it is."""
    image = request.inputs["image"]
    if request.model.startswith(("segment/light", "segment/road")):
        return {"probabilities": (image.mean(axis=-1, keepdims=True) > 0.5).astype(np.float32)}
    ids = np.where(image[..., 0] > 0.5, 1, np.where(image[..., 1] > 0.5, 2, 0))
    return {"probabilities": np.eye(3, dtype=np.float32)[ids]}


def striped(height: int = 120, width: int = 160, dtype: Any = np.uint8) -> Picture:
    """Return a picture whose left third is red, its middle green and its right black."""
    pixels = np.zeros((height, width, 3), dtype)
    white = np.iinfo(dtype).max
    pixels[:, : width // 4, 0] = white
    pixels[:, width // 4 : width // 2, 1] = white
    return Picture(pixels, metadata=Metadata(icc=b"profile"))


def run(image: Picture, **options: Any) -> tuple[TaskResult, FunctionEngine]:
    engine = FunctionEngine(colors, COLORS, NOTHING_LEFT_OUT, LIGHT, ROAD)
    images = {"background_image": options.pop("background_image")} if "background_image" in options else {}
    chosen = SegmentOptions(**options)
    return asyncio.run(segment(image, chosen, engine, RequestContext("test"), **images)), engine


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_holds_ids_at_the_pictures_own_size(dtype: Any) -> None:
    answer, engine = run(striped(dtype=dtype))
    ids = answer.picture.pixels[..., 0]
    assert ids.shape == (120, 160)
    assert ids.dtype == np.uint8
    assert (ids[:, :40] == 3).all()
    assert (ids[:, 40:80] == 7).all()
    assert (ids[:, 80:] == 0).all()
    assert answer.picture.palette == {0: ("background", (0, 0, 0)), 3: ("red", (255, 0, 0)), 7: ("green", (0, 255, 0))}
    assert answer.picture.metadata == Metadata()  # ids are no colors, and a mask is no photograph
    assert [request.inputs["image"].shape for request in engine.requests] == [(1, 48, 64, 3)]
    assert answer.decisions == {"size": "64x48", "precision": "float32"}


def test_binary_mask_is_black_and_white() -> None:
    image = Picture(np.repeat(np.array([0, 255], np.uint8), 32)[None, :, None].repeat(48, 0))
    answer, _ = run(image, model="light")
    assert answer.picture.palette is None
    assert (answer.picture.pixels[:, :30] == 0).all()
    assert (answer.picture.pixels[:, 34:] == 255).all()
    assert answer.decisions["threshold"] == "0.5"


def test_classes_asked_for_are_the_only_ones() -> None:
    by_name, _ = run(striped(), classes="green")
    by_id, _ = run(striped(), classes="7,green")
    assert set(np.unique(by_name.picture.pixels)) == {0, 7}
    np.testing.assert_array_equal(by_name.picture.pixels, by_id.picture.pixels)
    without, _ = run(striped(), model="everything", classes="greens")
    assert set(np.unique(without.picture.pixels)) == {7, 255}  # no class of this model stands for the rest


def test_cutout_keeps_colors_where_it_is_opaque() -> None:
    image = striped(dtype=np.uint16)
    answer, _ = run(image, output="cutout", classes="red")
    cut = answer.picture
    assert cut.alpha is not None
    assert cut.alpha.dtype == cut.pixels.dtype == np.uint16
    opaque = cut.alpha == 65535
    np.testing.assert_array_equal(cut.pixels[opaque], image.pixels[opaque])
    assert opaque[:, :36].all()
    assert not cut.alpha[:, 44:].any()
    assert cut.metadata.icc == b"profile"


def test_cutout_is_no_more_opaque_than_the_picture() -> None:
    image = striped()
    image = image.with_pixels(image.pixels, np.full((120, 160), 100, np.uint8))
    answer, _ = run(image, output="cutout")
    assert answer.picture.alpha is not None
    assert answer.picture.alpha.max() == 100


def test_background_of_a_color_or_a_picture() -> None:
    answer, _ = run(striped(), output="cutout", classes="red", background="#0a141e")
    assert answer.picture.alpha is None
    assert (answer.picture.pixels[:, 60:] == [10, 20, 30]).all()
    assert (answer.picture.pixels[:, :36] == [255, 0, 0]).all()
    behind = Picture(np.full((30, 30, 1), 30000, np.uint16))
    answer, _ = run(striped(), output="cutout", classes="red", background_image=behind)
    assert (answer.picture.pixels[:, 60:] == round(30000 / 257)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_background_may_be_seen_through(channels: int, dtype: type) -> None:
    white = np.iinfo(dtype).max
    height, width = striped().height, striped().width
    pixels = np.full((height // 2, width // 2, channels), white // 5, dtype)
    opacity = np.full((height // 2, width // 2), white, dtype)
    opacity[: height // 4] = round(white * 0.4)
    pixels[: height // 8], opacity[: height // 8] = white, 0  # a color that nobody was to see
    answer, _ = run(striped(), output="cutout", classes="red", background_image=Picture(pixels, opacity))
    assert answer.picture.alpha is not None
    assert (answer.picture.pixels[:, :36] == [255, 0, 0]).all()
    assert (answer.picture.alpha[:, :36] == 255).all()
    behind, seen = answer.picture.pixels[:, 60:].astype(int), answer.picture.alpha[:, 60:].astype(int)
    for part, wanted in ((np.s_[height // 4 + 4 : height // 2 - 4], 102), (np.s_[height // 2 + 4 :], 255)):
        np.testing.assert_array_equal(seen[part], wanted)
        assert np.abs(behind[part] - 51).max() <= 2
    assert (seen[: height // 4 - 4] == 0).all()


def test_grey_picture_before_a_colored_background_is_colored() -> None:
    image = Picture(np.full((48, 64, 1), 200, np.uint8), metadata=Metadata(icc=b"grey", exif=b"exif"))
    answer, _ = run(image, model="light", output="cutout", background="#010203")
    assert answer.picture.channels == 3
    assert answer.picture.metadata == Metadata(exif=b"exif")
    plain, _ = run(image, model="light", output="cutout")
    assert plain.picture.channels == 1


def test_a_background_picture_is_converted_to_the_profile_of_the_picture() -> None:
    wide = icc_rgb(ADOBE_RGB)
    behind = Picture(np.full((30, 30, 3), (250, 20, 20), np.uint8), metadata=Metadata(icc=wide))
    same, _ = run(
        replace(striped(), metadata=Metadata(icc=wide)), output="cutout", classes="red", background_image=behind
    )
    assert (same.picture.pixels[:, 60:] == (250, 20, 20)).all()
    other, _ = run(replace(striped(), metadata=Metadata()), output="cutout", classes="red", background_image=behind)
    assert other.picture.pixels[0, 100, 0] == 255  # more red than sRGB has
    assert (other.picture.pixels[:, :36] == [255, 0, 0]).all()


def test_a_hard_edge_has_two_opacities_and_shrinking_takes_from_it() -> None:
    ramp = Picture(
        np.rint(np.clip((np.arange(160) - 60) / 40, 0, 1) * 255).astype(np.uint8)[None, :, None].repeat(120, 0)
    )
    soft, _ = run(ramp, model="light", output="cutout")
    hard, _ = run(ramp, model="light", output="cutout", edge="hard")
    shrunk, _ = run(ramp, model="light", output="cutout", edge="hard", shrink=5)
    assert soft.picture.alpha is not None
    assert hard.picture.alpha is not None
    assert shrunk.picture.alpha is not None
    assert len(np.unique(soft.picture.alpha)) > 2
    assert set(np.unique(hard.picture.alpha)) == {0, 255}
    np.testing.assert_array_equal(hard.picture.alpha == 255, soft.picture.alpha > 127)
    assert (hard.picture.alpha == 255).sum(axis=1)[60] - (shrunk.picture.alpha == 255).sum(axis=1)[60] == 5


@pytest.mark.parametrize("output", ["mask", "cutout", "overlay", "json"])
def test_nothing_found_is_said_with_every_output(output: str) -> None:
    empty, _ = run(Picture(np.zeros((48, 64, 3), np.uint8)), output=output)
    assert empty.decisions["found"] == "nothing"
    assert "less than 0.1% of the picture is red, green" in empty.warnings[0]
    full, _ = run(striped(), output=output)
    assert "found" not in full.decisions
    assert full.warnings == ()
    tiled, _ = run(Picture(np.zeros((100, 70, 3), np.uint8)), output=output, model="road")
    assert tiled.decisions["found"] == "nothing"


def test_cutout_options_are_those_of_segment_for_a_job_to_keep() -> None:
    chosen = CutoutOptions(edge="hard")
    assert chosen.model_dump(exclude_unset=True) == {"output": "cutout", "edge": "hard"}
    assert SegmentOptions(**chosen.model_dump(exclude_unset=True)).output == "cutout"
    with pytest.raises(ValidationError, match="output"):
        CutoutOptions(output="mask")  # type: ignore[arg-type]


def test_overlay_leaves_the_background_alone() -> None:
    answer, _ = run(striped(), output="overlay", opacity=0.25)
    pixels = answer.picture.pixels
    assert (pixels[:, :40] == [255, 0, 0]).all()
    assert (pixels[:, 80:] == 0).all()
    half, _ = run(striped(), output="overlay", opacity=1.0, classes="green")
    assert (half.picture.pixels[:, :40] == [255, 0, 0]).all()


def test_table_counts_what_the_mask_shows() -> None:
    answer, _ = run(striped(), output="json")
    mask, _ = run(striped())
    assert answer.table is not None
    assert (answer.table["width"], answer.table["height"]) == (160, 120)
    for row in answer.table["classes"]:
        assert row["pixels"] == (mask.picture.pixels == row["id"]).sum()
        assert row["fraction"] == row["pixels"] / (120 * 160)
    red = answer.table["classes"][1]
    assert (red["name"], red["color"], red["box"]) == ("red", "#ff0000", [0, 0, 40, 120])


def test_table_of_what_is_not_there() -> None:
    answer, _ = run(Picture(np.zeros((20, 30, 3), np.uint8)), output="json", classes="red")
    assert answer.table is not None
    (row,) = answer.table["classes"]
    assert (row["pixels"], row["fraction"], row["box"]) == (0, 0.0, None)


def test_tiles_where_the_manifest_says_so() -> None:
    image = Picture(np.repeat(np.array([0, 255], np.uint8), 50)[None, :, None].repeat(70, 0))
    answer, engine = run(image, model="road")
    assert len(engine.requests) > 1
    np.testing.assert_array_equal(answer.picture.pixels, image.pixels)
    assert answer.decisions["tiles"] == str(len(engine.requests))


@pytest.mark.parametrize(
    ("size", "chosen"), [((100, 130), (48, 64)), ((130, 100), (64, 48)), ((9, 9), (64, 64)), ((1, 5000), (48, 64))]
)
def test_canonical_size_is_the_one_of_the_nearest_shape(size: tuple[int, int], chosen: tuple[int, int]) -> None:
    assert CANONICAL.nearest_size(*size) == chosen


@pytest.mark.parametrize("upright", [False, True])
def test_a_side_that_shrinks_is_averaged_and_one_that_grows_is_interpolated(upright: bool) -> None:
    ramp, stripes = np.linspace(30, 220, 24), 20 * (-1) ** np.arange(9 * 64)  # 24 rows become 48, 9 columns become one
    pixels = np.rint(ramp[:, None] + stripes).astype(np.uint8)[..., None].repeat(3, axis=-1)
    _, engine = run(Picture(pixels.swapaxes(0, 1).copy() if upright else pixels))
    seen = engine.requests[0].inputs["image"][0, ..., 0]
    seen = 255 * (seen.T if upright else seen)
    expected = np.interp((np.arange(48) + 0.5) / 2 - 0.5, np.arange(24), ramp)
    assert seen.shape == (48, 64)
    assert np.abs(seen - expected[:, None]).max() < 20 / 9 + 1.5  # the mean of nine stripes, and two roundings
    assert np.abs(seen.mean(axis=1) - expected).max() < 1


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"threshold": 1.5, "model": "light"}, ValidationError, "threshold"),
        ({"opacity": -0.1}, ValidationError, "opacity"),
        ({"threshold": 0.5}, InvalidField, "binary models only"),
        ({"classes": "gren"}, UnknownClass, "Did you mean `green`"),
        ({"background": "#000000"}, ConflictingFields, "needs `output=cutout`"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(striped(), **options)


def test_a_model_that_gives_no_numbers_is_unavailable() -> None:
    engine = FunctionEngine(lambda _: {"probabilities": np.full((1, 48, 64, 3), np.nan, np.float32)}, COLORS)
    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        asyncio.run(segment(striped(), SegmentOptions(), engine, RequestContext("test")))
