"""Compares four scheduling policies with one greedy client: `python -m benchmarks.fairness [--real]`.

A simulator with a virtual clock: one device that takes 4 + 1.5 n milliseconds for a batch of n tiles, at most 16. Eight
polite clients send pictures of one tile, 20 % of the device's capacity; one greedy client sends pictures of forty
tiles, 145 % of it. Compares the service's own policy and latency model with first-come batching across requests (as in
Triton, TensorFlow Serving, Ray Serve and LitServe), strict priority, and earliest deadline first. For each:

* the latency of polite pictures: the 95th percentile, minus its own batch, in full batches (goal: at most two);
* the share of polite pictures finished within their deadline of a second (goal: 99 %);
* the greedy client's share of all tiles; and, when all clients saturate the device, the share of a job with weight one
  besides two clients with weight four each: one ninth (goal: at most three points less);
* tiles per batch, relative to first-come batching (goal: 97 %), and how busy the device was.

`--real` runs the service's scheduler with a sleeping device and 64 clients, and reports how much of the time the device
was busy (goal: 90 %); then it sends requests over HTTP to the service with a simulated model ten times as slow.
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
POLITE_DEADLINE_S, GREEDY_DEADLINE_S = 1.0, 30.0
PIXELS = 64
SECONDS, WARM_UP = 120.0, 5.0
GREEDY = "greedy"
SLOWER, SIDE = 10, 64
"""The simulated model over HTTP: its slowdown factor, and the side of its tiles in pixels."""
_IMAGE = np.zeros((1, 8, 8, 3), np.float32)


class Policy(Protocol):
    """A queue that forms batches. Implemented by `FairQueue`."""

    def add(self, waiting: QueuedRequest) -> None: ...

    def take(self) -> list[QueuedRequest]: ...

    def __len__(self) -> int: ...


class Ordered:
    """Batches of the requests with the lowest `rank`."""

    def __init__(self, rank: Callable[[QueuedRequest], tuple[float, ...]]) -> None:
        self._rank = rank
        self._heap: list[tuple[tuple[float, ...], int, QueuedRequest]] = []

    def add(self, waiting: QueuedRequest) -> None:
        heapq.heappush(self._heap, (self._rank(waiting), waiting.order, waiting))

    def take(self) -> list[QueuedRequest]:
        return [heapq.heappop(self._heap)[-1] for _ in range(min(LIMIT, len(self._heap)))]

    def __len__(self) -> int:
        return len(self._heap)


def make_fair_queue() -> Policy:
    """Return the service's own policy, with a latency model as after warm-up."""
    latency = LatencyModel()
    for tiles in (1, 2, 4, 8, 16):
        latency.record("m", "s", PIXELS, tiles, batch_seconds(tiles))
    return FairQueue[QueuedRequest](latency)


POLICIES: dict[str, Callable[[], Policy]] = {
    "fair tiles (this service)": make_fair_queue,
    "first come, first served": lambda: Ordered(lambda waiting: (waiting.order,)),
    "strict priority": lambda: Ordered(lambda waiting: (-waiting.request.context.weight, waiting.order)),
    "earliest deadline first": lambda: Ordered(lambda waiting: (waiting.request.context.deadline, waiting.order)),
}


def batch_seconds(tiles: int) -> float:
    """Return how long the device takes for a batch."""
    return CALL + TILE * tiles


@dataclass(slots=True)
class Request:
    """A picture of `tiles` tiles, of which at most IN_FLIGHT are queued at a time; `arrived` is its arrival time."""

    context: RequestContext
    arrived: float
    tiles: int
    sent: int = 0
    done: int = 0


