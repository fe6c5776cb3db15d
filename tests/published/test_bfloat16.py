"""Published models in bfloat16: near float32, also in tiles, and pictures of 16 bits exactly as in float32."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from app.engine.local import LocalEngine
from app.engine.precision import functions_of, has_bfloat16
from app.engine.protocol import RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.limiter import limit_correction
from app.imaging.picture import Picture
from app.tasks.superres import SuperresOptions, superres
from models.manifest import Tensor, read
from tests.published.test_repository import FOLDERS, PUBLISHED
from tests.published.test_tiled import Network, few_borders, photograph, picture

pytestmark = [
    pytest.mark.tf,
    pytest.mark.skipif(not has_bfloat16(), reason="TensorFlow computes in bfloat16 with AVX-512 only"),
]

RMS = {"denoise": 8e-4, "superres": 1.2e-3, "inpaint": 3e-4, "segment": 5e-2}
"""How far bfloat16 may be from float32, by task or model: the root mean square difference of a picture, or of
probabilities, in [0, 1]. Of segmentation it is in what the network is unsure of, and the answers of
`segment/object` are stretched by half: in bfloat16 it has 87.5 % IoU, too, and `segment/person` 93.4 %."""
TILES = 2**-7
"""How far a pixel of tiled and untiled may differ in bfloat16, whose values near 1 are 2^-8 apart; in float32 it is the
`tolerance` of the geometry."""
ALLOWED = [
    (folder, name)
    for folder in FOLDERS
    for name in read(folder).signatures
    if "bfloat16" in functions_of(read(folder), name)
]
LOSS = 0.1
"""How much farther from the truth, in dB, a picture may be that is denoised in bfloat16."""


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture(scope="module")
def registry(runtime: Runtime) -> Registry:
    return Registry([PUBLISHED], runtime)


def given(task: str, name: str, tensor: Tensor) -> NDArray[np.float32]:
    """Return a photograph, a noisy one to denoise; a mask of a hole and a scratch; or a third of the range."""
    if name == "image":
        clean = (skimage.data.astronaut() / 255).astype(np.float32)
        return (photograph() if task == "denoise" else clean)[None, 110:238, 110:238]
    if name == "mask":
        mask = np.zeros((1, 128, 128, 1), np.float32)
        mask[:, 40:60, 30:100] = mask[:, 100:106] = 1
        return mask
    low, high = tensor.range or (0.0, 1.0)
    return np.full(tensor.shape_at((1, 1)), low + (high - low) / 3, np.float32)


@pytest.mark.parametrize(("folder", "name"), ALLOWED, ids=[f"{folder.parts[-3]}-{name}" for folder, name in ALLOWED])
def test_it_is_near_float32(folder: Path, name: str, runtime: Runtime) -> None:
    manifest = read(folder)
    model = runtime.load(folder, manifest)
    inputs = {key: given(manifest.task, key, tensor) for key, tensor in manifest.signatures[name].inputs.items()}
    if "mask" in inputs:
        inputs["image"] = inputs["image"] * (1 - inputs["mask"])
    output = next(iter(manifest.signatures[name].outputs))
    usual, found = (
        model.run(function, inputs)[output] for function in (name, functions_of(manifest, name)["bfloat16"])
    )
    rms = float(np.sqrt(np.mean((found - usual) ** 2)))
    assert 0 < rms <= RMS.get(f"{manifest.task}/{manifest.name}", RMS[manifest.task])
    if output != "image":
        return
    # The sum with the picture is float32: in bfloat16 there are 256 values between 0.5 and 1.
    assert np.unique(found).size > np.unique(usual).size / 4


@pytest.mark.parametrize("sigma", [2, 3, 5, 10, 15, 25, 50])
@pytest.mark.parametrize("name", ["denoise", "denoise_correlated"])
def test_faint_noise_is_not_lost_in_the_rounding(name: str, sigma: int, registry: Registry) -> None:
    manifest = registry.find("denoise")
    model = registry.load(manifest.id)
    for clean in (skimage.data.astronaut()[60:316, 60:316], skimage.data.chelsea()[22:278, 90:346]):
        noisy = clean + np.random.default_rng(sigma).normal(0, sigma, clean.shape)
        image = (np.clip(np.rint(noisy), 0, 255) / 255).astype(np.float32)
        inputs = {"image": image[None], "level": np.full((1, 1, 1, 1), sigma / 75, np.float32)}
        errors = []
        for function in (name, functions_of(manifest, name)["bfloat16"]):
            limited = limit_correction(image, model.run(function, inputs)["image"][0], sigma / 255)
            errors.append(np.mean(np.square(np.rint(np.clip(limited, 0, 1) * 255) - clean)))
        assert 10 * np.log10(errors[1] / errors[0]) < LOSS


@pytest.mark.parametrize(("task", "name"), [("denoise", "denoise"), ("superres", "x2")])
def test_tiled_is_near_untiled(task: str, name: str, registry: Registry) -> None:
    network = Network(registry, registry.find(task), TILES, precision="bfloat16")
    for height, width in few_borders(network.smallest):
        pixels = picture(height, width, 3)
        tiled = network.run(name, pixels, network.smallest)
        assert np.abs(tiled - network.untiled(name, pixels)).max() <= TILES, (height, width)


def enlarge(registry: Registry, pixels: NDArray[Any], precision: Any) -> tuple[NDArray[Any], str]:
    """Return `pixels` two times as large, and the precision that is told."""

    async def work() -> tuple[NDArray[Any], str]:
        engine = LocalEngine(registry, precision=precision)
        try:
            context = replace(RequestContext("test"), exact=pixels.dtype == np.uint16)  # as the pipeline does
            answer = await superres(Picture(pixels), SuperresOptions(), engine, context)
            return answer.picture.pixels, answer.decisions["precision"]
        finally:
            await engine.close(60)

    return asyncio.run(work())


def test_pictures_of_16_bits_are_exact(registry: Registry) -> None:
    pixels = skimage.data.coffee()[100:190, 200:300]
    deep = pixels.astype(np.uint16) * 257
    usual, found = (enlarge(registry, deep, precision) for precision in ("float32", "bfloat16"))
    np.testing.assert_array_equal(found[0], usual[0])
    assert found[1] == usual[1] == "float32"
    usual, found = (enlarge(registry, pixels, precision) for precision in ("float32", "bfloat16"))
    assert 0 < np.abs(found[0].astype(int) - usual[0]).max() <= 4
    assert (usual[1], found[1]) == ("float32", "bfloat16")
