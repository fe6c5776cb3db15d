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


def eight_bit(picture: Any) -> Any:
    """Return `picture` clipped to [0, 1] and rounded to 8 bit."""
    return ops.round(ops.clip(picture, 0.0, 1.0) * 255.0) / 255.0


def gaussian_noise(clean: Any, seed: keras.random.SeedGenerator, highest: float = 60 / 255) -> Any:
    """Return `clean` [N,H,W,C] plus white noise of a deviation drawn evenly from 0 to `highest` for each sample."""
    deviation = keras.random.uniform((ops.shape(clean)[0], 1, 1, 1), 0.0, highest, seed=seed)
    return clean + deviation * keras.random.normal(ops.shape(clean), seed=seed)


def camera_noise(clean: Any, seed: keras.random.SeedGenerator) -> Any:
    """Return `clean` [N,H,W,C] with noise like a camera's: rising with brightness, blurred, coloured, clipped, 8 bit.

    Variance is `read² + shot * value`; a share of the noise is common to the channels, and half of it is smeared
    over neighbouring pixels, as demosaicing and in-camera scaling do.
    """
    shape = ops.shape(clean)
    each = (shape[0], 1, 1, 1)
    white = keras.random.normal(shape, seed=seed)
    grey = keras.random.normal((shape[0], shape[1], shape[2], 1), seed=seed)
    common = keras.random.uniform(each, 0.0, 1.0, seed=seed)
    noise = ops.sqrt(1 - common) * white + ops.sqrt(common) * grey
    # A 3x3 binomial blur has gain 3/8 a side on white noise; dividing by it keeps the deviation.
    binomial = np.outer([1, 2, 1], [1, 2, 1]).astype("float32").reshape(3, 3, 1, 1) / 16
    channels = clean.shape[-1]
    smeared = ops.depthwise_conv(noise, ops.convert_to_tensor(np.repeat(binomial, channels, 2)), padding="same") / 0.375
    share = keras.random.uniform(each, 0.0, 1.0, seed=seed)
    noise = ops.sqrt(1 - share) * noise + ops.sqrt(share) * smeared
    read = keras.random.uniform(each, 0.0, 0.05, seed=seed)
    shot = ops.square(keras.random.uniform(each, 0.0, 0.15, seed=seed))
    return eight_bit(clean + noise * ops.sqrt(ops.square(read) + shot * ops.clip(clean, 0.0, 1.0)))


def jpeg(clean: np.ndarray, random: np.random.Generator, lowest: int = 25, highest: int = 95) -> np.ndarray:
    """Return `clean` (uint8 HWC RGB) after light noise (half of the time) and a real JPEG encoder at a random quality."""
    picture = clean.astype(np.float32)
    if random.random() < 0.5:
        picture += random.normal(0, random.uniform(0, 12), picture.shape).astype(np.float32)
    picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    quality = int(random.integers(lowest, highest + 1))
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if random.random() < 0.7 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], settings)
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
