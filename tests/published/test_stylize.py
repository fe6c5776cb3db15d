"""The published painter: its presets differ, its tiles do not show, and what it says of itself is there."""

from __future__ import annotations

import asyncio
import functools
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from app.engine.local import LocalEngine
from app.engine.protocol import RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.picture import Picture
from app.imaging.tiles import make_plan
from app.tasks.base import TaskResult
from app.tasks.stylize import canvas
from app.tasks.stylize.task import StylizeOptions, stylize
from models.manifest import Manifest, read
from tests.published.test_repository import FOLDERS, PUBLISHED

pytestmark = pytest.mark.tf

FOLDER = next(folder for folder in FOLDERS if folder.parts[-3:-1] == ("stylize", "any"))
MANIFEST = read(FOLDER)
PAINTERS = [found for found in map(read, FOLDERS) if found.task == "stylize"]
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([PUBLISHED], Runtime())


def painted(registry: Registry, pixels: NDArray[Any], **options: Any) -> TaskResult:
    async def asked() -> TaskResult:
        engine = LocalEngine(registry)
        try:
            images = {"style_image": options.pop("style_image")} if "style_image" in options else {}
            chosen = StylizeOptions(**options)
            return await stylize(Picture(pixels), chosen, engine, RequestContext("test"), **images)
        finally:
            await engine.close(60)

    return asyncio.run(asked())


@functools.cache
def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """Return scikit-image's coffee, enlarged, with a grain as fine as a camera's."""
    large = cv2.resize(skimage.data.coffee(), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).integers(-6, 7, large.shape)
    return np.clip(large + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("found", PAINTERS, ids=lambda found: found.name)
def test_each_preset_has_its_sample(found: Manifest) -> None:
    assert len(found.styles) == {"any": 16, "presets": 14}[found.name]
    assert {f"styles/{style.name}.webp" for style in found.styles} <= set(found.files)
    assert "impression-sunrise" in {style.name for style in found.styles}


def test_presets_are_painted_by_the_model_for_them_and_other_styles_are_not(registry: Registry) -> None:
    pixels = photograph(64, 96)
    assert painted(registry, pixels, style="starry-night").model.startswith("stylize/presets@")
    assert painted(registry, pixels, style_image=Picture(pixels)).model == MANIFEST.id


@pytest.mark.parametrize("model", ["any", "presets"])
def test_strength_leads_away_from_the_photograph(registry: Registry, model: str) -> None:
    pixels = photograph(120, 180)
    found = [painted(registry, pixels, style="great-wave", model=model, strength=s).picture.pixels for s in STRENGTHS]
    apart = [float(np.sqrt(np.mean((one.astype(float) - pixels) ** 2))) for one in found]
    assert apart[0] == 0
    assert all(one < other for one, other in itertools.pairwise(apart))


def test_presets_differ_and_a_picture_is_painted_in_its_own_way(registry: Registry) -> None:
    pixels = photograph(200, 300)
    found = [painted(registry, pixels, style=style.name).picture.pixels for style in MANIFEST.styles]
    tones = np.array([picture.mean(axis=(0, 1)) for picture in found])
    apart = np.abs(tones[:, None] - tones[None]).max(axis=-1)[~np.eye(len(tones), dtype=bool)]
    assert np.median(apart) > 20
    own = painted(registry, pixels, style_image=Picture(pixels)).picture.pixels
    others = [np.abs(one.astype(float) - pixels).mean() for one in found]
    assert np.abs(own.astype(float) - pixels).mean() < 0.5 * np.median(others)


def steps_across(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the mean step across the borders of tiles, and just inside of them."""
    geometry = MANIFEST.geometry
    plan = make_plan(
        *pixels.shape[:2],
        tile_size=geometry.tile_size,
        tile_step=geometry.tile_step,
        halo=geometry.halo,
        multiple=geometry.multiple,
    )
    rows = sorted({tile.inner.top for tile in plan.tiles} - {0})
    columns = sorted({tile.inner.left for tile in plan.tiles} - {0})
    assert rows or columns
    down, right = (np.abs(np.diff(pixels.astype(np.float32), axis=axis)).mean(axis=(1 - axis, 2)) for axis in (0, 1))
    # A convolution with steps of four pixels has that rhythm everywhere: compared is the same beat, a tile's inside.
    inside = [4 * shift for shift in range(-12, 13) if shift]
    across = np.mean([*down[[row - 1 for row in rows]], *right[[column - 1 for column in columns]]])
    near = [
        (steps, place - 1 + shift)
        for steps, places in ((down, rows), (right, columns))
        for place in places
        for shift in inside
    ]
    within = np.mean([steps[place] for steps, place in near if place < len(steps)])
    return float(across), float(within)


def test_tiles_do_not_show(registry: Registry) -> None:
    # As large as the canvas for fine strokes, which has several tiles.
    pixels = photograph(768, 2 * canvas.LONG_SIDE)
    answer = painted(registry, pixels, style="starry-night", stroke_size=0.5)
    assert int(answer.decisions["tiles"]) > 1
    across, within = steps_across(answer.picture.pixels)
    assert across < 1.05 * within


@pytest.mark.parametrize("style", ["starry-night", "great-wave"])
def test_more_strength_is_farther_from_the_photograph(style: str, registry: Registry) -> None:
    pixels = photograph(300, 450)
    found = [
        painted(registry, pixels, style=style, strength=strength).picture.pixels for strength in (0, 0.25, 0.5, 0.75, 1)
    ]
    distances = [np.abs(one.astype(float) - pixels).mean() for one in found]
    assert distances[0] == 0
    assert distances == sorted(set(distances))


def test_a_style_looks_the_same_in_a_small_and_a_large_picture(registry: Registry) -> None:
    small = cv2.resize(photograph(1200, 1800), (450, 300), interpolation=cv2.INTER_AREA)
    shown = [
        cv2.resize(
            painted(registry, pixels, style="starry-night").picture.pixels, (450, 300), None, 0, 0, cv2.INTER_AREA
        )
        for pixels in (small, photograph(1200, 1800))
    ]
    difference = np.abs(shown[0].astype(float) - shown[1]).mean()
    assert difference < 0.2 * np.abs(shown[0].astype(float) - small).mean()


def test_a_seam_would_show() -> None:
    pixels = photograph(768, 1024).copy()
    pixels[:, MANIFEST.geometry.tile_size - MANIFEST.geometry.margin :] //= 2
    across, within = steps_across(pixels)
    assert across > 1.05 * within
