"""denoise/photo on Ray Serve's `@serve.batch`, as its users set it up: `python -m benchmarks.rivals.ray_server --help`.

What is batched is the tile: a request hands in all of its own at once, first come first served across requests.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.rivals.denoiser import Denoiser, Values, decode, encode, options, place

ROOT = Path(__file__).resolve().parents[2]


class Denoising:
    """Decodes, denoises tiles in batches, encodes; what computes does so on threads, as Ray Serve's own guide says."""

    def __init__(self, folder: str, threads: int, batch: int) -> None:
        self._denoiser = Denoiser(Path(folder), threads)
        self._batched.set_max_batch_size(batch)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)  # type: ignore[misc,untyped-decorator,unused-ignore]
    async def _batched(self, tiles: list[Values]) -> list[Values]:
        return await asyncio.to_thread(self._denoiser.run, tiles)

    async def __call__(self, request: Request) -> Response:
        async with request.form() as form:
            data = await form["image"].read()  # type: ignore[union-attr]
        pixels = await asyncio.to_thread(decode, data)
        result = np.empty_like(pixels)
        some = asyncio.Semaphore(64)  # its tiles are not all in memory at once

        async def one(tile: Any) -> None:
            where, inner, values = tile
            try:
                place(result, where, inner, await self._batched(values))
            finally:
                some.release()

        async with asyncio.TaskGroup() as group:
            for tile in self._denoiser.tiles(pixels):
                await some.acquire()
                group.create_task(one(tile))
        return Response(await asyncio.to_thread(encode, result), media_type="image/jpeg")


def main() -> None:
    wish = options(__doc__)
    cores = len(os.sched_getaffinity(0))
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    # A cluster of its own, whatever else runs here.
    ray.init("local", num_cpus=cores, include_dashboard=False, logging_level="warning", runtime_env=environment)
    serve.start(http_options={"host": "127.0.0.1", "port": wish.port})
    deployment = serve.deployment(
        Denoising,
        num_replicas=wish.workers,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0.5},
    )
    folder = str(wish.folder.resolve())
    serve.run(deployment.bind(folder, max(1, cores // wish.workers), wish.batch), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
