"""Noise as cameras leave it in files: made at the sensor in linear light, then demosaiced, developed, reduced, encoded.

After Brooks et al. 2019 (Unprocessing Images for Learned Raw Denoising, arXiv 1811.11127), without the color matrix:
a picture is taken back to the sensor, gets noise there, and is developed again. The same is done without noise, and
only the difference is added to the picture, so that it is neither blurred by the demosaicing nor reduced again.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

WHITE = 0.98
"""What a sensor's brightest value is at most, so that its noise is not cut on one side everywhere in white."""


class Camera(NamedTuple):
    """How a picture is taken and kept; `draw` draws one."""

    read: float
    """Deviation of the noise in the dark, of the sensor's range."""
    shot: float
    """Variance of the noise at full brightness, above that in the dark."""
    gains: tuple[float, float, float]
    """What white balance multiplies red, green and blue by."""
    gamma: float
    """The tone curve's exponent, linear light to the file's values."""
    demosaic: bool
    """False for a sensor that sees all colors at each pixel, or a film that is scanned."""
    smooth: float
    """Deviation of the camera's own blurring of color noise, in pixels; 0 for none. Luma is blurred a fifth as far."""
    sharpen: float
    """How much of the detail is added once more after that."""
    scale: float
    """Sensor pixels a pixel of the file, both ways; below 1 it was enlarged."""
    qualities: tuple[int, ...]
    """The qualities of the JPEG encoders that the file goes through, one after the other."""
    gray: bool = False
    """Whether it is turned to gray before it is encoded."""


def draw(random: np.random.Generator) -> Camera:
    """Return a camera as files show them: from a good one in daylight to a phone's at night."""
    level = np.exp(random.uniform(np.log(0.002), np.log(0.16)))
    qualities = tuple(int(q) for q in random.integers(60, 99, random.choice([0, 1, 2], p=[0.3, 0.55, 0.15])))
    return Camera(
        read=float(level * random.uniform(0.1, 1.0)),
        shot=float((level * random.uniform(0.5, 2.0)) ** 2),
        gains=(float(random.uniform(1.2, 2.4)), 1.0, float(random.uniform(1.2, 2.4))),
        gamma=float(random.uniform(1.8, 2.6)),
        demosaic=bool(random.random() < 0.8),
        smooth=float(random.uniform(0.5, 3.0)) if random.random() < 0.45 else 0.0,
        sharpen=float(random.uniform(0.2, 1.5)) if random.random() < 0.4 else 0.0,
        scale=float(np.exp(random.uniform(np.log(0.6), np.log(2.5)))) if random.random() < 0.7 else 1.0,
        qualities=qualities,
    )


def take(picture: np.ndarray, camera: Camera, random: np.random.Generator) -> np.ndarray:
    """Return `picture`, (height, width, 3) RGB, as the camera leaves it: the same with noise and the encoder's damage.

    Where the camera is `gray`, compare with `to_gray(picture)`.
    """
    noisy = picture.astype(np.float32) / 255 + noise_of(picture, camera, random)
    file = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    if camera.gray:
        file = to_gray(file)
    for number, quality in enumerate(camera.qualities):
        # A file that is saved again has often been cut: the second encoder's blocks lie elsewhere.
        top, left = (0, 0) if number == 0 else (int(n) for n in random.integers(0, 8, 2))
        padded = cv2.copyMakeBorder(file, top, 0, left, 0, cv2.BORDER_REFLECT)
        file = encode(padded, quality, halved=bool(random.random() < 0.7))[top:, left:]
    return np.ascontiguousarray(file)


def to_gray(picture: np.ndarray) -> np.ndarray:
    """Return a picture of three equal channels, (height, width, 3)."""
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)


def noise_of(picture: np.ndarray, camera: Camera, random: np.random.Generator) -> np.ndarray:
    """Return the noise in `picture` before it is encoded: float32 of the same shape, 1 being the whole range."""
    height, width = picture.shape[:2]
    # Even, for Bayer's filter.
    sensor = picture.astype(np.float32) / 255
    sensor = _resize(sensor, (2 * round(height * camera.scale / 2), 2 * round(width * camera.scale / 2)))
    linear = WHITE * np.power(np.clip(sensor, 0, 1), camera.gamma) / np.array(camera.gains, np.float32)
    signal = _mosaic(linear) if camera.demosaic else linear
    deviation = np.sqrt(camera.read**2 + camera.shot * signal)
    noisy = signal + deviation * random.standard_normal(signal.shape, np.float32)
    difference = _develop(np.clip(noisy, 0, 1), camera) - _develop(signal, camera)
    return _resize(difference, (height, width))


def _resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return float32 `picture` (height, width, 3) at `size` (height, width)."""
    if picture.shape[:2] == size:
        return picture
    smaller = size[0] < picture.shape[0]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _mosaic(linear: np.ndarray) -> np.ndarray:
    """Return what a sensor under Bayer's filter sees, (height, width): red at the even rows and columns."""
    mosaic = linear[..., 1].copy()
    mosaic[::2, ::2] = linear[::2, ::2, 0]
    mosaic[1::2, 1::2] = linear[1::2, 1::2, 2]
    return mosaic


def _develop(signal: np.ndarray, camera: Camera) -> np.ndarray:
    """Return the picture of what the sensor saw, in the file's values: demosaiced, balanced, smoothed, sharpened."""
    if camera.demosaic:
        # OpenCV names the pattern by its second row and column: its BG is a sensor that begins with red.
        counts = np.rint(signal * 65535).astype(np.uint16)
        signal = cv2.demosaicing(counts, cv2.COLOR_BayerBG2RGB).astype(np.float32) / 65535
    balanced = np.clip(signal * np.array(camera.gains, np.float32) / WHITE, 0, 1)
    picture = np.power(balanced, 1 / camera.gamma)
    if camera.smooth:
        luma = picture @ np.array([0.299, 0.587, 0.114], np.float32)
        color = cv2.GaussianBlur(picture - luma[..., None], (0, 0), camera.smooth)
        picture = cv2.GaussianBlur(luma, (0, 0), 0.2 * camera.smooth)[..., None] + color
    if camera.sharpen:
        picture = picture + camera.sharpen * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0))
    return picture


def encode(picture: np.ndarray, quality: int, *, halved: bool) -> np.ndarray:
    """Return RGB `picture` after a JPEG encoder, its color at half resolution where `halved`."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if halved else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], settings)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded two lines above
    return np.ascontiguousarray(decoded[..., ::-1])
