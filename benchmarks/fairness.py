"""Who waits for whom beside a greedy client, under four policies: `python -m benchmarks.fairness [--real]`.

A simulator with a virtual clock: one device that takes 4 + 1.5 n milliseconds for a batch of n tiles, at most 16. Eight
polite clients send pictures of one tile, a fifth of what the device can do; one greedy client sends pictures of forty
tiles, 145 % of it. The service's own policy and cost table, beside first-come batches across requests (as Triton,
TensorFlow Serving, Ray Serve and LitServe form them), strict priority, and the earliest deadline first. Of each:

* the seconds that a polite picture takes, its 95th percentile in full batches over its own service (goal: two);
* how many polite pictures are done within their deadline of a second (goal: 99 %);
* the greedy client's share of the tiles done, and, where everybody always wants the device, that of a job, which weighs
  one where each of two others weighs four: a ninth is due to it (goal: no more than three points under that);
* tiles a batch, beside first-come's (goal: 97 %), and how busy the device was.

`--real` has the service's scheduler feed such a device, which sleeps, from 64 callers, and says how much of the time it
was at work (goal: 90 %); then it sends requests over HTTP to the service, over a model that takes ten times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import io
import math
import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import numpy as np
from PIL import Image

from app.engine.fair_queue import FairQueue, QueuedRequest
from app.engine.latency_model import LatencyModel
from app.engine.protocol import BACKGROUND, INTERACTIVE, Arrays, InferenceRequest, RequestContext
from app.engine.scheduler import Scheduler
from benchmarks import results, service

LIMIT, CALL, TILE = 16, 0.004, 0.0015
FULL = CALL + LIMIT * TILE
CAPACITY = LIMIT / FULL
POLITE, POLITE_LOAD, GREEDY_LOAD, GREEDY_TILES, IN_FLIGHT = 8, 0.2, 1.45, 40, 4
SOON, LATE = 1.0, 30.0
"""Deadlines of polite and of greedy pictures, in seconds."""
PIXELS = 64
SECONDS, WARM_UP = 120.0, 5.0
GREEDY = "greedy"
SLOWER, SIDE = 10, 64
"""Of the model behind HTTP: how many times as long it takes, and the side of its tiles in pixels."""
_IMAGE = np.zeros((1, 8, 8, 3), np.float32)


class Policy(Protocol):
    """A queue that forms batches."""

    def add(self, waiting: QueuedRequest) -> None: ...

    def take(self) -> list[QueuedRequest]: ...

    def __len__(self) -> int: ...


class Ordered:
    """Batches of whoever comes first by `rank`."""

    def __init__(self, rank: Callable[[QueuedRequest], tuple[float, ...]]) -> None:
        self._rank = rank
        self._heap: list[tuple[tuple[float, ...], int, QueuedRequest]] = []

    def add(self, waiting: QueuedRequest) -> None:
        heapq.heappush(self._heap, (self._rank(waiting), waiting.order, waiting))

    def take(self) -> list[QueuedRequest]:
        return [heapq.heappop(self._heap)[-1] for _ in range(min(LIMIT, len(self._heap)))]

    def __len__(self) -> int:
        return len(self._heap)


def fair() -> Policy:
    """Return the service's own policy, with a cost table as its warm-up leaves it."""
    latency = LatencyModel()
    for tiles in (1, 2, 4, 8, 16):
        latency.record("m", "s", PIXELS, tiles, seconds_of(tiles))
    return FairQueue[QueuedRequest](latency)


POLICIES: dict[str, Callable[[], Policy]] = {
    "fair tiles (this service)": fair,
    "first come, first served": lambda: Ordered(lambda waiting: (waiting.order,)),
    "strict priority": lambda: Ordered(lambda waiting: (-waiting.request.context.weight, waiting.order)),
    "earliest deadline first": lambda: Ordered(lambda waiting: (waiting.request.context.deadline, waiting.order)),
}


def seconds_of(tiles: int) -> float:
    """Return what the device takes for a batch."""
    return CALL + TILE * tiles


@dataclass(slots=True)
class Request:
    """A picture of `left` tiles, of which a few are in the queue at a time."""

    context: RequestContext
    came: float
    tiles: int
    sent: int = 0
    done: int = 0


