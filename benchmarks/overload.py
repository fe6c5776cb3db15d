"""Sends twice the load that the service can handle: `python -m benchmarks.overload [--seconds 300] [--side 512]`.

First measures the best throughput: 16 clients that send the next picture to `/denoise` as soon as they have an answer.
Then sends pictures at random times at twice that rate, each with a time limit of `--patience` seconds (`Cancel-After`).
A refused client gives up if `Retry-After` exceeds its time limit; otherwise it retries when told, as long as the total
wait is within 1.5 times the first `Retry-After`. Reports:

* how many accepted requests were answered in time (goal: all), and the throughput relative to the best (goal: 0.95);
* how many retries were accepted within 1.5 times the first `Retry-After` (goal: all);
* all other answers, by kind (goal: none).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import skimage.data
from PIL import Image

from benchmarks import results, service

CLIENTS = 16
RETRY_BOUND = 1.5


@dataclass
class Outcomes:
    """Counts of answers. `waits` are (first `Retry-After`, seconds until accepted) of accepted retries."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    gave_up: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    retries_refused: int = 0
    seconds: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)


def make_pictures(side: int, count: int = 64) -> list[bytes]:
    """Return `count` different noisy JPEGs of `side` × `side` pixels."""
    clean = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((side, side))).astype(np.int16)
    found = []
    for seed in range(count):
        file = io.BytesIO()
        noisy = clean + np.random.default_rng(seed).integers(-20, 21, clean.shape, dtype=np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
        found.append(file.getvalue())
    return found


def add_comment(picture: bytes, number: int) -> bytes:
    """Return the JPEG with a comment whose length depends on `number`, so that all requests differ."""
    comment = bytes(number % 60_000)
    return picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:]


async def measure_best_throughput(client: httpx.AsyncClient, files: list[bytes], seconds: float) -> float:
    """Return pictures per second with CLIENTS concurrent requests at all times."""
    until = time.monotonic() + seconds
    done = 0

    async def send_in_a_loop(place: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            (await client.post("/denoise", files={"image": files[place % len(files)]})).raise_for_status()
            done += time.monotonic() < until

    await asyncio.gather(*(send_in_a_loop(place) for place in range(CLIENTS)))
    return done / seconds


async def send_with_retries(client: httpx.AsyncClient, picture: bytes, patience: float, outcomes: Outcomes) -> None:
    """Send a picture, and retry as told within `RETRY_BOUND` times the first `Retry-After`; count the outcome."""
    begun, first_wait = time.monotonic(), 0.0
    while True:
        sent = time.monotonic()
        answer = await client.post("/denoise", files={"image": picture}, headers={"Cancel-After": f"{patience:g}s"})
        if answer.status_code == 200:
            outcomes.in_time += 1
            outcomes.seconds.append(time.monotonic() - sent)
            if first_wait:
                outcomes.waits.append((first_wait, sent - begun))
            return
        slug = answer.json()["type"].rpartition("/")[2]
        if slug == "deadline-exceeded":
            outcomes.late += 1
            return
        if slug != "overloaded":
            outcomes.other[f"{answer.status_code} {slug}"] += 1
            return
        outcomes.refused += 1
        wait = float(answer.headers["retry-after"])
        if first_wait and time.monotonic() + wait > begun + RETRY_BOUND * first_wait:
            outcomes.retries_refused += 1
            return
        if wait > patience:
            outcomes.gave_up += 1
            return
        first_wait = first_wait or wait
        await asyncio.sleep(wait)


async def measure_overload(options: argparse.Namespace, url: str) -> dict[str, float | int | str]:
    """Run the benchmark and return its figures."""
    files, outcomes, dice, numbers = make_pictures(options.side), Outcomes(), random.Random(0), itertools.count()
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await measure_best_throughput(client, files, 10)
        pace = await measure_best_throughput(client, files, options.best_seconds)
        begun = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        while time.monotonic() < begun + options.seconds:
            picture = add_comment(dice.choice(files), next(numbers))
            task = asyncio.create_task(send_with_retries(client, picture, options.patience, outcomes))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(dice.expovariate(options.times * pace))
        done = outcomes.in_time
        await asyncio.gather(*under_way)
        after = await measure_best_throughput(client, files, options.best_seconds)
    accepted_at_once = sum(waited <= first_wait + 1 for first_wait, waited in outcomes.waits)
    retries = len(outcomes.waits) + outcomes.retries_refused
    return {
        "best throughput, pictures per second": pace,
        "best throughput, afterwards": after,
        "under overload, pictures per second": done / options.seconds,
        "under overload, relative to the best": done / options.seconds / statistics.mean([pace, after]),
        "answered in time": outcomes.in_time,
        "accepted but late": outcomes.late,
        "in time (%)": 100 * outcomes.in_time / max(1, outcomes.in_time + outcomes.late),
        "median seconds per answer": statistics.median(outcomes.seconds),
        "refused": outcomes.refused,
        "gave up": outcomes.gave_up,
        "retried": retries,
        "accepted at the first retry (%)": 100 * accepted_at_once / max(1, retries),
        "accepted within 1.5 × (%)": 100 * len(outcomes.waits) / max(1, retries),
        "other answers": str(dict(outcomes.other)),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--side", type=int, default=512, help="height and width of the pictures (default: 512)")
    arguments.add_argument("--seconds", type=float, default=300.0, help="duration of the overload (default: 300)")
    arguments.add_argument(
        "--best-seconds", type=float, default=40.0, help="duration of the measurement of the best throughput"
    )
    arguments.add_argument(
        "--patience", type=float, default=20.0, help="deadline of a request in seconds (default: 20)"
    )
    arguments.add_argument("--times", type=float, default=2.0, help="the load, as a multiple of the best throughput")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    with service.running() as (url, _):
        figures = asyncio.run(measure_overload(options, url))
    results.report("overload", figures, record=not options.no_record)


if __name__ == "__main__":
    main()
