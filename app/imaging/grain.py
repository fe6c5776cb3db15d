"""Grain for a smooth filling: noise like that of the flattest blocks around it, so that a repaired scratch is not bare.

A network that is trained to be right on average paints no noise. The grain is Gaussian, with the covariance of the
channels and the correlation of neighbors that are measured around the hole.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.holes import Mask
from app.imaging.picture import Floats

BLOCK = 16
SHARE, LEAST = 0.2, 4
"""The share of the known blocks that is measured, the flattest, and their least number."""
MAX_BLOCKS = 4096
"""Blocks of a large picture are thinned out to about this number."""
FAINT = 0.6 / 255
"""Grain of less deviation is rounding."""
CLIPPED = 2.5 / 255
"""Blocks whose mean is closer to black or white are left out: their noise is cut off."""
TILE = 256
"""The grain repeats after so many pixels."""


@dataclass(frozen=True, slots=True)
class Grain:
    """Noise around a hole: `covariance` of the channels, (channels, channels), and the `blur` of white noise."""

    covariance: NDArray[np.float64]
    blur: float
    """The deviation, in pixels, of a Gaussian that gives white noise the measured correlation of neighbors."""

    @property
    def is_faint(self) -> bool:
        """Whether it is not worth adding."""
        return float(np.sqrt(self.covariance.diagonal().mean())) < FAINT


def measure(image: Floats, unknown: Mask) -> Grain | None:
    """Return the grain of `image`, float32 (height, width, channels) in [0, 1], where it is not `unknown`.

    `unknown` is bool (height, width). Returns None if too few blocks of 16×16 pixels are known.
    """
    blocks, known = _cut_blocks(image), ~_cut_blocks(unknown[..., None]).any(axis=(1, 2, 3))
    mean = blocks.mean(axis=(1, 2, 3))
    blocks = blocks[known & (mean > CLIPPED) & (mean < 1 - CLIPPED)].astype(np.float64)
    if len(blocks) < LEAST:
        return None
    residual = _subtract_planes(blocks)
    flattest = np.argsort(residual.var(axis=(1, 2, 3)), kind="stable")[: max(LEAST, int(SHARE * len(blocks)))]
    chosen = residual[flattest]
    degrees = chosen[..., 0].size * (1 - 3 / BLOCK**2)
    covariance = np.einsum("nhwc,nhwd->cd", chosen, chosen) / degrees
    return Grain(covariance, _blur_of(_neighbor_correlation(chosen)))


def add(image: Floats, hole: Mask, grain: Grain, top: int, left: int) -> Floats:
    """Return `image`, float32 (height, width, channels), with grain where `hole` is set, clipped to [0, 1].

    `top` and `left` are its position in the whole picture: the same pixel gets the same grain in every part.
    """
    rows, columns = np.nonzero(hole)
    result = image.copy()
    tile = _draw(grain)
    result[rows, columns] += tile[(rows + top) % TILE, (columns + left) % TILE]
    return np.clip(result, 0, 1, out=result)


def _cut_blocks(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return (blocks, BLOCK, BLOCK, channels) of `image`, every one or, of many, evenly spaced ones."""
    down, across = (side // BLOCK for side in image.shape[:2])
    step = max(1, int(np.ceil(np.sqrt(down * across / MAX_BLOCKS))))
    whole = image[: down * BLOCK, : across * BLOCK].reshape(down, BLOCK, across, BLOCK, image.shape[2])
    chosen = whole[::step, :, ::step].swapaxes(1, 2)
    return chosen.reshape(chosen.shape[0] * chosen.shape[1], BLOCK, BLOCK, image.shape[2])


def _subtract_planes(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a plane does not explain of each block and channel."""
    slope = np.arange(BLOCK) - (BLOCK - 1) / 2
    slope /= np.sqrt(BLOCK * np.square(slope).sum())
    down = np.einsum("nhwc,h->nc", blocks, slope)[:, None, None] * slope[:, None, None]
    across = np.einsum("nhwc,w->nc", blocks, slope)[:, None, None] * slope[None, :, None]
    residual: NDArray[np.float64] = blocks - blocks.mean(axis=(1, 2), keepdims=True) - down - across
    return residual


def _neighbor_correlation(residual: NDArray[np.float64]) -> float:
    """Return the correlation of pixels side by side."""
    energy = np.square(residual).mean()
    products = (residual[:, 1:] * residual[:, :-1]).mean() + (residual[:, :, 1:] * residual[:, :, :-1]).mean()
    return float(products / 2 / energy) if energy > 0 else 0.0


def _blur_of(correlation: float) -> float:
    """Return the deviation of the Gaussian after which neighbors of white noise have this correlation."""
    return float(np.sqrt(-0.25 / np.log(min(correlation, 0.9)))) if correlation > 0.05 else 0.0


def _draw(grain: Grain) -> Floats:
    """Return a tile of noise, float32 (TILE, TILE, channels), always the same for the same grain."""
    channels = len(grain.covariance)
    noise = np.random.default_rng(0).standard_normal((TILE, TILE, channels), np.float32)
    if grain.blur:
        margin = int(np.ceil(4 * grain.blur))
        wrapped = np.pad(noise, ((margin, margin), (margin, margin), (0, 0)), mode="wrap")
        blurred = cv2.GaussianBlur(wrapped, (0, 0), grain.blur).reshape(*wrapped.shape)
        noise = np.asarray(blurred[margin:-margin, margin:-margin] / blurred.std(), np.float32)
    mixing = np.linalg.cholesky(grain.covariance + 1e-12 * np.eye(channels))
    return np.asarray(noise @ mixing.T, np.float32)
