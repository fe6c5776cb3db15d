"""Twice the load that the service can carry: `python -m benchmarks.overload [--seconds 300] [--side 512]`.

First the best throughput: 16 callers who send the next picture to `/denoise` as soon as they have an answer. Then
pictures come at random moments, twice as many a second, and each has `--patience` seconds (`Cancel-After`). Whoever is
refused goes away if it is told to wait for longer than that, or comes back when it was told, and again as long as that
is within 1.5 times what it was told first. Reported:

* how many of those let in were answered in time (goal: all), and pictures a second beside the best (goal: 0.95);
* how many of those who came back were let in within 1.5 times what they were told (goal: all);
* everything else that was answered, by kind: there must be nothing.
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

CALLERS = 16
BOUND = 1.5


@dataclass
class Account:
    """What callers met. `waits` are (seconds that were told, seconds until it was let in)."""

    in_time: int = 0
    late: int = 0
    refused: int = 0
    gone: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    turned_away: int = 0
    seconds: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)


def pictures(side: int, count: int = 64) -> list[bytes]:
    """Return noisy JPEGs, no two alike."""
    clean = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((side, side))).astype(np.int16)
    found = []
    for seed in range(count):
        file = io.BytesIO()
        noisy = clean + np.random.default_rng(seed).integers(-20, 21, clean.shape, dtype=np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
        found.append(file.getvalue())
    return found


def named(picture: bytes, number: int) -> bytes:
    """Return a JPEG with a comment of a length of its own: no two requests are alike, as those of people are not."""
    comment = bytes(number % 60_000)
    return picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:]


async def best(client: httpx.AsyncClient, files: list[bytes], seconds: float) -> float:
    """Return the pictures a second that come back where there is always one to do."""
    until = time.monotonic() + seconds
    done = 0

    async def context(place: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            (await client.post("/denoise", files={"image": files[place % len(files)]})).raise_for_status()
            done += time.monotonic() < until

    await asyncio.gather(*(context(place) for place in range(CALLERS)))
    return done / seconds


async def ask(client: httpx.AsyncClient, picture: bytes, patience: float, account: Account) -> None:
    """Send a picture, and again when it is told to, as long as that is within `BOUND` times what it was told first."""
    begun, told = time.monotonic(), 0.0
    while True:
        sent = time.monotonic()
        answer = await client.post("/denoise", files={"image": picture}, headers={"Cancel-After": f"{patience:g}s"})
        if answer.status_code == 200:
            account.in_time += 1
            account.seconds.append(time.monotonic() - sent)
            if told:
                account.waits.append((told, sent - begun))
            return
        slug = answer.json()["type"].rpartition("/")[2]
        if slug == "deadline-exceeded":
            account.late += 1
            return
        if slug != "overloaded":
            account.other[f"{answer.status_code} {slug}"] += 1
            return
        account.refused += 1
        wait = float(answer.headers["retry-after"])
        if told and time.monotonic() + wait > begun + BOUND * told:
            account.turned_away += 1
            return
        if wait > patience:
            account.gone += 1
            return
        told = told or wait
        await asyncio.sleep(wait)


async def overload(wish: argparse.Namespace, url: str) -> dict[str, float | int | str]:
    """Return the figures of one run."""
    files, account, dice, numbers = pictures(wish.side), Account(), random.Random(0), itertools.count()
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await best(client, files, 10)
        pace = await best(client, files, wish.best_seconds)
        begun = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        while time.monotonic() < begun + wish.seconds:
            picture = named(dice.choice(files), next(numbers))
            task = asyncio.create_task(ask(client, picture, wish.patience, account))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(dice.expovariate(wish.times * pace))
        done = account.in_time
        await asyncio.gather(*under_way)
        after = await best(client, files, wish.best_seconds)
    at_once = sum(waited <= told + 1 for told, waited in account.waits)
    came_back = len(account.waits) + account.turned_away
    return {
        "best, pictures a second": pace,
        "best, afterwards": after,
        "under load, pictures a second": done / wish.seconds,
        "under load, beside the best": done / wish.seconds / statistics.mean([pace, after]),
        "answered in time": account.in_time,
        "let in and late": account.late,
        "in time (%)": 100 * account.in_time / max(1, account.in_time + account.late),
        "median seconds of an answer": statistics.median(account.seconds),
        "refused": account.refused,
        "told to wait for too long": account.gone,
        "came back when told": came_back,
        "and were let in at once (%)": 100 * at_once / max(1, came_back),
        "and were let in, within 1.5 (%)": 100 * len(account.waits) / max(1, came_back),
        "anything else": str(dict(account.other)),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--side", type=int, default=512)
    arguments.add_argument("--seconds", type=float, default=300.0)
    arguments.add_argument("--best-seconds", type=float, default=40.0)
    arguments.add_argument("--patience", type=float, default=20.0)
    arguments.add_argument("--times", type=float, default=2.0, help="the load, in times of the best throughput")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    wish = arguments.parse_args()
    with service.running() as (url, _):
        figures = asyncio.run(overload(wish, url))
    results.keep("overload", figures, record=not wish.no_record)


if __name__ == "__main__":
    main()
