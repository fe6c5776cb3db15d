"""MNIST as the pack has it: 10,000 training digits, sorted by class, and the 10,000 official test digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from training.data.packs import Packs

HELD_OUT = 500


def training_digits(packs: Packs) -> np.ndarray:
    """Return the digits to learn from, float32 (9500, 28, 28, 1) in [0, 1], in a fixed random order."""
    return _shuffled(packs.root)[HELD_OUT:]


def validation_digits(packs: Packs) -> np.ndarray:
    """Return the 500 training digits that are held out, float32 (500, 28, 28, 1) in [0, 1]."""
    return _shuffled(packs.root)[:HELD_OUT]


def test_digits(packs: Packs) -> np.ndarray:
    """Return the 10,000 test digits, float32 (10000, 28, 28, 1) in [0, 1], in the file's order."""
    return _pictures(packs, "digits/t10k-images-idx3-ubyte.gz")


def random_digits(packs: Packs, seed: int, batch: int, *, key: str) -> Callable[[int], dict[str, np.ndarray]]:
    """Return `make(index)`, which draws `batch` training digits as the array `key`, float32 (N,28,28,1) in [0, 1]."""
    digits = training_digits(packs)
    return lambda index: {key: digits[np.random.default_rng([seed, index]).integers(len(digits), size=batch)]}


@lru_cache(maxsize=2)
def _shuffled(root: Path) -> np.ndarray:
    digits = _pictures(Packs(root), "digits/train10k-images-idx3-ubyte.gz")
    return digits[np.random.default_rng(0).permutation(len(digits))]


def _pictures(packs: Packs, path: str) -> np.ndarray:
    return (packs.idx(path) / np.float32(255))[..., None].astype(np.float32)
