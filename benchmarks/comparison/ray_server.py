"""denoise/photo on Ray Serve with `@serve.batch`: `python -m benchmarks.comparison.ray_server --help`.

Tiles are batched: a request submits all its tiles at once, and tiles are served first come, first served.
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

from benchmarks.comparison.denoiser import Denoiser, Values, decode, encode, parse_options, paste

ROOT = Path(__file__).resolve().parents[2]


class Denoising:
    """Decodes, denoises tiles in batches, and encodes; computes on threads, as Ray Serve's guide recommends."""

    def __init__(self, folder: str, threads: int, batch: int) -> None:
        self._denoiser = Denoiser(Path(folder), threads)
        self._run_batch.set_max_batch_size(batch)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)  # type: ignore[misc,untyped-decorator,unused-ignore]
    async def _run_batch(self, tiles: list[Values]) -> list[Values]:
        return await asyncio.to_thread(self._denoiser.run, tiles)

    async def __call__(self, request: Request) -> Response:
        async with request.form() as form:
            data = await form["image"].read()  # type: ignore[union-attr]
        pixels = await asyncio.to_thread(decode, data)
        result = np.empty_like(pixels)
        slots = asyncio.Semaphore(64)  # limits the tiles in memory

        async def one(tile: Any) -> None:
            where, inner, values = tile
            try:
                paste(result, where, inner, await self._run_batch(values))
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for tile in self._denoiser.split(pixels):
                await slots.acquire()
                group.create_task(one(tile))
        return Response(await asyncio.to_thread(encode, result), media_type="image/jpeg")


def main() -> None:
    options = parse_options(__doc__)
    cores = len(os.sched_getaffinity(0))
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    # A separate cluster, even if another one runs on this machine.
    ray.init("local", num_cpus=cores, include_dashboard=False, logging_level="warning", runtime_env=environment)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    deployment = serve.deployment(
        Denoising,
        num_replicas=options.workers,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0.5},
    )
    folder = str(options.folder.resolve())
    serve.run(deployment.bind(folder, max(1, cores // options.workers), options.batch), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