@dataclass
class Outcome:
    """What came of a simulation."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    on_time: int = 0
    tiles: dict[str, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    busy: float = 0.0


def simulate(policy: Policy, arrivals: Iterator[Request], until: float) -> Outcome:
    """Return what becomes of `arrivals` (in order of time) until a time, under `policy`."""
    found, orders = Outcome(), iter(range(10**9))
    requests: dict[str, Request] = {}
    coming = next(arrivals, None)
    now = 0.0

    def send(request: Request) -> None:
        request.sent += 1
        tile = InferenceRequest("m", "s", {"image": _IMAGE}, request.context, PIXELS)
        policy.add(QueuedRequest(tile, LIMIT, next(orders)))

    def take_in() -> None:
        nonlocal coming
        while coming is not None and coming.came <= now:
            requests[coming.context.request_id] = coming
            for _ in range(min(IN_FLIGHT, coming.tiles)):
                send(coming)
            coming = next(arrivals, None)

    while now < until:
        take_in()
        if not len(policy):
            if coming is None:
                break
            now = coming.came
            continue
        batch = policy.take()
        size = policy.size_for(batch) if isinstance(policy, FairQueue) else len(batch)
        device_seconds = seconds_of(size)
        now += device_seconds
        if isinstance(policy, FairQueue):
            policy.charge(batch, device_seconds)
        take_in()  # what came while the device was busy
        counted = now > WARM_UP
        if counted:
            found.batches.append(len(batch))
            found.busy += device_seconds
        for waiting in batch:
            request = requests[waiting.request.context.request_id]
            kind = request.context.client.split()[0]
            request.done += 1
            if counted:
                found.tiles[kind] = found.tiles.get(kind, 0) + 1
            if request.sent < request.tiles:
                send(request)
            elif request.done == request.tiles:
                del requests[request.context.request_id]
                if counted:
                    found.waits.setdefault(kind, []).append(now - request.came)
                    found.on_time += kind == "polite" and now <= request.context.deadline
    for request in requests.values():  # those that still wait are late, if their time is up
        if request.context.client.startswith("polite") and request.context.deadline < now:
            found.waits.setdefault("polite", []).append(now - request.came)
    return found


def beside_a_greedy_one(seed: int = 0) -> Iterator[Request]:
    """Yield what polite clients and a greedy one send, in order of time."""
    dice = random.Random(seed)
    rates = {f"polite {place}": CAPACITY * POLITE_LOAD / POLITE for place in range(POLITE)}
    rates["greedy"] = CAPACITY * GREEDY_LOAD / GREEDY_TILES
    heads = [(dice.expovariate(rate), client) for client, rate in rates.items()]
    heapq.heapify(heads)
    for number in range(10**9):
        now, client = heapq.heappop(heads)
        heapq.heappush(heads, (now + dice.expovariate(rates[client]), client))
        polite = client != "greedy"
        weight, patience = (INTERACTIVE, SOON) if polite else (BACKGROUND, LATE)
        context = RequestContext(str(number), client, now + patience, weight=weight)
        yield Request(context, now, 1 if polite else GREEDY_TILES)


def everybody_always() -> Iterator[Request]:
    """Yield three pictures that never end, of two who wait and of a job, more tiles of each than a batch takes."""
    for number, (client, weight) in enumerate([("one", INTERACTIVE), ("two", INTERACTIVE), ("job", BACKGROUND)]):
        for part in range(LIMIT):
            patience = SOON if weight == INTERACTIVE else LATE
            yield Request(RequestContext(f"{number} {part}", client, patience, weight=weight), 0.0, 10**9)


def rows(seconds: float = SECONDS) -> list[dict[str, float | str]]:
    """Return a row a policy, of so many seconds of virtual time."""
    found: list[dict[str, float | str]] = []
    results = {
        name: (
            simulate(make(), beside_a_greedy_one(), seconds),
            simulate(make(), everybody_always(), seconds),
        )
        for name, make in POLICIES.items()
    }
    first_come = statistics.mean(results["first come, first served"][0].batches)
    for name, (mixed, always) in results.items():
        waits = sorted(mixed.waits["polite"])
        slowest = waits[int(0.95 * len(waits))]
        found.append(
            {
                "policy": name,
                "polite, median (ms)": 1000 * statistics.median(waits),
                "polite, 95th percentile (ms)": 1000 * slowest,
                "over its own service, in full batches": (slowest - seconds_of(1)) / FULL,
                "on time (%)": 100 * mixed.on_time / len(waits),
                "greedy client's tiles (%)": 100 * mixed.tiles.get("greedy", 0) / sum(mixed.tiles.values()),
                "a job's, all saturating (%)": 100 * always.tiles.get("job", 0) / sum(always.tiles.values()),
                "tiles a batch": float(statistics.mean(mixed.batches)),
                "beside first-come (%)": 100 * statistics.mean(mixed.batches) / first_come,
                "device busy (%)": 100 * mixed.busy / (seconds - WARM_UP),
            }
        )
    return found


class Sleeper:
    """The device, asleep for as long as it would work; `busy` is for how long it was."""

    def __init__(self) -> None:
        self.busy = 0.0

    def __call__(self, model: str, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002
        begun = time.perf_counter()
        time.sleep(seconds_of(len(inputs["image"])))
        self.busy += time.perf_counter() - begun
        return inputs


async def kept_busy(seconds: float, callers: int = 64) -> float:
    """Return the share of the time in which the scheduler keeps a device at work, in per cent."""
    device = Sleeper()
    scheduler = Scheduler(device)

    def request(place: int) -> InferenceRequest:
        return InferenceRequest(
            "m", "s", {"image": np.zeros((1, 64, 64, 3), np.float32)}, RequestContext(str(place), str(place)), 4096
        )

    await scheduler.measure(request(0), LIMIT)
    begun, device.busy = time.perf_counter(), 0.0

    async def context(place: int) -> None:
        while time.perf_counter() < begun + seconds:
            await scheduler.submit(request(place), LIMIT)

    await asyncio.gather(*(context(place) for place in range(callers)))
    share = 100 * device.busy / (time.perf_counter() - begun)
    await scheduler.close(10)
    return share


@dataclass
class Answers:
    """What a caller got over HTTP."""

    waits: list[float] = field(default_factory=list)
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


async def ask(client: httpx.AsyncClient, answers: Answers) -> None:
    begun = time.monotonic()
    answer = await client.post("/denoise", files={"image": picture()}, data={"strength": "0.3", "format": "png"})
    answers.statuses[answer.status_code] += 1
    answers.waits.append(time.monotonic() - begun if answer.status_code == 200 else math.inf)


async def call(url: str, key: str, rate: float, seconds: float) -> Answers:
    """Send pictures at random moments, so many a second, whatever becomes of those before; return what came back."""
    found, dice = Answers(), random.Random(key)
    going: set[asyncio.Task[None]] = set()
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, headers={"X-API-Key": key}) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            task = asyncio.create_task(ask(client, found))
            going.add(task)
            task.add_done_callback(going.discard)
            found.sent += 1
            await asyncio.sleep(dice.expovariate(rate))
        for task in going:
            if key == GREEDY:
                task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
    return found


def greedy(url: str, seconds: float, told: multiprocessing.Queue[Answers]) -> None:
    """Be the greedy caller, in a process of its own: what it costs to send so much must not hold up the others."""
    told.put(asyncio.run(call(url, GREEDY, CAPACITY / SLOWER * GREEDY_LOAD, seconds)))


async def politely(url: str, keys: list[str], seconds: float) -> list[Answers]:
    rate = CAPACITY / SLOWER * POLITE_LOAD / POLITE
    return await asyncio.gather(*(call(url, key, rate, seconds) for key in keys))


def picture() -> bytes:
    """Return a picture of one tile."""
    file = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), 128, np.uint8)).save(file, "PNG")
    return file.getvalue()


def over_http(seconds: float) -> dict[str, float]:
    """Return what polite callers and a greedy one meet, each with a key of its own."""
    keys = [f"polite-{place}" for place in range(POLITE)]
    options = {"api_keys": ",".join([*keys, GREEDY]), "max_batch": str(LIMIT)}
    cost = ["--fixed", str(SLOWER * CALL), "--per-megapixel", str(SLOWER * TILE / SIDE**2 * 1e6)]
    processes = multiprocessing.get_context("spawn")
    with service.running("benchmarks.costed", *cost, **options) as (url, _):
        alone = statistics.median(asyncio.run(call(url, keys[0], 2.0, 10.0)).waits)
        with httpx.Client(base_url=url, headers={"X-API-Key": GREEDY}) as client:
            before = service.metrics(client)
            told: multiprocessing.Queue[Answers] = processes.Queue()
            other = processes.Process(target=greedy, args=(url, seconds, told))
            other.start()
            time.sleep(WARM_UP)  # until it is there
            answers = asyncio.run(politely(url, keys, seconds - WARM_UP))
            after = service.metrics(client)
            bulk = told.get(timeout=600)
            other.join()
    polite = sorted(wait for one in answers for wait in one.waits)
    slowest = polite[int(0.95 * len(polite))]
    tiles, batches = (after[name] - before[name] for name in ("restore_batch_size_sum", "restore_batch_size_count"))
    return {
        "polite, alone (s)": alone,
        "polite, median (s)": statistics.median(polite),
        "polite, 95th percentile (s)": slowest,
        "over its own service, in full batches": (slowest - alone) / (SLOWER * FULL),
        "on time (%)": 100 * sum(wait <= SLOWER * SOON for wait in polite) / len(polite),
        "polite pictures": len(polite),
        "greedy pictures, sent": bulk.sent,
        "greedy pictures, done": bulk.statuses[200],
        "greedy pictures, refused": bulk.statuses[503],
        "tiles a batch": tiles / batches,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--real", action="store_true", help="over HTTP, in place of the simulator")
    arguments.add_argument("--seconds", type=float, default=60.0, help="of the real one")
    arguments.add_argument("--no-record", action="store_true", help="print the real figures and write no file")
    wish = arguments.parse_args()
    if wish.real:
        busy = asyncio.run(kept_busy(wish.seconds / 4))
        figures = {"device at work (%)": busy, **over_http(wish.seconds)}
        results.keep("fairness", dict(figures), record=not wish.no_record)
        return
    table = rows()
    print("| " + " | ".join(table[0]) + " |\n" + "|---" * len(table[0]) + "|")
    for row in table:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()) + " |")


if __name__ == "__main__":
    main()
