"""Signatures in 8 bit on LiteRT, where it is installed: the only module of the service that runs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.protocol import Arrays
from models.manifest import Manifest, QuantizedSignature, Signature


class QuantizedModel:
    """An 8-bit signature in memory: LiteRT's interpreter of its file. Safe to call from several threads: they take
    turns."""

    def __init__(self, folder: Path, manifest: Manifest, quantized: QuantizedSignature) -> None:
        """Raises ImportError where LiteRT is not installed, ValueError or RuntimeError for a file that cannot be read,
        or whose signatures are not those of the manifest."""
        from ai_edge_litert.interpreter import Interpreter

        content = (folder / quantized.file).read_bytes()
        self._interpreter = Interpreter(model_content=content, num_threads=usable_cores())
        self._lock = threading.Lock()
        self._runners = {}
        signature = manifest.signatures[quantized.signature]
        for size in quantized.sizes:
            runner = self._interpreter.get_signature_runner("{}x{}".format(*size))
            problems = _mismatches(runner, signature, size)
            if problems:
                raise ValueError("; ".join(problems))
            self._runners[_shapes({name: tensor.shape_at(size) for name, tensor in signature.inputs.items()})] = runner

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs by name, float32. Raises RuntimeError, or ValueError for inputs that are not a batch of
        one of a size that the file has."""
        runner = self._runners.get(_shapes({name: array.shape for name, array in inputs.items()}))
        if runner is None:
            raise ValueError("the file has no function for this size")
        with self._lock:
            return dict(runner(**inputs))


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mismatches(runner: Any, signature: Signature, size: tuple[int, int]) -> list[str]:
    """Compare names, dtypes and shapes of a LiteRT signature with what the manifest says for `size`."""
    larger = (size[0] * signature.scale, size[1] * signature.scale)
    sides = [
        ("input", runner.get_input_details(), {key: one.shape_at(size) for key, one in signature.inputs.items()}),
        ("output", runner.get_output_details(), {key: one.shape_at(larger) for key, one in signature.outputs.items()}),
    ]
    problems = []
    for where, found, expected in sides:
        defined = {key: (np.dtype(one["dtype"]).name, tuple(map(int, one["shape"]))) for key, one in found.items()}
        wanted = {key: ("float32", shape) for key, shape in expected.items()}
        if defined != wanted:
            problems.append(f"the {where}s at {size[0]}x{size[1]} are {defined}, the manifest says {wanted}")
    return problems


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted(shapes.items()))
