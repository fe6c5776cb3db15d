"""Runs the exemplar method: a first filling by the model, if there is one, and the rest on threads of its own."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Engine, RequestContext
from app.errors import DeadlineExceeded
from app.imaging import holes
from app.imaging.exemplar import fill as exemplar_fill
from app.imaging.holes import Mask
from app.imaging.picture import Floats
from app.imaging.tiles import Box
from app.tasks.inpaint import neural
from models.manifest import Manifest

LARGE = 1_000_000
"""Windows of more pixels are processed one at a time, to bound the memory."""
MAX_THREADS = 4
GUIDE_SIDE = 128
"""The model fills a hole for the first filling at the first of the sizes 1, 1/2, 1/4 … with a side of at most this."""


async def make_guide(
    image: Floats, unknown: Mask, core: Box, manifest: Manifest, engine: Engine, context: RequestContext
) -> Floats:
    """Return a first filling of `image`, float32 (height, width, channels) in [0, 1], with the same aspect ratio.

    It is small: only the coarsest level needs it. `unknown`, bool (height, width), is missing, and `core` the hole.
    Raises errors of the engine.
    """

    def shrink() -> tuple[Floats, Mask, Box]:
        small, hole, box = image, unknown, core
        while max(box.height, box.width) > GUIDE_SIDE or not holes.is_thin(hole[box.slices], holes.THIN):
            small, hole = holes.downscale_by_two(small, hole)
            box = Box(box.top // 2, box.left // 2, (box.bottom + 1) // 2, (box.right + 1) // 2)
        return small, hole, box

    small, hole, box = await asyncio.to_thread(shrink)
    return await neural.fill(small, hole, manifest, engine, context, box)


async def fill(
    planes: NDArray[Any],
    unknown: Mask,
    core: Box,
    guide: Floats | None,
    has_alpha: bool,
    engine: Engine,
    context: RequestContext,
) -> NDArray[Any]:
    """Return `planes`, uint8 or uint16 (height, width, planes), with what is `unknown` in `core` filled.

    On a CPU, the time counts as device time: it takes the same cores. Ends early if the request is cancelled, and
    raises DeadlineExceeded if its deadline has passed.
    """
    cancelled = threading.Event()

    def check() -> None:
        if cancelled.is_set() or time.monotonic() > context.deadline:
            raise DeadlineExceeded("The request was not finished before its deadline and was cancelled.")

    def run() -> tuple[NDArray[Any], float]:
        begun = time.thread_time()
        check()
        hole = np.zeros_like(unknown)
        hole[core.slices] = unknown[core.slices]
        filled = exemplar_fill.fill(planes, unknown, hole, guide, has_alpha=has_alpha, check=check)
        return filled, time.thread_time() - begun

    try:
        filled, seconds = await asyncio.get_running_loop().run_in_executor(_pool(unknown.size > LARGE), run)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    if not engine.accelerated:
        context.usage.device_seconds += seconds
    return filled


@functools.cache
def _pool(large: bool) -> ThreadPoolExecutor:
    """Return threads that serve nothing else, so that decoding, encoding and the device never wait for them."""
    threads = 1 if large else min(MAX_THREADS, os.cpu_count() or 1)
    return ThreadPoolExecutor(threads, thread_name_prefix="exemplar-large" if large else "exemplar")
