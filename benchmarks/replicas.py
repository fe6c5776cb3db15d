"""What tiles cost on their way to replicas, and how these share a burst: `python -m benchmarks.replicas`.

Needs Ray: `.venv-ray/bin/python` after `make test-ray`. The model gives its input back after a pause, so what is left
is the way.
`--router serve` lets Ray Serve choose the replica instead of us.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from app.engine.loader import Model
from app.engine.local import LocalEngine
from app.engine.protocol import Arrays, InferenceRequest, ModelServer, RequestContext
from app.engine.ray import Cluster, RayEngine
from app.engine.ray import cluster as ray_cluster
from app.engine.ray.replica import Replica
from app.engine.registry import Registry
from benchmarks import results
from benchmarks.costed import SimulatedLoader
from models.manifest import Manifest

SHELF = Path("models/published")
SERVES_OWN = "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter"
PAUSE_S = 0.05
FORGOTTEN_S = 12.0
"""Seconds after which Ray Serve has forgotten how long a replica's queue was."""


class _Echo:
    """A model that gives its input back, and the process that it is in."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002
        time.sleep(PAUSE_S)
        return {**inputs, "process": np.array([os.getpid()], np.float32)}


class _Echoes(SimulatedLoader):
    """Loads an echo for every model."""

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:  # noqa: ARG002
        return _Echo()


class EchoReplica(Replica):
    """A replica without TensorFlow."""

    def __init__(self, folders: Sequence[Path], preload: Sequence[str], max_batch: int, budget: int) -> None:
        super().__init__(folders, preload, max_batch, _Echoes(), budget=budget)


def request(engine: ModelServer, side: int) -> InferenceRequest:
    """Return a tile of noise for whichever version of the model `engine` has."""
    inputs = {"image": np.random.default_rng(0).random((1, side, side, 3), np.float32)}
    return InferenceRequest(
        engine.find("denoise", "photo").id, "denoise", inputs, RequestContext("benchmark"), side * side
    )


async def one_by_one(engine: ModelServer, side: int, count: int) -> float:
    """Return the median milliseconds of a tile, the pause not counted."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        await engine.run(request(engine, side))
        found.append(time.perf_counter() - begun - PAUSE_S)
    return statistics.median(found) * 1e3


async def burst(engine: RayEngine, size: int) -> tuple[int, float]:
    """Send tickets at once; return the most that one replica got, and the time taken in times of an even share's."""
    begun = time.perf_counter()
    answers = await asyncio.gather(*(engine.run(request(engine, 64)) for _ in range(size)))
    seconds = time.perf_counter() - begun
    shares = Counter(int(answer["process"][0]) for answer in answers)
    return max(shares.values()), seconds / (PAUSE_S * size / engine.worker_count)


async def measure(engine: RayEngine, local: LocalEngine, side: int, rounds: int) -> dict[str, float | int | str]:
    for each in (engine, local):
        await one_by_one(each, side, 5)
    here, there = [], []
    for _ in range(rounds):
        here.append(await one_by_one(local, side, 10))
        there.append(await one_by_one(engine, side, 10))
    most, times = [], []
    for _ in range(rounds):
        await asyncio.sleep(FORGOTTEN_S)
        largest, time_taken = await burst(engine, 8)
        most.append(largest)
        times.append(time_taken)
    steady = [await burst(engine, 8) for _ in range(4 * rounds)]
    await engine.close(10)
    await local.close(10)
    return {
        "tile here, ms": statistics.median(here),
        "tile on a replica, ms": statistics.median(there),
        "burst of 8 on 2 after a pause, most on one": " ".join(map(str, most)),
        "its time, of an even share's": statistics.median(times),
        "bursts without a pause, most on one": " ".join(str(largest) for largest, _ in steady),
        "their time, of an even share's": statistics.median([taken for _, taken in steady]),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--router", choices=("ours", "serve"), default="ours")
    arguments.add_argument("--side", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    wish = arguments.parse_args()
    router = SERVES_OWN if wish.router == "serve" else ray_cluster.ROUTER
    with mock.patch.object(ray_cluster, "ROUTER", router):
        engine = RayEngine([SHELF], Cluster(replicas=2), max_batch=1, replica=EchoReplica)
        while engine.worker_count < 2:
            time.sleep(0.1)
    local = LocalEngine(Registry([SHELF], _Echoes()), max_batch=1)
    figures = asyncio.run(measure(engine, local, wish.side, wish.rounds))
    results.keep("replicas", {"router": wish.router, "side": wish.side, **figures}, record=not wish.no_record)


if __name__ == "__main__":
    main()
