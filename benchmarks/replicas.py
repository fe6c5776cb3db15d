"""Measures the overhead of sending tiles to replicas, and how replicas share a burst: `python -m benchmarks.replicas`.

Needs Ray: `.venv-ray/bin/python` after `make test-ray`. The model returns its input after a pause, so the remaining
time is overhead. `--router serve` uses Ray Serve's own router instead of ours.
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
from app.engine.ray import Cluster, RayEngine, cluster
from app.engine.ray.replica import Replica
from app.engine.registry import Registry
from benchmarks import results
from benchmarks.simulated_service import SimulatedLoader
from models.manifest import Manifest

REPOSITORY = Path("models/published")
RAY_SERVE_ROUTER = "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter"
PAUSE_S = 0.05
QUEUE_LENGTH_TTL_S = 12.0
"""Seconds after which Ray Serve discards a replica's cached queue length."""


class _Echo:
    """A model that returns its input and the id of its process, after PAUSE_S."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002
        time.sleep(PAUSE_S)
        return {**inputs, "process": np.array([os.getpid()], np.float32)}


class _EchoLoader(SimulatedLoader):
    """Loads an _Echo for every model."""

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:  # noqa: ARG002
        return _Echo()


class EchoReplica(Replica):
    """A replica without TensorFlow."""

    def __init__(self, folders: Sequence[Path], preload: Sequence[str], max_batch: int, budget: int) -> None:
        super().__init__(folders, preload, max_batch, _EchoLoader(), budget=budget)


def make_request(engine: ModelServer, side: int) -> InferenceRequest:
    """Return a request with a tile of noise for the version of the model that `engine` has."""
    inputs = {"image": np.random.default_rng(0).random((1, side, side, 3), np.float32)}
    return InferenceRequest(
        engine.find("denoise", "photo").id, "denoise", inputs, RequestContext("benchmark"), side * side
    )


async def measure_sequential(engine: ModelServer, side: int, count: int) -> float:
    """Return the median milliseconds per tile, without the pause."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        await engine.run(make_request(engine, side))
        found.append(time.perf_counter() - begun - PAUSE_S)
    return statistics.median(found) * 1e3


async def send_burst(engine: RayEngine, size: int) -> tuple[int, float]:
    """Send `size` requests at once; return the most that one replica got, and the time relative to an even split."""
    begun = time.perf_counter()
    answers = await asyncio.gather(*(engine.run(make_request(engine, 64)) for _ in range(size)))
    seconds = time.perf_counter() - begun
    shares = Counter(int(answer["process"][0]) for answer in answers)
    return max(shares.values()), seconds / (PAUSE_S * size / engine.worker_count)


async def measure(engine: RayEngine, local: LocalEngine, side: int, rounds: int) -> dict[str, float | int | str]:
    for each in (engine, local):
        await measure_sequential(each, side, 5)
    here, there = [], []
    for _ in range(rounds):
        here.append(await measure_sequential(local, side, 10))
        there.append(await measure_sequential(engine, side, 10))
    most, times = [], []
    for _ in range(rounds):
        await asyncio.sleep(QUEUE_LENGTH_TTL_S)
        largest, time_taken = await send_burst(engine, 8)
        most.append(largest)
        times.append(time_taken)
    steady = [await send_burst(engine, 8) for _ in range(4 * rounds)]
    await engine.close(10)
    await local.close(10)
    return {
        "tile, local (ms)": statistics.median(here),
        "tile, replica (ms)": statistics.median(there),
        "burst of 8 on 2 replicas after a pause, most on one": " ".join(map(str, most)),
        "its time, relative to an even split": statistics.median(times),
        "bursts without a pause, most on one": " ".join(str(largest) for largest, _ in steady),
        "their time, relative to an even split": statistics.median([taken for _, taken in steady]),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--router", choices=("ours", "serve"), default="ours", help="router: ours, or that of Ray Serve"
    )
    arguments.add_argument("--side", type=int, default=512, help="height and width of the pictures (default: 512)")
    arguments.add_argument("--rounds", type=int, default=4, help="number of rounds (default: 4)")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    router = RAY_SERVE_ROUTER if options.router == "serve" else cluster.ROUTER
    with mock.patch.object(cluster, "ROUTER", router):
        engine = RayEngine([REPOSITORY], Cluster(replicas=2), max_batch=1, replica=EchoReplica)
        while engine.worker_count < 2:
            time.sleep(0.1)
    local = LocalEngine(Registry([REPOSITORY], _EchoLoader()), max_batch=1)
    figures = asyncio.run(measure(engine, local, options.side, options.rounds))
    results.report(
        "replicas", {"router": options.router, "side": options.side, **figures}, record=not options.no_record
    )


if __name__ == "__main__":
    main()
