"""Style in one pass: one tone over all tiles, presets and pictures, and colours kept where that is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.engine.protocol import RequestContext
from app.errors import ConflictingFields, MissingField, UnknownModel, UnknownStyle, WeightsMissing
from app.imaging.color import LUMINANCE
from app.imaging.picture import Picture
from app.tasks.base import TaskResult
from app.tasks.stylize.task import StylizeOptions, stylize
from tests.app.imaging.samples import smooth
from tests.engines import FunctionEngine, Painter
from tests.model_repository import OPTIMIZER, PAINTER, STYLES, WHOLE, manifest, optimize_signatures, stylize_signatures

COLOR = manifest("stylize", "colour", signatures=stylize_signatures(), styles=STYLES, defaults=dict(PAINTER))
PRESETS = manifest(
    "stylize",
    "presets",
    signatures={name: one for name, one in stylize_signatures().items() if name != "encode"},
    styles=STYLES[1:],
    defaults={"statistics_side": PAINTER["statistics_side"]},
)
VGG = manifest("stylize", "vgg19", signatures=optimize_signatures(), geometry=WHOLE, defaults=dict(OPTIMIZER))


def engine(*models: Any) -> FunctionEngine:
    painter = Painter()
    return FunctionEngine(lambda request: painter.run(request.signature, request.inputs), *(models or (COLOR, VGG)))


def painted(picture: Picture, device: FunctionEngine | None = None, **options: Any) -> TaskResult:
    images = {"style_image": options.pop("style_image")} if "style_image" in options else {}
    chosen = StylizeOptions(**options)
    return asyncio.run(stylize(picture, chosen, device or engine(), RequestContext("test"), **images))


def grey(value: int, height: int = 150, width: int = 200, dtype: Any = np.uint8) -> Picture:
    return Picture(np.full((height, width, 3), value, dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_preset_gives_every_tile_one_tone(dtype: Any, alpha: bool) -> None:
    pixels = smooth(150, 200, 4, dtype)
    picture = Picture(np.ascontiguousarray(pixels[..., :3]), pixels[..., 3].copy() if alpha else None)
    answer = painted(picture, style="green-field")
    white = picture.maximum
    # The mean was measured once, over the picture reduced: what is added is the same everywhere.
    added = np.array([0, white, 0]) - picture.pixels.mean(axis=(0, 1))
    expected = np.clip(picture.pixels + added, 0, white)
    assert np.abs(answer.picture.pixels - expected).max() <= 0.02 * white
    inside = (expected > 0.05 * white) & (expected < 0.95 * white)
    difference = (answer.picture.pixels.astype(float) - picture.pixels)[inside.all(axis=-1)]
    assert difference.std(axis=0).max(initial=0) < max(1, 5e-5 * white)
    assert answer.picture.pixels.dtype == dtype
    assert answer.decisions["style"] == "green-field"
    assert int(answer.decisions["tiles"]) > 1
    assert answer.model == "stylize/colour@1"
    if alpha:
        assert answer.picture.alpha is picture.alpha


def test_a_picture_is_as_good_as_a_preset() -> None:
    blue = np.zeros((30, 700, 3), np.uint8)
    blue[..., 2] = 255
    answer = painted(grey(100), style_image=Picture(blue))
    assert (answer.picture.pixels == [0, 0, 255]).all()
    assert answer.decisions["style"] == "style_image"


def test_a_grey_style_and_a_grey_picture() -> None:
    picture = Picture(np.full((40, 60, 1), 100, np.uint8))
    answer = painted(picture, style_image=Picture(np.full((30, 30, 1), 200, np.uint8)))
    assert answer.picture.pixels.shape == (40, 60, 1)
    assert (answer.picture.pixels == 200).all()


@pytest.mark.parametrize("strength", [0.01, 0.25, 1.0])
def test_strength_mixes_styles_and_pictures(strength: float) -> None:
    answer = painted(grey(100), style="starry-night", strength=strength)
    mixed_style = strength * np.array([255, 0, 0]) + (1 - strength) * 100
    share = strength * (2 - strength)
    assert np.abs(answer.picture.pixels - (100 + share * (mixed_style - 100))).max() <= 1


@pytest.mark.parametrize("method", ["fast", "optimize"])
def test_strength_0_is_the_picture_and_runs_nothing(method: str) -> None:
    device, picture = engine(), Picture(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    answer = painted(picture, device, style_image=grey(200), method=method, strength=0)
    assert answer.picture is picture
    assert not device.requests
    assert not StylizeOptions(strength=0).uses_device


def test_strokes_of_one_size_are_painted_at_one_size() -> None:
    sizes = [painted(grey(100, *size), style="starry-night").decisions["size"] for size in ((150, 200), (1800, 2400))]
    assert sizes == ["512x384", "512x384"]
    assert painted(grey(100, 300, 400), style="starry-night", stroke_size=2).decisions["size"] == "256x192"
    assert painted(grey(100, 300, 400), style="starry-night", stroke_size=0.5).decisions["size"] == "1024x768"


def test_colours_are_kept_and_luminance_is_the_paintings() -> None:
    pixels = np.random.default_rng(0).integers(90, 120, (60, 80, 3), np.uint8)
    answer = painted(Picture(pixels), style="starry-night", preserve_color=True)
    change = answer.picture.pixels.astype(float) - pixels
    assert np.abs(change - change.mean(axis=-1, keepdims=True)).max() <= 1
    wanted = painted(Picture(pixels), style="starry-night").picture.pixels @ LUMINANCE
    np.testing.assert_allclose(answer.picture.pixels @ LUMINANCE, wanted, atol=2)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({}, MissingField, "GET /styles"),
        ({"style": "starry-night", "style_image": grey(1)}, ConflictingFields, "not both"),
        ({"style": "starry-knight"}, UnknownStyle, "Did you mean `starry-night`.*green-field"),
        ({"style": "starry-night", "strength": 1.5}, ValidationError, "strength"),
        ({"style": "starry-night", "strength": float("nan")}, ValidationError, "strength"),
        ({"style": "starry-night", "stroke_size": 0.4}, ValidationError, "stroke_size"),
        ({"style": "starry-night", "model": "color"}, UnknownModel, "color"),
        ({"style": "starry-night", "model": "vgg19"}, ConflictingFields, "does not support `method=fast`"),
        ({"style": "starry-night", "method": "optimize"}, ConflictingFields, "needs a `style_image`"),
        ({"style_image": grey(1), "method": "optimize", "model": "colour"}, ConflictingFields, "method=optimize"),
        ({"style_image": grey(1), "method": "optimize", "model": "other"}, UnknownModel, "other"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_work(options: Any, error: Any, told: str) -> None:
    device = engine()
    with pytest.raises(error, match=told):
        painted(grey(100), device, **options)
    assert not device.requests


def test_a_model_without_presets_says_so() -> None:
    bare = COLOR.model_copy(update={"styles": []})
    with pytest.raises(UnknownStyle, match="has no presets"):
        painted(grey(100), engine(bare), style="starry-night")


def test_a_preset_is_painted_by_the_model_for_presets_if_that_has_it() -> None:
    device = engine(COLOR, PRESETS)
    assert painted(grey(100), device, style="green-field").model == "stylize/presets@1"
    assert painted(grey(100), device, style="green-field", model="colour").model == "stylize/colour@1"
    assert painted(grey(100), device, style="starry-night").model == "stylize/colour@1"
    assert painted(grey(100), device, style_image=grey(200)).model == "stylize/colour@1"
    with pytest.raises(UnknownStyle, match="starry-night"):
        painted(grey(100), device, style="starry-knight")
    with pytest.raises(ConflictingFields, match="paints only its presets"):
        painted(grey(100), device, style_image=grey(200), model="presets")


def test_a_model_for_presets_has_a_vector_after_them_for_the_picture_as_it_is() -> None:
    answer = painted(grey(100), engine(COLOR, PRESETS), style="green-field", strength=0.5)
    half = 0.5 * np.array(Painter.PRESETS[0]) * 255 + 0.5 * np.array(Painter.PRESETS[1]) * 255
    assert np.abs(answer.picture.pixels - (100 + 0.75 * (half - 100))).max() <= 1


def test_without_vgg19_the_command_that_installs_it_is_named() -> None:
    with pytest.raises(WeightsMissing, match="python -m training publish vgg19"):
        painted(grey(100), engine(COLOR), style_image=grey(1), method="optimize")


def test_optimization_starts_from_a_painting_in_one_pass_if_a_model_paints() -> None:
    pixels = (100 + np.random.default_rng(1).integers(-20, 20, (400, 500, 3))).astype(np.uint8)
    options = {"style_image": grey(200), "method": "optimize", "steps": 10}
    starts, changes = [], []
    for models in ((COLOR, VGG), (VGG,)):
        device = engine(*models)
        changes.append(painted(Picture(pixels), device, **options).picture.pixels.astype(float) - pixels)
        starts.append(next(one for one in device.requests if one.signature == "optimize").inputs["image"].mean())
    assert starts == pytest.approx([200 / 255, 100 / 255], abs=0.01)
    assert changes[0].mean() == pytest.approx(100, abs=2)
    assert changes[1].mean() < 20


def test_by_optimisation_the_change_is_carried_to_the_whole_picture() -> None:
    """At 1000 × 800, four times as large as what is worked on: the details stay, the colour comes."""
    random = np.random.default_rng(1)
    pixels = (100 + random.integers(-20, 20, (800, 1000, 3))).astype(np.uint8)
    answer = painted(Picture(pixels), style_image=grey(200), method="optimize", steps=40)
    change = answer.picture.pixels.astype(float) - pixels
    assert change.mean() > 20
    assert change.std() < 0.1 * change.mean()
    assert answer.decisions["method"] == "optimize"
    assert answer.decisions["steps"] == "40"
    assert answer.model == "stylize/vgg19@1"
