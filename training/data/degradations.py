"""What spoils a picture, on the device (`keras.ops`) or on the host (numpy, real codecs)."""

from __future__ import annotations

from typing import Any

import cv2
import keras
import numpy as np
from keras import ops

LEVEL_UNIT = 75 / 255
"""The noise (root mean square, pictures in [0, 1]) that level 1 stands for."""


def level_of(degraded: Any, clean: Any) -> Any:
    """Return the level of each sample, (N,1,1,1): the RMS of degraded - clean over 75/255, whatever the kind."""
    return ops.sqrt(ops.mean(ops.square(degraded - clean), axis=(1, 2, 3), keepdims=True)) / LEVEL_UNIT


def correlation_of(degraded: Any, clean: Any) -> Any:
    """Return how alike the degradation of neighboring pixels is, (N,1,1,1) in [0, 1]: 0 for white noise.

    It is twice the RMS of the degradation's means over 2x2 pixels, over its RMS, less one: white noise halves.
    """
    noise = degraded - clean
    coarse = ops.sqrt(ops.mean(ops.square(ops.average_pool(noise, 2)), axis=(1, 2, 3), keepdims=True))
    fine = ops.sqrt(ops.mean(ops.square(noise), axis=(1, 2, 3), keepdims=True))
    return ops.clip(2.0 * coarse / (fine + 1e-6) - 1.0, 0.0, 1.0)


def eight_bit(picture: Any) -> Any:
    """Return `picture` clipped to [0, 1] and rounded to 8 bit."""
    return ops.round(ops.clip(picture, 0.0, 1.0) * 255.0) / 255.0


def gaussian_noise(clean: Any, seed: keras.random.SeedGenerator, highest: float = 60 / 255) -> Any:
    """Return `clean` [N,H,W,C] plus white noise of a deviation drawn evenly from 0 to `highest` for each sample."""
    deviation = keras.random.uniform((ops.shape(clean)[0], 1, 1, 1), 0.0, highest, seed=seed)
    return clean + deviation * keras.random.normal(ops.shape(clean), seed=seed)


def smeared_noise(clean: Any, seed: keras.random.SeedGenerator) -> Any:
    """Return `clean` [N,H,W,C] with noise in blobs: rising with brightness, colored, smeared, clipped, 8 bit.

    Variance is `read² + shot * value`, mostly small as in real files; a share of the noise is common to the channels,
    and shares of it are smeared over 3x3 and 5x5 pixels, as demosaicing, in-camera denoising and scaling do. Of some
    samples the noise is then sharpened.
    """
    shape = ops.shape(clean)
    each = (shape[0], 1, 1, 1)
    common = keras.random.uniform(each, 0.0, 1.0, seed=seed)
    noise = ops.sqrt(1 - common) * keras.random.normal(shape, seed=seed)
    noise = noise + ops.sqrt(common) * keras.random.normal((shape[0], shape[1], shape[2], 1), seed=seed)
    # White noise leaves a binomial filter with the root of the sum of its squared weights: dividing keeps its spread.
    once, twice = _smear(noise, (1, 2, 1)) / 0.375, _smear(noise, (1, 4, 6, 4, 1)) / 0.2734375
    kinds = keras.random.uniform((3, *each), 0.0, 1.0, seed=seed)
    kinds = ops.square(kinds) / ops.sqrt(ops.sum(ops.power(kinds, 4), axis=0))
    noise = kinds[0] * noise + kinds[1] * once + kinds[2] * twice
    # Sharpening leaves grain without anything coarse: of scanned film, and of files that were sharpened twice.
    sharpened = ops.maximum(keras.random.uniform(each, -1.0, 1.5, seed=seed), 0.0)
    noise = noise - sharpened * _smear(noise, (1, 8, 28, 56, 70, 56, 28, 8, 1))
    noise = noise / ops.sqrt(ops.mean(ops.square(noise), axis=(1, 2, 3), keepdims=True))
    read = 0.12 * ops.square(keras.random.uniform(each, 0.0, 1.0, seed=seed))
    shot = 0.02 * ops.power(keras.random.uniform(each, 0.0, 1.0, seed=seed), 4)
    return eight_bit(clean + noise * ops.sqrt(ops.square(read) + shot * ops.clip(clean, 0.0, 1.0)))


def _smear(noise: Any, weights: tuple[int, ...]) -> Any:
    kernel = np.outer(weights, weights).astype("float32") / sum(weights) ** 2
    kernel = np.repeat(kernel[..., None, None], noise.shape[-1], axis=2)
    return ops.depthwise_conv(noise, ops.convert_to_tensor(kernel), padding="same")


def jpeg(clean: np.ndarray, random: np.random.Generator, lowest: int = 25, highest: int = 95) -> np.ndarray:
    """Return `clean` (uint8 HWC RGB) after light noise (half of the time) and a JPEG encoder at a random quality.

    The noise is smeared by up to 1.2 pixels, as demosaicing and in-camera denoising do before a camera encodes.
    """
    picture = clean.astype(np.float32)
    if random.random() < 0.5:
        noise = cv2.GaussianBlur(random.normal(0, 1, picture.shape), (0, 0), random.uniform(0.2, 1.2))
        picture += (noise * (random.uniform(0, 12) / noise.std())).astype(np.float32)
    picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    quality = int(random.integers(lowest, highest + 1))
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if random.random() < 0.7 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], settings)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded two lines above
    return np.ascontiguousarray(decoded[..., ::-1])


def sharpen(picture: np.ndarray, amount: float) -> np.ndarray:
    """Return `picture` (uint8 HWC) with `amount` times its detail, of about a pixel, added."""
    values = picture.astype(np.float32)
    return np.clip(np.rint(values + amount * (values - cv2.GaussianBlur(values, (0, 0), 1.0))), 0, 255).astype(np.uint8)
