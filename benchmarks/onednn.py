"""Compares TensorFlow with and without oneDNN: `python -m benchmarks.onednn [--rounds 3] [--models FOLDER]`.

TensorFlow decides when it is imported. So processes with and without it run in turn. Each gives the median of three
runs of one tile of each default model in float32, and the medians over processes are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from app.engine.local import warm_sizes
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.settings import Settings
from benchmarks.precision import MAIN, make_inputs


def time_models(models: Path) -> dict[str, float]:
    """Return the seconds of one tile of each default model in the repository `models`, in this process."""
    registry = Registry([models], Runtime())
    seconds = {}
    for manifest in registry.defaults():
        signature, size = MAIN[manifest.task], warm_sizes(manifest.geometry)[-1]
        model, inputs = registry.load(manifest.id), make_inputs(manifest, signature, size)
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            model.run(signature, inputs)
            times.append(time.perf_counter() - begun)
        seconds["{} {} {}x{}".format(manifest.id, signature, *size)] = statistics.median(times[1:])
    return seconds


def compare(models: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the medians of `rounds` processes without oneDNN, and with it, by model."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    command = [sys.executable, "-m", "benchmarks.onednn", "--models", str(models), "--one-process"]
    for _ in range(rounds):
        for setting in (0, 1):
            environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": str(setting)}
            output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
            for name, seconds in json.loads(output.splitlines()[-1]).items():
                found.setdefault(name, ([], []))[setting].append(seconds)
    return {name: (statistics.median(without), statistics.median(using)) for name, (without, using) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (default: 3)")
    parser.add_argument("--models", type=Path, default=Settings().models_dir[0], help="model repository")
    parser.add_argument("--one-process", action="store_true", help="print the seconds of this process as JSON")
    options = parser.parse_args()
    if options.one_process:
        print(json.dumps(time_models(options.models)))
        return
    for name, (without, using) in compare(options.models, options.rounds).items():
        print(f"{name:50} without {without:.3f} s, with oneDNN {using:.3f} s, ratio {without / using:.2f}")


if __name__ == "__main__":
    main()
