from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from app.engine.latency_model import LatencyModel
from app.engine.loader import Model
from app.engine.protocol import BACKGROUND, Arrays, InferenceRequest
from app.engine.scheduler import INTERACTIVE_HOLD_S, LONG_BATCH_S, Scheduler
from app.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServiceError, ShuttingDown
from tests.engines import Chain, Costly, Failing, Identity, Recording, Slow, request

CALL = 0.01


class Clock:
    """A clock that moves when `now` is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def scheduler(model: Model, **options: Any) -> Scheduler:
    return Scheduler(lambda _, signature, inputs: model.run(signature, inputs), **options)


def scenario(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(limited())


def value(outputs: Arrays) -> float:
    """Return the value that an image is filled with; it must be a single one."""
    assert outputs["image"].shape[0] == 1
    assert np.ptp(outputs["image"]) == 0
    return float(outputs["image"].flat[0])


def batches_pay() -> LatencyModel:
    """Return latencies of a device that is no slower for eight tiles than for one: `Costly(call=CALL)`."""
    latency = LatencyModel()
    for tiles in (1, 2, 4, 8):
        latency.record("denoise/identity@1", "denoise", 64, tiles, CALL)
    return latency


def send(to: Scheduler, *requests: InferenceRequest, limit: int = 1) -> list[asyncio.Task[Arrays]]:
    return [asyncio.create_task(to.submit(one, limit)) for one in requests]


async def occupied(model: Slow, to: Scheduler, size: int = 8) -> asyncio.Task[Arrays]:
    """Return a request that runs on the device until the gate opens."""
    (first,) = send(to, request(0.0, client="first", size=size))
    await asyncio.to_thread(model.entered.wait, 30)
    return first


def test_result_and_counters() -> None:
    async def work() -> None:
        model = Recording()
        engine = scheduler(model)
        one = request(0.25)
        assert value(await engine.submit(one, 1)) == 0.25
        assert model.calls == [("denoise", 1, [0.25])]
        assert (engine.counters.requests, engine.counters.batches, engine.counters.pixels) == (1, 1, 64)
        assert one.context.usage.device_seconds == engine.counters.busy_seconds > 0
        assert (engine.depth, engine.megapixels, engine.busy) == (0, 0, False)
        await engine.close(10)

    scenario(work)


def test_one_thread_of_its_own_calls_the_device() -> None:
    async def work() -> None:
        model = Recording()
        engine = scheduler(model)
        await asyncio.gather(*send(engine, *(request(i) for i in range(20))))
        assert len(model.threads) == 1
        assert threading.current_thread().name not in model.threads
        await engine.close(10)

    scenario(work)


def test_no_more_than_max_concurrent_batches_run_at_once() -> None:
    async def work() -> None:
        model, record = Slow(), Recording()
        engine = scheduler(Chain(record, model), max_concurrent_batches=2)
        await occupied(model, engine)
        tasks = send(engine, *(request(i) for i in (1, 2, 3)))
        while len(record.calls) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert [call[2] for call in record.calls] == [[0.0], [1.0]]
        assert engine.depth == 2
        model.gate.set()
        assert [value(outputs) for outputs in await asyncio.gather(*tasks)] == [1, 2, 3]
        assert len(record.threads) == 2
        await engine.close(10)

    scenario(work)


@pytest.mark.parametrize("concurrent", [1, 2])
def test_small_requests_run_beside_a_long_batch_and_other_long_ones_wait(concurrent: int) -> None:
    async def work() -> None:
        latency = LatencyModel()
        latency.record("denoise/identity@1", "denoise", 64 * 64, 1, 2 * LONG_BATCH_S)
        latency.record("denoise/identity@1", "denoise", 8 * 8, 1, 0.01)
        model, record = Slow(), Recording()
        to = scheduler(Chain(record, model), max_concurrent_batches=concurrent, latency=latency)
        first = await occupied(model, to, size=64)
        other = send(to, request(2, client="other", size=64))
        small = send(to, *(request(i, client="small", size=8) for i in (3, 4)))
        while len(record.calls) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert [values[0] for _, _, values in record.calls] == [0, 3], "one small request has the other thread"
        model.gate.set()
        await asyncio.gather(first, *other, *small)
        await to.close(10)

    scenario(work)


def test_a_second_of_two_concurrent_batches_is_counted_once() -> None:
    async def work() -> None:
        engine = scheduler(Costly(call=0.1), max_concurrent_batches=2)
        requests = [request(i) for i in range(4)]
        begun = time.perf_counter()
        await asyncio.gather(*send(engine, *requests))
        passed = time.perf_counter() - begun
        assert passed < 0.4, "two at once"
        assert engine.counters.busy_seconds <= passed
        device_seconds = [one.context.usage.device_seconds for one in requests]
        assert sum(device_seconds) == pytest.approx(engine.counters.busy_seconds)
        assert min(device_seconds) < 0.1, "they shared it"
        await engine.close(10)

    scenario(work)


def test_no_job_runs_beside_an_interactive_client_that_used_less() -> None:
    async def work() -> None:
        model, record = Slow(), Recording()
        to = scheduler(Chain(record, model), max_concurrent_batches=2)
        first, second = send(to, *(request(1, client="job", weight=BACKGROUND, size=64) for _ in range(2)))
        while len(record.calls) < 2:  # no other client waits: it has both threads
            await asyncio.sleep(0.01)
        person = send(to, request(2, client="person"))
        more = send(to, *(request(1, client="job", weight=BACKGROUND, size=64) for _ in range(2)))
        await asyncio.sleep(0.1)
        model.gate.set()
        await asyncio.gather(first, second, *person)
        model.gate.clear()
        person = send(to, request(2, client="person"))
        await asyncio.sleep(3 * INTERACTIVE_HOLD_S)
        assert [values[0] for _, _, values in record.calls] == [1, 1, 2, 2], "no job while an interactive request waits"
        model.gate.set()
        await asyncio.gather(*person, *more)
        await to.close(10)

    scenario(work)


def test_what_waits_fills_the_next_batch_up_to_the_limit() -> None:
    async def work() -> None:
        model = Slow()
        record = Recording()
        engine = scheduler(Chain(record, model, Costly(call=CALL)), latency=batches_pay())
        first = await occupied(model, engine)
        rest = send(engine, *(request(i) for i in range(1, 7)), limit=4)
        await asyncio.sleep(0)
        assert engine.depth == 6
        assert engine.megapixels == pytest.approx(6 * 64e-6)
        model.gate.set()
        assert [value(outputs) for outputs in await asyncio.gather(first, *rest)] == [0, 1, 2, 3, 4, 5, 6]
        assert [call[1] for call in record.calls] == [1, 4, 2]
        assert engine.counters.batch_sizes == {1: 1, 4: 1, 2: 1}
        await engine.close(10)

    scenario(work)


def test_results_are_never_mixed_under_load() -> None:
    async def work() -> None:
        dice = random.Random(7)
        engine = scheduler(Chain(Costly(call=CALL), Failing(limit=1e6)), latency=batches_pay())

        async def client(place: int) -> None:
            name = f"client {place}"
            for i in range(25):
                number = float(place * 1000 + i)
                size = dice.choice([4, 8])
                task = asyncio.create_task(engine.submit(request(number, client=name, size=size), 8))
                if dice.random() < 0.1:
                    await asyncio.sleep(0)
                    task.cancel()
                try:
                    outputs = await task
                except asyncio.CancelledError:
                    continue
                assert value(outputs) == number
                assert outputs["image"].shape == (1, size, size, 3)

        async def troublemaker() -> None:
            for i in range(25):
                with pytest.raises(ModelUnavailable):
                    await engine.submit(request(2e6 + i, client="trouble"), 8)

        await asyncio.gather(troublemaker(), *(client(place) for place in range(20)))
        assert engine.counters.failures == 25
        assert max(engine.counters.batch_sizes) > 1
        await engine.close(10)

    scenario(work)


def test_greedy_client_does_not_hold_up_the_polite_one() -> None:
    async def work() -> None:
        model = Slow()
        record = Recording()
        engine = scheduler(Chain(record, model))
        first = await occupied(model, engine)
        greedy = send(engine, *(request(i, client="greedy", request_id="bulk") for i in range(100, 140)))
        await asyncio.sleep(0)
        polite = send(engine, *(request(i, client="polite", request_id="small") for i in (1, 2)))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *greedy, *polite)
        order = [call[2][0] for call in record.calls]
        assert order.index(2.0) <= 4
        assert order[-1] == 139
        await engine.close(10)

    scenario(work)


def test_the_device_is_held_for_an_interactive_clients_next_tile_and_not_for_long() -> None:
    async def run() -> None:
        model = Recording()
        to = scheduler(Chain(model, Costly(pixel=1e-6)))
        jobs: list[asyncio.Task[Arrays]] = []
        for tile in range(3):
            person = send(to, request(2, client="person"))
            await asyncio.sleep(0)
            if tile == 0:
                jobs = send(to, *(request(1, client="job", weight=BACKGROUND, size=64) for _ in range(3)))
            await asyncio.gather(*person)
            await asyncio.sleep(INTERACTIVE_HOLD_S / 10)  # about what a task needs between two tiles
        assert [values[0] for _, _, values in model.calls].count(2) == 3
        before = [values[0] for _, _, values in model.calls]
        assert before.count(1) <= 1  # it had used nothing yet, and ran once
        await asyncio.gather(*jobs)
        assert [values[0] for _, _, values in model.calls].count(1) == 3

    scenario(run)


def test_a_full_queue_refuses_no_job() -> None:
    async def run() -> None:
        slow = Slow()
        to = scheduler(slow, max_megapixels=64e-6)
        await occupied(slow, to)
        first = send(to, request(1, client="a"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await to.submit(request(2, client="b"), 1)
        job = send(to, request(3, client="job", weight=BACKGROUND))
        await asyncio.sleep(0)
        slow.gate.set()
        await asyncio.gather(*first, *job)

    scenario(run)


def test_failing_batch_is_split_and_one_fails_alone() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(Chain(model, Costly(call=CALL), Failing(limit=3.5)), latency=batches_pay())
        first = await occupied(model, engine)
        rest = send(engine, *(request(i) for i in (1, 2, 9, 3)), limit=4)
        await asyncio.sleep(0)
        model.gate.set()
        results = await asyncio.gather(first, *rest, return_exceptions=True)
        assert isinstance(results[3], ModelUnavailable)
        assert [value(one) for one in results if isinstance(one, dict)] == [0, 1, 2, 3]
        assert engine.counters.failures == 1
        await engine.close(10)

    scenario(work)


def test_a_batch_that_is_out_of_memory_is_split() -> None:
    class Small:
        def run(self, signature: str, inputs: Arrays) -> Arrays:
            if len(inputs["image"]) > 2:
                raise Overloaded("The device has too little memory.")
            return dict(inputs)

    async def work() -> None:
        engine = scheduler(Chain(Costly(call=CALL), Small()), latency=batches_pay())
        results = await asyncio.gather(*send(engine, *(request(i) for i in range(17)), limit=8))
        assert [value(one) for one in results] == list(range(17))
        assert engine.counters.failures == 0
        await engine.close(10)

    scenario(work)


@pytest.mark.parametrize("error", [RuntimeError("secret /path"), ModelUnavailable("It failed."), Overloaded("Memory.")])
def test_whatever_a_model_raises_is_a_service_error_without_its_text(error: Exception) -> None:
    async def work() -> None:
        engine = scheduler(Failing(error=error))
        with pytest.raises(ServiceError) as caught:
            await engine.submit(request(), 1)
        assert "secret" not in caught.value.detail
        assert caught.value is error or isinstance(caught.value, ModelUnavailable)
        await engine.close(10)

    scenario(work)


def test_model_that_gives_too_few_results_is_refused() -> None:
    class Short:
        def run(self, signature: str, inputs: Arrays) -> Arrays:
            return {"image": inputs["image"][:0]}

    async def work() -> None:
        engine = scheduler(Short())
        with pytest.raises(ModelUnavailable, match="wrong number of results"):
            await engine.submit(request(), 1)
        await engine.close(10)

    scenario(work)


def test_an_expired_request_never_reaches_the_device() -> None:
    async def work() -> None:
        clock, model, record = Clock(), Slow(), Recording()
        engine = scheduler(Chain(record, model), clock=clock)
        first = await occupied(model, engine)
        late, early = send(engine, request(1, deadline=1060.0), request(2, deadline=1030.0))
        await asyncio.sleep(0)
        clock.now = 1031.0
        model.gate.set()
        with pytest.raises(DeadlineExceeded):
            await early
        assert value(await late) == 1
        await first
        assert [call[2] for call in record.calls] == [[0.0], [1.0]]
        with pytest.raises(DeadlineExceeded):
            await engine.submit(request(3, deadline=1031.0), 1)
        assert engine.counters.rejections == {"deadline-exceeded": 2}
        await engine.close(10)

    scenario(work)


def test_a_deadline_is_kept_while_the_device_is_busy() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(model)
        first = await occupied(model, engine)
        soon = asyncio.get_running_loop().time() + 0.02
        with pytest.raises(DeadlineExceeded):
            await engine.submit(request(1, deadline=soon), 1)
        assert engine.depth == 0
        assert not first.done()
        model.gate.set()
        await first
        await engine.close(10)

    scenario(work)


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def work() -> None:
        model, record = Slow(), Recording()
        engine = scheduler(Chain(record, model))
        first = await occupied(model, engine)
        gone, stays = send(engine, request(1), request(2))
        await asyncio.sleep(0)
        assert engine.depth == 2
        gone.cancel()
        await asyncio.wait([gone])
        assert (engine.depth, gone.cancelled()) == (1, True)
        first.cancel()  # on the device already: its result is dropped, the device goes on
        await asyncio.wait([first])
        model.gate.set()
        assert value(await stays) == 2
        assert [call[2] for call in record.calls] == [[0.0], [2.0]]
        await engine.close(10)

    scenario(work)


def test_batches_are_measured_until_larger_ones_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Knee:
        """A device that runs four tiles in the time of one, on a clock of its own."""

        def run(self, signature: str, inputs: Arrays) -> Arrays:
            now[0] += 0.02 * -(-len(inputs["image"]) // 4)
            return dict(inputs)

    async def work() -> None:
        engine = scheduler(Knee())
        await engine.measure(request(), 64)
        assert [row[3] for row in engine.latency.rows()] == [1, 2, 4, 8]
        assert engine.latency.best_batch_size("denoise/identity@1", "denoise", 64, 50, 64) == 4
        assert engine.counters.requests == 0
        await engine.close(10)

    scenario(work)


def test_a_model_that_fails_is_not_measured() -> None:
    async def work() -> None:
        engine = scheduler(Failing())
        with pytest.raises(ModelUnavailable):
            await engine.measure(request(), 64)
        assert engine.latency.rows() == []
        await engine.close(10)

    scenario(work)


def test_full_queue_refuses_with_an_estimate() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(model, max_megapixels=3 * 64e-6)
        first = await occupied(model, engine)
        here = send(engine, *(request(i, request_id=f"request {i}") for i in (1, 2, 3)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await engine.submit(request(4), 1)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        assert f"{caught.value.retry_after:g} seconds" in caught.value.detail
        assert engine.counters.rejections == {"overloaded": 1}
        here += send(engine, request(5, request_id="request 1"))  # it has begun: not refused
        model.gate.set()
        await asyncio.gather(first, *here)
        assert value(await engine.submit(request(6), 1)) == 6
        await engine.close(10)

    scenario(work)


def test_a_full_queue_refuses_no_request_that_has_begun() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(model, max_megapixels=64e-6)
        model.gate.set()
        begun = request(1, client="one tile after the other")
        await engine.submit(begun, 1)
        model.gate.clear()
        model.entered.clear()
        first = await occupied(model, engine)
        here = send(engine, request(2, client="another"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await engine.submit(request(3, client="a third"), 1)
        here += send(engine, InferenceRequest(begun.model, begun.signature, begun.inputs, begun.context, begun.pixels))
        await asyncio.sleep(0)
        assert engine.depth == 2
        model.gate.set()
        await asyncio.gather(first, *here)
        await engine.close(10)

    scenario(work)


def test_a_request_larger_than_the_limit_runs_when_nothing_waits() -> None:
    async def work() -> None:
        engine = scheduler(Identity(), max_megapixels=1e-6)
        assert value(await engine.submit(request(1), 1)) == 1
        await engine.close(10)

    scenario(work)


def test_estimate_follows_what_was_measured() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(model)
        model.gate.set()
        await engine.submit(request(1, size=16), 1)
        cost = engine.counters.busy_seconds / 256
        assert engine.latency.rows() == [("denoise/identity@1", "denoise", 256, 1, engine.counters.busy_seconds)]
        model.gate.clear()
        model.entered.clear()
        tasks = send(engine, request(2, size=16), request(3, size=32))
        await asyncio.to_thread(model.entered.wait, 30)
        assert engine.seconds_ahead() == pytest.approx(cost * (256 + 1024))
        model.gate.set()
        await asyncio.gather(*tasks)
        assert engine.seconds_ahead() == 0
        await engine.close(10)

    scenario(work)


def test_close_finishes_requests_and_refuses_new_ones() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(model)
        first = await occupied(model, engine)
        second = send(engine, request(1))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close(30))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await engine.submit(request(2), 1)
        assert not closing.done()
        model.gate.set()
        await closing
        assert [value(await one) for one in (first, *second)] == [0, 1]
        assert engine.counters.rejections == {"shutting-down": 1}

    scenario(work)


def test_close_fails_requests_that_do_not_finish_in_time() -> None:
    async def work() -> None:
        model = Slow()
        engine = scheduler(model)
        tasks = [await occupied(model, engine), *send(engine, request(1))]
        await asyncio.sleep(0)
        await engine.close(0.01)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in results] == [ShuttingDown, ShuttingDown]
        assert engine.depth == 0
        model.gate.set()
        await engine.close(30)  # the device's thread returns to a closed scheduler
        assert not engine.busy

    scenario(work)


def test_close_when_nothing_waits() -> None:
    scenario(lambda: scheduler(Identity()).close(0))
