"""How a filled hole looks, which PSNR does not measure: a blur has the highest PSNR where nothing is known.

`FeatureDistance` compares with the truth as a network sees both, `detail` compares the hole with its surroundings.
"""

from __future__ import annotations

import cv2
import numpy as np
from keras import ops

from training.architectures import vgg19
from training.data.packs import Packs

WEIGHTS = "vgg19/vgg19_block1_conv1_to_block5_conv2_u8.npz"
LAYERS = ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv4", "block5_conv2")
MARGIN = 32
"""Pixels around a hole that the network sees."""
RING = 32
"""Width, in pixels, of the surroundings whose detail a hole is compared with."""
BANDS = ((0.0, 1.0), (1.0, 2.0))
"""Deviations, in pixels, of the two Gaussians whose difference is a band: about the Laplacian at that size."""
QUANTIZATION = 0.25
"""Added to the energy of a pixel: below it, there is only rounding."""


class FeatureDistance:
    """The distance of a filled hole to the truth by activations of VGG19, after LPIPS (Zhang et al. 2018).

    At every position the activations of a layer are scaled to length 1; the squared differences are averaged over the
    hole, and the layers are summed with equal weights. LPIPS weighs channels by what people said; those weights are not
    used here, so figures are not those of LPIPS.
    """

    def __init__(self, packs: Packs) -> None:
        self._network = vgg19.build(LAYERS, packs.weights(WEIGHTS))

    def __call__(self, found: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> float:
        """Return the distance of `found` to `truth`, uint8 (height, width, 3), over `missing`, bool (height, width)."""
        rows, columns = np.nonzero(missing)
        part = (
            slice(max(0, rows.min() - MARGIN), rows.max() + 1 + MARGIN),
            slice(max(0, columns.min() - MARGIN), columns.max() + 1 + MARGIN),
        )
        pair = np.stack([found[part], truth[part]]).astype(np.float32) / 255
        activations, hole, total = self._network(pair), missing[part].astype(np.float32), 0.0
        for name in LAYERS:
            both = ops.convert_to_numpy(activations[name])
            one, other = both / (np.linalg.norm(both, axis=-1, keepdims=True) + 1e-6)
            weight = cv2.resize(hole, one.shape[1::-1], interpolation=cv2.INTER_AREA)
            total += float((np.square(one - other).sum(axis=-1) * weight).sum() / weight.sum())
        return total


def detail(picture: np.ndarray, missing: np.ndarray) -> float:
    """Return how much fine detail a hole has, as a share of that of its surroundings: 1 is the same, 0 a flat area.

    The energy of two bands of the luma, about the Laplacian at 1 and 2 pixels, in `missing`, bool (height, width), over
    that within RING pixels of it. Energies are geometric means over the pixels, so that a few edges do not outweigh the
    rest; the result is the geometric mean of both bands. `picture` is uint8 (height, width, 3).
    """
    gray = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING + 1,) * 2)
    ring = cv2.dilate(missing.astype(np.uint8), kernel).astype(bool) & ~missing
    bands = [np.log(np.square(_blur(gray, fine) - _blur(gray, coarse)) + QUANTIZATION) for fine, coarse in BANDS]
    return float(np.exp(np.mean([band[missing].mean() - band[ring].mean() for band in bands])))


def _blur(gray: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(gray, (0, 0), deviation) if deviation else gray
