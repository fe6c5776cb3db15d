"""How many pixels of surroundings a network's answer needs: measured, because the full reach is far more."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

SPARE = 2
"""Pixels more than measured, or one multiple where that is more: elsewhere an answer may reach further. Two pixels make
a difference a hundred times smaller where a network never reduces, one multiple where it does and reaches in steps."""


def measure(network: keras.Model, *, scale: int, multiple: int, tolerance: float, background: np.ndarray) -> int:
    """Return the halo in input pixels, a multiple of `multiple`.

    `background` is float32 (1, H, W, C) in [0, 1]. The network runs on it whole and on its right and lower parts,
    which begin at a cut: how far from the cut answers differ by more than `tolerance`, and some to spare, is the halo,
    with every other input at the middle and at both ends of its range.
    """
    height, width = background.shape[1:3]
    cut = height // 2 // multiple * multiple
    reach = 0
    for constants in _constants(network):
        whole = _run(network, background, constants)
        for part, axis in ((background[:, cut:], 1), (background[:, :, cut:], 2)):
            rest = np.take(whole, np.arange(cut * scale, whole.shape[axis]), axis)
            apart = np.abs(_run(network, part, constants) - rest).max(axis=tuple({0, 1, 2, 3} - {axis}))
            far = np.flatnonzero(apart > tolerance)
            if far.size:
                reach = max(reach, (int(far[-1]) + scale) // scale)
    if reach > min(height, width) - cut - multiple:
        raise ValueError(f"the halo of {network.name} is larger than the test picture of {height}×{width} pixels")
    return -(-(reach + max(SPARE, multiple)) // multiple) * multiple if reach else 0


def _constants(network: keras.Model) -> list[dict[str, np.ndarray]]:
    others = {name: tensor for name, tensor in network.input.items() if name != "image"}
    if not others:
        return [{}]
    return [
        {name: np.full([1, *tensor.shape[1:]], value, np.float32) for name, tensor in others.items()}
        for value in (0.05, 0.33, 1.0)
    ]


def _run(network: keras.Model, image: np.ndarray, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    found = network({"image": image, **constants}, training=False)
    return keras.ops.convert_to_numpy(found["image"] if "image" in found else found["probabilities"])
