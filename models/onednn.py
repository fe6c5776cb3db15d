"""TensorFlow's kernels of oneDNN, on every x86 processor."""

from __future__ import annotations

import os
import platform


def enable_onednn() -> None:
    """Have TensorFlow compute with oneDNN where it would not by itself; call it before TensorFlow is imported.

    By itself it does so only with AVX512-VNNI, AVX512-BF16 or AMX. With AVX-512 alone the published networks are 1.4 to
    1.8 times as fast with it (`python -m benchmarks.onednn`). `TF_ENABLE_ONEDNN_OPTS=0` in the environment turns it
    off.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
