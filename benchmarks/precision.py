"""Compares float32, bfloat16 and int8 for the main signature of each default model: `benchmarks.serve --precision`.

One tile of the largest size runs in each precision in turn, in one process, so that other load on the machine affects
all of them; medians are compared. bfloat16 is timed for signatures that do not allow it, too.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import skimage.data
from numpy.typing import NDArray

from app.engine.local import warm_sizes
from app.engine.precision import BFLOAT16, Precision, functions_of, has_bfloat16
from app.engine.protocol import Arrays
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.settings import Settings
from models.manifest import Manifest, Tensor

MAIN = {"denoise": "denoise", "superres": "x2", "segment": "segment", "inpaint": "inpaint", "stylize": "paint"}
"""The signature that a request of a task spends its time in."""


def measure(settings: Settings, rounds: int) -> dict[str, float | int | str]:
    """Return, for each default model, the seconds in float32, how many times as fast the other precisions are, and how
    far their outputs are from float32's (root mean square)."""
    registry = Registry(settings.models_dir, Runtime())
    figures: dict[str, float | int | str] = {}
    for manifest in registry.defaults():
        figures |= _measure_model(registry, manifest, MAIN[manifest.task], rounds)
    return figures


def _measure_model(registry: Registry, manifest: Manifest, signature: str, rounds: int) -> dict[str, float | int | str]:
    model = registry.load(manifest.id)
    quantized = next((entry.sizes[0] for entry in manifest.quantized if entry.signature == signature), None)
    size = quantized or warm_sizes(manifest.geometry)[-1]
    inputs = make_inputs(manifest, signature, size)
    functions = functions_of(manifest, signature)
    if has_bfloat16():
        functions.setdefault("bfloat16", signature + BFLOAT16)
    outputs = {precision: model.run(function, inputs) for precision, function in functions.items()}  # prepares it
    seconds: dict[Precision, list[float]] = {precision: [] for precision in functions}
    for _ in range(rounds):
        for precision, function in functions.items():
            begun = time.perf_counter()
            model.run(function, inputs)
            seconds[precision].append(time.perf_counter() - begun)
    medians = {precision: statistics.median(times) for precision, times in seconds.items()}
    name = f"{manifest.id} {signature} {size[0]}x{size[1]}"
    figures: dict[str, float | int | str] = {f"{name}, float32 (s)": medians["float32"]}
    for other in sorted(medians.keys() - {"float32"}):
        figures[f"{name}, float32 : {other}"] = medians["float32"] / medians[other]
        figures[f"{name}, {other}, difference"] = f"{_difference(outputs['float32'], outputs[other]):.5f}"
    return figures


def _difference(one: Arrays, other: Arrays) -> float:
    return max(float(np.sqrt(np.mean((one[key] - other[key]) ** 2))) for key in one)


def make_inputs(manifest: Manifest, signature: str, size: tuple[int, int]) -> Arrays:
    """Return a noisy photograph of `size` (height, width), and a third of the range for every other input."""
    noise = np.random.default_rng(0).normal(0, 10 / 255, (512, 512, 3))
    photograph = np.clip(skimage.data.astronaut() / 255 + noise, 0, 1).astype(np.float32)
    rows, columns = (np.arange(side) % 512 for side in size)

    def one(name: str, tensor: Tensor) -> NDArray[np.float32]:
        if name == "image":
            return np.ascontiguousarray(photograph[rows][:, columns][None, ..., : tensor.shape[-1]])
        low, high = tensor.range or (0.0, 1.0)
        return np.full(tensor.shape_at(size), low + (high - low) / 3, np.float32)

    return {name: one(name, tensor) for name, tensor in manifest.signatures[signature].inputs.items()}
