"""Bicubic enlargement inside a graph, the same as `training.data.imresize` away from the picture's edge."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from training.data.imresize import matrix


def bicubic(image: keras.KerasTensor, scale: int) -> keras.KerasTensor:
    """Return `image` [N,H,W,C] as [N,scale*H,scale*W,C]: a convolution with a kernel for each phase, edges repeated.

    A resizing operation would need its size as a number; this takes any size and runs alike on every backend.
    """
    padded = ops.pad(image, [[0, 0], [2, 2], [2, 2], [0, 0]], mode="symmetric")
    kernel = ops.convert_to_tensor(bicubic_kernel(image.shape[-1], scale))
    return ops.depth_to_space(ops.conv(padded, kernel, padding="valid"), scale)


def bicubic_kernel(channels: int, scale: int) -> np.ndarray:
    """Return float32 (5, 5, channels, scale**2*channels): each pixel's new ones by row, column and channel."""
    # Away from the edges the rows of the resizing matrix repeat every `scale`: five taps for each phase.
    taps = matrix(9, 9 * scale)[4 * scale : 5 * scale, 2:7]
    kernel = np.zeros((5, 5, channels, scale * scale * channels), np.float32)
    for row in range(scale):
        for column in range(scale):
            phase = np.outer(taps[row], taps[column])
            for channel in range(channels):
                kernel[:, :, channel, (row * scale + column) * channels + channel] = phase
    return kernel
