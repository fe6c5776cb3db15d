"""Tiled equals untiled, before rounding, for every published tiled model, through the real engine.

"Untiled" is the same plan with one tile. The tiny models of `tests.model_repository` go through the same tests: their
halo is the whole radius of their convolution, so that they have to agree far more closely.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.local import LocalEngine
from app.engine.precision import PrecisionSetting
from app.engine.protocol import Arrays, RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.picture import Picture
from app.imaging.tiles import TileSize, make_plan
from app.settings import Settings
from app.tasks.base import Size
from app.tasks.tiling import count_computed, run_tiled, tile_size_for
from models.manifest import Geometry, Manifest, read
from tests.published.test_repository import FOLDERS, PUBLISHED
from tests.walk import STEPS

pytestmark = pytest.mark.tf

EXACT = 1e-5
TINY = ["denoise/blur", "denoise/photo", "superres/nearest"]
PUBLISHED_TILED = [found.id for found in map(read, FOLDERS) if found.geometry.kind == "tiled"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """A model in memory with one of its registries, how far tiled and untiled may differ, and its precision."""

    registry: Registry
    manifest: Manifest
    tolerance: float
    precision: PrecisionSetting = "float32"

    @property
    def geometry(self) -> Geometry:
        return self.manifest.geometry

    @property
    def signatures(self) -> list[str]:
        """Those that answer with something for every pixel."""
        return [name for name, one in self.manifest.signatures.items() if {"image", "probabilities"} & set(one.outputs)]

    def run(self, signature: str, pixels: Pixels, tile_size: TileSize, halo: int | None = None) -> Pixels:
        """Return what the tasks' own path makes of `pixels`, float32, not rounded."""
        described = self.manifest.signatures[signature]
        output = next(iter(described.outputs))
        constants = self.constants(signature)
        plan = make_plan(
            *pixels.shape[:2],
            tile_size=tile_size,
            tile_step=self.geometry.tile_step,
            halo=self.geometry.halo if halo is None else halo,
            multiple=self.geometry.multiple,
            scale=described.scale,
        )

        async def work() -> Pixels:
            engine = LocalEngine(self.registry, precision=self.precision)
            try:
                context = RequestContext("test")
                return await run_tiled(
                    Picture(pixels), plan, self.manifest, signature, engine, context, constants=constants, output=output
                )
            finally:
                await engine.close(60)

        return asyncio.run(work())

    def constants(self, signature: str) -> Arrays:
        """Return what is the same for every tile: the middle of its range; of a painter, a preset of the photograph."""
        described = self.manifest.signatures[signature]
        if "preset" in self.manifest.signatures:
            model = self.registry.load(self.manifest.id)
            vector = model.run("preset", {"index": np.full((1, 1), 3, np.float32)})["vector"]
            whole = photograph()[None, ::2, ::2]
            return {"vector": vector, **model.run("statistics", {"image": whole, "vector": vector})}
        return {
            name: np.full([1, *tensor.shape[1:]], sum(tensor.range or (0.0, 1.0)) / 2, np.float32)
            for name, tensor in described.inputs.items()
            if tensor.per == "sample"
        }

    def untiled(self, signature: str, pixels: Pixels) -> Pixels:
        step = self.geometry.tile_step
        return self.run(signature, pixels, -(-max(pixels.shape[:2]) // step) * step + self.smallest)

    @property
    def smallest(self) -> int:
        """The least size of tiles that leaves room inside the margins: it has the most borders."""
        step = self.geometry.tile_step
        return (2 * self.geometry.margin // step + 1) * step

    def channels(self, signature: str) -> int:
        return self.manifest.signatures[signature].inputs["image"].shape[-1]


@pytest.fixture(scope="module")
def published() -> Registry:
    return Registry([PUBLISHED], Runtime())


@pytest.fixture(scope="module")
def tiny(tiny_repository: Path) -> Registry:
    return Registry([tiny_repository], Runtime())


@pytest.fixture(scope="module", params=[*(f"tiny {name}" for name in TINY), *PUBLISHED_TILED])
def network(request: pytest.FixtureRequest, published: Registry, tiny: Registry) -> Network:
    name = request.param.removeprefix("tiny ")
    registry = published if name == request.param else tiny
    manifest = registry.find(*name.split("/"))
    return Network(registry, manifest, manifest.geometry.tolerance if registry is published else EXACT)


@functools.cache
def photograph() -> Pixels:
    """Return scikit-image's astronaut with noise of sigma 10, in [0, 1]."""
    noise = np.random.default_rng(3).normal(0, 10 / 255, (512, 512, 3))
    return np.clip(skimage.data.astronaut() / 255 + noise, 0, 1).astype(np.float32)


def picture(height: int, width: int, channels: int) -> Pixels:
    """Return a part of the photograph, or as many of it as it takes."""
    whole = photograph()
    rows, columns = (np.arange(110, 110 + side) % 512 for side in (height, width))
    part = whole[rows][:, columns]
    return part if channels == 3 else part.mean(axis=2, keepdims=True)


def borders(size: int) -> list[tuple[int, int]]:
    """Return thirty sizes: the least, lines, primes, and around the borders of tiles of `size`."""
    less, more, two = max(1, size - 1), size + 1, 2 * size
    return [
        (1, 1), (1, 2), (2, 1), (2, 2), (1, 5), (5, 1), (1, 83), (83, 1), (3, 5), (5, 3), (8, 8),
        (13, 17), (17, 13), (29, 31), (31, 29), (97, 89), (1, less), (less, 1), (1, size), (size, 1), (1, more),
        (more, 1), (less, less), (size, size), (more, more), (less, more), (more, less), (7, two + 1), (two + 1, 7),
        (two, size),
    ]  # fmt: skip


def few_borders(size: int) -> list[tuple[int, int]]:
    """Return six of them: a pixel, a line, primes, and one side beyond a border, both, and two borders."""
    return [(1, 1), (83, 1), (17, 13), (size, size + 1), (size + 1, size + 1), (7, 2 * size + 1)]


def assert_equal_at(network: Network, sizes: list[tuple[int, int]]) -> None:
    """Assert that tiled equals untiled for pictures of these sizes, for every signature."""
    for signature in network.signatures:
        for height, width in sizes:
            pixels = picture(height, width, network.channels(signature))
            tiled = network.run(signature, pixels, network.smallest)
            scale = network.manifest.signatures[signature].scale
            assert tiled.shape[:2] == (height * scale, width * scale)
            difference = np.abs(tiled - network.untiled(signature, pixels)).max()
            assert difference <= network.tolerance, (signature, height, width)


def test_tiled_equals_untiled_at_few_sizes(network: Network) -> None:
    assert_equal_at(network, few_borders(network.smallest))


@pytest.mark.parametrize("name", TINY)
def test_tiled_equals_untiled_at_thirty_sizes_for_tiny_networks(tiny: Registry, name: str) -> None:
    network = Network(tiny, tiny.find(*name.split("/")), EXACT)
    sizes = borders(network.smallest)
    assert len(set(sizes)) >= 25  # some meet where tiles are very small
    assert_equal_at(network, sizes)


@pytest.mark.slow
def test_tiled_equals_untiled_at_thirty_sizes(network: Network) -> None:
    assert_equal_at(network, borders(network.smallest))


@settings(max_examples=6 if STEPS > 1000 else 3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_tiled_equals_untiled_for_any_plan(network: Network, data: st.DataObject) -> None:
    geometry = network.geometry
    signature = data.draw(st.sampled_from(network.signatures))
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    size = tuple(network.smallest + data.draw(st.integers(0, 6)) * geometry.tile_step for _ in range(2))
    pixels = picture(height, width, network.channels(signature))
    difference = np.abs(network.run(signature, pixels, size) - network.untiled(signature, pixels)).max()
    assert difference <= network.tolerance


@pytest.mark.parametrize(("name", "mebibytes"), [("segment/road", 100), ("superres/unet", 1024)])
def test_larger_tiles_of_the_service_equal_untiled(published: Registry, name: str, mebibytes: float) -> None:
    manifest = published.find(*name.split("/"))
    network = Network(published, manifest, manifest.geometry.tolerance)
    height, width = 650, 1000
    tile = tile_size_for(Size(width, height), manifest, mebibytes)
    assert manifest.geometry.tile_size**2 < tile[0] * tile[1] < height * width
    (signature,) = network.signatures
    pixels = picture(height, width, network.channels(signature))
    difference = np.abs(network.run(signature, pixels, tile) - network.untiled(signature, pixels)).max()
    assert difference <= network.tolerance


@pytest.mark.parametrize("name", PUBLISHED_TILED)
@pytest.mark.parametrize(
    "size", [Size(4000, 3000), Size(4243, 2828), Size(3464, 3464), Size(2604, 4624)], ids=lambda size: f"{size[0]}"
)
def test_little_is_computed_twice_at_12_megapixels(name: str, size: Size) -> None:
    manifest = next(found for found in map(read, FOLDERS) if found.id == name)
    most = 1.3 if manifest.quantized else 1.25  # 8-bit files have one tile
    assert count_computed(size, manifest, Settings().tile_mb) <= most * size.pixels
    height, width = tile_size_for(size, manifest, Settings().tile_mb)
    assert height * width / 1e6 * manifest.serving.mebibytes_per_megapixel <= Settings().tile_mb


@pytest.mark.slow
def test_a_large_picture_is_the_same_in_larger_tiles(network: Network) -> None:
    """One tile of 3000 × 2000 would take a large network more than 10 GB: tiles of twice the size take its place."""
    size = network.geometry.tile_size
    for signature in network.signatures:
        pixels = picture(2000, 3000, network.channels(signature))
        usual = network.run(signature, pixels, size)
        larger = network.run(signature, pixels, 2 * size)
        assert np.abs(usual - larger).max() <= network.tolerance, signature


def test_a_halo_that_is_too_small_shows(tiny: Registry) -> None:
    """That the tests above can fail."""
    network = Network(tiny, tiny.find("denoise", "blur"), EXACT)
    pixels = picture(60, 60, 3)
    wrong = network.run("denoise", pixels, 32, halo=0)
    assert np.abs(wrong - network.untiled("denoise", pixels)).max() > 100 * EXACT
