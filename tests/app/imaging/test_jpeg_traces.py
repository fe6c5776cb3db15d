from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from app.imaging.jpeg_traces import quantization

ASTRONAUT = skimage.data.astronaut()


def encoded(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return `pixels`, (height, width, 1 or 3), as a JPEG encoder leaves them."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file)).reshape(pixels.shape)


@pytest.mark.parametrize(("quality", "steps"), [(50, 1.0), (75, 0.5), (85, 0.3)])
def test_the_steps_of_the_encoder_are_found(quality: int, steps: float) -> None:
    assert quantization(encoded(ASTRONAUT, quality)) == pytest.approx(steps, rel=0.1)


def test_blocks_may_begin_anywhere() -> None:
    assert quantization(encoded(ASTRONAUT, 75)[3:, 5:]) == pytest.approx(0.5, rel=0.1)


def test_gray_pictures() -> None:
    assert quantization(encoded(skimage.data.camera()[..., None], 60)) == pytest.approx(0.8, rel=0.1)


def test_of_good_quality_hardly_any_trace_is_left() -> None:
    assert quantization(encoded(ASTRONAUT, 97)) < 0.2


def test_a_reduced_picture_has_none() -> None:
    assert quantization(encoded(ASTRONAUT, 60)[::2, ::2]) == 0


def test_noise_has_no_steps() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    assert quantization(noise) == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 1), (16, 16, 3), (40, 17, 3)])
def test_small_and_flat_pictures_have_none(shape: tuple[int, int, int]) -> None:
    assert quantization(np.full(shape, 90, np.uint8)) == 0