@dataclass
class Outcome:
    """The result of a simulation."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    on_time: int = 0
    tiles: dict[str, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    busy: float = 0.0


def simulate(policy: Policy, arrivals: Iterator[Request], until: float) -> Outcome:
    """Simulate `policy` with `arrivals` (in order of time) until the time `until`, in seconds."""
    outcome, orders = Outcome(), iter(range(10**9))
    requests: dict[str, Request] = {}
    next_arrival = next(arrivals, None)
    now = 0.0

    def send(request: Request) -> None:
        request.sent += 1
        tile = InferenceRequest("m", "s", {"image": _IMAGE}, request.context, PIXELS)
        policy.add(QueuedRequest(tile, LIMIT, next(orders)))

    def admit_arrivals() -> None:
        nonlocal next_arrival
        while next_arrival is not None and next_arrival.arrived <= now:
            requests[next_arrival.context.request_id] = next_arrival
            for _ in range(min(IN_FLIGHT, next_arrival.tiles)):
                send(next_arrival)
            next_arrival = next(arrivals, None)

    while now < until:
        admit_arrivals()
        if not len(policy):
            if next_arrival is None:
                break
            now = next_arrival.arrived
            continue
        batch = policy.take()
        size = policy.size_for(batch) if isinstance(policy, FairQueue) else len(batch)
        seconds = batch_seconds(size)
        now += seconds
        if isinstance(policy, FairQueue):
            policy.charge(batch, seconds)
        admit_arrivals()  # what arrived while the device was busy
        counted = now > WARM_UP
        if counted:
            outcome.batches.append(len(batch))
            outcome.busy += seconds
        for waiting in batch:
            request = requests[waiting.request.context.request_id]
            kind = request.context.client.split()[0]
            request.done += 1
            if counted:
                outcome.tiles[kind] = outcome.tiles.get(kind, 0) + 1
            if request.sent < request.tiles:
                send(request)
            elif request.done == request.tiles:
                del requests[request.context.request_id]
                if counted:
                    outcome.waits.setdefault(kind, []).append(now - request.arrived)
                    outcome.on_time += kind == "polite" and now <= request.context.deadline
    for request in requests.values():  # unfinished requests past their deadline are late
        if request.context.client.startswith("polite") and request.context.deadline < now:
            outcome.waits.setdefault("polite", []).append(now - request.arrived)
    return outcome


def polite_and_greedy_arrivals(seed: int = 0) -> Iterator[Request]:
    """Yield the requests of the polite clients and the greedy one, in order of time."""
    dice = random.Random(seed)
    rates = {f"polite {place}": CAPACITY * POLITE_LOAD / POLITE for place in range(POLITE)}
    rates["greedy"] = CAPACITY * GREEDY_LOAD / GREEDY_TILES
    heads = [(dice.expovariate(rate), client) for client, rate in rates.items()]
    heapq.heapify(heads)
    for number in range(10**9):
        now, client = heapq.heappop(heads)
        heapq.heappush(heads, (now + dice.expovariate(rates[client]), client))
        polite = client != "greedy"
        weight, patience = (INTERACTIVE, POLITE_DEADLINE_S) if polite else (BACKGROUND, GREEDY_DEADLINE_S)
        context = RequestContext(str(number), client, now + patience, weight=weight)
        yield Request(context, now, 1 if polite else GREEDY_TILES)


def saturating_arrivals() -> Iterator[Request]:
    """Yield endless pictures of two interactive clients and a job, each with more tiles queued than fit in a batch."""
    for number, (client, weight) in enumerate([("one", INTERACTIVE), ("two", INTERACTIVE), ("job", BACKGROUND)]):
        for part in range(LIMIT):
            patience = POLITE_DEADLINE_S if weight == INTERACTIVE else GREEDY_DEADLINE_S
            yield Request(RequestContext(f"{number} {part}", client, patience, weight=weight), 0.0, 10**9)


def compare_policies(seconds: float = SECONDS) -> list[dict[str, float | str]]:
    """Return one row per policy, each from `seconds` of virtual time."""
    table: list[dict[str, float | str]] = []
    outcomes = {
        name: (
            simulate(make(), polite_and_greedy_arrivals(), seconds),
            simulate(make(), saturating_arrivals(), seconds),
        )
        for name, make in POLICIES.items()
    }
    first_come = statistics.mean(outcomes["first come, first served"][0].batches)
    for name, (mixed, always) in outcomes.items():
        waits = sorted(mixed.waits["polite"])
        slowest = waits[int(0.95 * len(waits))]
        table.append(
            {
                "policy": name,
                "polite, median (ms)": 1000 * statistics.median(waits),
                "polite, 95th percentile (ms)": 1000 * slowest,
                "95th percentile without own batch, in full batches": (slowest - batch_seconds(1)) / FULL,
                "on time (%)": 100 * mixed.on_time / len(waits),
                "greedy client's tiles (%)": 100 * mixed.tiles.get("greedy", 0) / sum(mixed.tiles.values()),
                "job's tiles, all saturating (%)": 100 * always.tiles.get("job", 0) / sum(always.tiles.values()),
                "tiles per batch": float(statistics.mean(mixed.batches)),
                "relative to first-come (%)": 100 * statistics.mean(mixed.batches) / first_come,
                "device busy (%)": 100 * mixed.busy / (seconds - WARM_UP),
            }
        )
    return table


class SleepingDevice:
    """A device that sleeps for the duration of a batch; `busy` is the total in seconds."""

    def __init__(self) -> None:
        self.busy = 0.0

    def __call__(self, model: str, signature: str, inputs: Arrays) -> Arrays:  # noqa: ARG002
        begun = time.perf_counter()
        time.sleep(batch_seconds(len(inputs["image"])))
        self.busy += time.perf_counter() - begun
        return inputs


async def measure_device_use(seconds: float, clients: int = 64) -> float:
    """Return the share of the time, in percent, that the scheduler keeps a device busy."""
    device = SleepingDevice()
    scheduler = Scheduler(device)

    def make_request(place: int) -> InferenceRequest:
        return InferenceRequest(
            "m", "s", {"image": np.zeros((1, 64, 64, 3), np.float32)}, RequestContext(str(place), str(place)), 4096
        )

    await scheduler.measure(make_request(0), LIMIT)
    begun, device.busy = time.perf_counter(), 0.0

    async def send_in_a_loop(place: int) -> None:
        while time.perf_counter() < begun + seconds:
            await scheduler.submit(make_request(place), LIMIT)

    await asyncio.gather(*(send_in_a_loop(place) for place in range(clients)))
    share = 100 * device.busy / (time.perf_counter() - begun)
    await scheduler.close(10)
    return share


@dataclass
class Answers:
    """The answers that a client got: latencies in seconds (infinity for errors) and statuses."""

    waits: list[float] = field(default_factory=list)
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


async def send(client: httpx.AsyncClient, answers: Answers) -> None:
    """Send a picture and record its answer."""
    begun = time.monotonic()
    answer = await client.post("/denoise", files={"image": make_picture()}, data={"strength": "0.3", "format": "png"})
    answers.statuses[answer.status_code] += 1
    answers.waits.append(time.monotonic() - begun if answer.status_code == 200 else math.inf)


async def send_at_rate(url: str, key: str, rate: float, seconds: float) -> Answers:
    """Send `rate` pictures per second at random times, without waiting for answers; return the answers."""
    answers, dice = Answers(), random.Random(key)
    going: set[asyncio.Task[None]] = set()
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, headers={"X-API-Key": key}) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            task = asyncio.create_task(send(client, answers))
            going.add(task)
            task.add_done_callback(going.discard)
            answers.sent += 1
            await asyncio.sleep(dice.expovariate(rate))
        for task in going:
            if key == GREEDY:
                task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
    return answers


def run_greedy_client(url: str, seconds: float, queue: multiprocessing.Queue[Answers]) -> None:
    """Run the greedy client; in a process of its own, so that sending does not slow down the polite clients."""
    queue.put(asyncio.run(send_at_rate(url, GREEDY, CAPACITY / SLOWER * GREEDY_LOAD, seconds)))


async def run_polite_clients(url: str, keys: list[str], seconds: float) -> list[Answers]:
    rate = CAPACITY / SLOWER * POLITE_LOAD / POLITE
    return await asyncio.gather(*(send_at_rate(url, key, rate, seconds) for key in keys))


def make_picture() -> bytes:
    """Return a PNG of one tile."""
    file = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), 128, np.uint8)).save(file, "PNG")
    return file.getvalue()


def measure_over_http(seconds: float) -> dict[str, float]:
    """Run the polite clients and the greedy one, each with its own API key, and return the figures."""
    keys = [f"polite-{place}" for place in range(POLITE)]
    options = {"api_keys": ",".join([*keys, GREEDY]), "max_batch": str(LIMIT)}
    cost = ["--fixed", str(SLOWER * CALL), "--per-megapixel", str(SLOWER * TILE / SIDE**2 * 1e6)]
    processes = multiprocessing.get_context("spawn")
    with service.running("benchmarks.simulated_service", *cost, **options) as (url, _):
        alone = statistics.median(asyncio.run(send_at_rate(url, keys[0], 2.0, 10.0)).waits)
        with httpx.Client(base_url=url, headers={"X-API-Key": GREEDY}) as client:
            before = service.metrics(client)
            queue: multiprocessing.Queue[Answers] = processes.Queue()
            other = processes.Process(target=run_greedy_client, args=(url, seconds, queue))
            other.start()
            time.sleep(WARM_UP)  # until it has started
            answers = asyncio.run(run_polite_clients(url, keys, seconds - WARM_UP))
            after = service.metrics(client)
            bulk = queue.get(timeout=600)
            other.join()
    polite = sorted(wait for one in answers for wait in one.waits)
    slowest = polite[int(0.95 * len(polite))]
    tiles, batches = (after[name] - before[name] for name in ("restore_batch_size_sum", "restore_batch_size_count"))
    return {
        "polite, alone (s)": alone,
        "polite, median (s)": statistics.median(polite),
        "polite, 95th percentile (s)": slowest,
        "95th percentile without own batch, in full batches": (slowest - alone) / (SLOWER * FULL),
        "on time (%)": 100 * sum(wait <= SLOWER * POLITE_DEADLINE_S for wait in polite) / len(polite),
        "polite pictures": len(polite),
        "greedy pictures, sent": bulk.sent,
        "greedy pictures, done": bulk.statuses[200],
        "greedy pictures, refused": bulk.statuses[503],
        "tiles per batch": tiles / batches,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--real", action="store_true", help="use the real scheduler and HTTP instead of the simulator"
    )
    arguments.add_argument("--seconds", type=float, default=60.0, help="duration of --real")
    arguments.add_argument("--no-record", action="store_true", help="print the figures of --real and write no file")
    options = arguments.parse_args()
    if options.real:
        busy = asyncio.run(measure_device_use(options.seconds / 4))
        figures = {"device busy (%)": busy, **measure_over_http(options.seconds)}
        results.report("fairness", dict(figures), record=not options.no_record)
        return
    table = compare_policies()
    print("| " + " | ".join(table[0]) + " |\n" + "|---" * len(table[0]) + "|")
    for row in table:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()) + " |")


if __name__ == "__main__":
    main()
