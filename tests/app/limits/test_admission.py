from __future__ import annotations

import contextlib
import math
import random
from contextlib import ExitStack

import pytest

from app.engine.latency_model import LatencyModel
from app.engine.protocol import BACKGROUND, INTERACTIVE, RequestContext, Usage
from app.errors import Overloaded
from app.limits.admission import MAX_SHARE, RESERVATION_GRACE, Admission

SECOND, PIXELS = 2**20, 2**20
"""Pixels of a picture that takes one second of device time."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Simulator:
    """An `Admission` with a simulated clock, and the requests that it admitted."""

    def __init__(self, devices: int = 1) -> None:
        self.clock = Clock()
        latency = LatencyModel()
        for _ in range(2):
            latency.record("photo", "request", SECOND, 1, 1.0)
        self.admission = Admission(latency, devices=lambda: devices, clock=self.clock)
        self.active: dict[RequestContext, ExitStack] = {}
        self._numbers = iter(range(10**6))

    def admit(
        self,
        client: str = "a",
        seconds: float = 1.0,
        *,
        within: float = 100.0,
        weight: float = INTERACTIVE,
        mark: int | None = None,
    ) -> RequestContext:
        """Send a request of `seconds` device time with a deadline in `within` seconds. Raises Overloaded."""
        number = next(self._numbers)
        context = RequestContext(f"{client} {number}", client, self.clock.now + within, weight=weight)
        admitted = ExitStack()
        admitted.enter_context(
            self.admission.enter("photo", round(seconds * SECOND), context, number if mark is None else mark)
        )
        self.active[context] = admitted
        return context

    def expect_refusal(
        self, client: str = "a", seconds: float = 1.0, *, within: float = 100.0, mark: int | None = None
    ) -> float:
        """Send a request that must be refused; return its `Retry-After` in seconds."""
        with pytest.raises(Overloaded) as caught:
            self.admit(client, seconds, within=within, mark=mark)
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    def finish(self, context: RequestContext, seconds: float = 1.0) -> None:
        """Finish a request that took `seconds` of device time."""
        context.usage.device_seconds = seconds
        self.active.pop(context).close()

    def advance(self, contexts: list[RequestContext], seconds: int, pace: float) -> None:
        """Advance the clock by `seconds`, during which each request gets `pace` seconds of device time per second."""
        for _ in range(seconds):
            self.clock.now += 1.0
            for context in contexts:
                context.usage.device_seconds += pace
            self.admission._observe()


def test_any_request_is_admitted_without_load() -> None:
    Simulator().admit(seconds=1000.0, within=10.0)


def test_a_request_that_would_be_late_is_refused_with_retry_after() -> None:
    simulator = Simulator()
    for _ in range(7):
        simulator.admit(within=10.0)
    assert simulator.admission.seconds == 7
    # It takes 4 of its 10 seconds; the 7 seconds of earlier work may take MAX_SHARE (70 %) of the other 6.
    assert simulator.expect_refusal(seconds=4.0, within=10.0) == math.ceil(7 - MAX_SHARE * 6)
    simulator.admit("a", within=20.0)


def test_a_refused_request_is_admitted_on_retry_and_before_new_ones() -> None:
    simulator = Simulator()
    here = [simulator.admit(within=10.0) for _ in range(7)]
    wait = simulator.expect_refusal(within=10.0, mark=5)
    simulator.clock.now += wait
    simulator.finish(here.pop())
    simulator.expect_refusal(within=10.0, mark=6)  # has no reservation
    simulator.admit(within=10.0, mark=5)


def test_reservations_are_consecutive_and_one_per_request() -> None:
    simulator = Simulator()
    for _ in range(7):
        simulator.admit(within=10.0)
    waits = [simulator.expect_refusal(within=10.0, mark=mark) for mark in (-1, -2, -3, -4)]
    assert waits == sorted(set(waits))
    assert simulator.expect_refusal(within=10.0, mark=-4) == waits[-1]


def test_an_unused_reservation_expires() -> None:
    simulator = Simulator()
    here = [simulator.admit(within=10.0) for _ in range(6)]
    waits = [simulator.expect_refusal(seconds=2.0, within=10.0) for _ in range(4)]
    simulator.finish(here.pop())
    assert simulator.expect_refusal(within=10.0) > 1
    passed = waits[-1] * (1 + RESERVATION_GRACE) + 20
    simulator.clock.now += passed
    here[0].usage.device_seconds = passed  # the device was busy meanwhile
    simulator.admit(within=10.0)


def test_reservations_refuse_no_one_while_load_is_low() -> None:
    simulator = Simulator()
    here = [simulator.admit(within=10.0) for _ in range(7)]
    for _ in range(20):
        simulator.expect_refusal(within=10.0)
    for one in here[:4]:
        simulator.finish(one)
    simulator.admit(within=10.0)


def test_a_greedy_client_is_refused_without_effect_on_others() -> None:
    simulator = Simulator()
    with contextlib.suppress(Overloaded):
        for _ in range(1000):
            simulator.admit("greedy", within=100.0)
    assert len(simulator.active) == pytest.approx(100 * MAX_SHARE, abs=2)
    simulator.admit("polite", within=4.0)  # clients alternate: one second of the other client, one of its own


def test_a_job_takes_its_share_and_is_never_refused() -> None:
    simulator = Simulator()
    simulator.admit("job", seconds=500.0, weight=BACKGROUND)
    simulator.admit(within=3.0)
    for _ in range(200):
        simulator.admit("job", within=1.0, weight=BACKGROUND)
    simulator.expect_refusal(within=2.0)


def test_finished_work_frees_capacity() -> None:
    simulator = Simulator()
    here = [simulator.admit(within=10.0) for _ in range(7)]
    simulator.expect_refusal(within=10.0, mark=-1)
    here[0].usage.device_seconds = 0.9  # nearly done
    simulator.finish(here[1])
    assert simulator.admission.seconds == pytest.approx(5.1)
    simulator.admit(within=10.0, mark=-1)


def test_a_request_that_takes_longer_than_estimated_still_needs_a_tenth() -> None:
    simulator = Simulator()
    context = simulator.admit(seconds=8.0)
    for used, remaining in ((4.0, 4.0), (7.0, 1.0), (7.5, 0.8), (25.0, 0.8)):
        context.usage.device_seconds = used
        assert simulator.admission.seconds == pytest.approx(remaining)


def test_number_of_reservations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.limits.admission.MAX_RESERVATIONS", 2)
    simulator = Simulator()
    for _ in range(7):
        simulator.admit(within=10.0)
    first, second, third, fourth = (simulator.expect_refusal(within=10.0, mark=mark) for mark in (-1, -2, -3, -4))
    assert first < second < third
    assert third == fourth  # the third got no reservation, so the fourth need not wait for it


def test_the_pace_is_measured_only_under_load() -> None:
    simulator = Simulator()
    here = [simulator.admit() for _ in range(50)]
    for one in here[:40]:
        simulator.clock.now += 2.0  # a device half as fast as measured
        simulator.finish(one)
    assert simulator.admission.pace == pytest.approx(0.5, abs=0.02)
    simulator.clock.now += 1000.0
    for one in here[40:]:
        simulator.finish(one)
    pace = simulator.admission.pace
    simulator.clock.now += 1000.0  # idle: the pace is not measured
    simulator.finish(simulator.admit())
    assert simulator.admission.pace == pytest.approx(pace, abs=0.01)


def test_one_request_on_many_devices_does_not_lower_the_pace() -> None:
    simulator = Simulator(devices=8)
    one = simulator.admit("one", seconds=60.0)
    simulator.advance([one], seconds=40, pace=1.0)  # tiles are sent sequentially
    assert simulator.admission.pace == pytest.approx(8, abs=0.1)
    for number in range(8):
        simulator.admit(f"client {number}", seconds=10.0, within=20.0)


def test_the_pace_of_many_devices_is_measured_from_few_and_many_requests() -> None:
    simulator = Simulator(devices=8)
    here = [simulator.admit(str(number), seconds=1000.0, within=10_000.0) for number in range(8)]
    simulator.advance(here, 60, 0.0)  # no progress, as with a blocked disk
    assert simulator.admission.pace == 0.1
    for context in here[1:]:
        simulator.finish(context, 0.0)
    simulator.advance(here[:1], 60, 0.5)  # one continues alone, on a device half as fast as measured
    assert simulator.admission.pace == pytest.approx(4, abs=0.1)
    simulator.advance(here[:1], 60, 4.0)  # one request may use several devices, but there are only eight
    assert simulator.admission.pace == 8


def test_idle_time_after_a_long_request_does_not_change_the_pace() -> None:
    simulator = Simulator()
    context = simulator.admit(seconds=100.0)
    simulator.clock.now += 100.0
    simulator.finish(context, 100.0)
    simulator.clock.now += 1000.0
    simulator.admit(seconds=1.0)
    assert simulator.admission.pace == pytest.approx(1.0)


def test_estimates_follow_measured_device_time() -> None:
    simulator = Simulator()
    for _ in range(40):
        simulator.finish(simulator.admit(), 3.0)
    simulator.admit()
    assert simulator.admission.seconds == pytest.approx(3.0, rel=0.01)


def test_shorter_requests_are_due_sooner_and_all_before_their_deadlines() -> None:
    simulator = Simulator()

    def due(seconds: float, within: float) -> float:
        context = RequestContext("one", "a", simulator.clock.now + within)
        with simulator.admission.enter("photo", round(seconds * SECOND), context) as when:
            return when - simulator.clock.now

    assert due(0.1, 300) < due(1.0, 300) < due(20, 300)
    assert due(1.0, 5) < due(1.0, 300), "a shorter deadline is due sooner"
    assert all(due(seconds, 300) + seconds < 300 for seconds in (0.1, 1, 20, 100, 250))
    assert due(0.1, math.inf) == math.inf


def test_a_failed_request_does_not_change_estimates() -> None:
    simulator = Simulator()
    with (
        pytest.raises(RuntimeError),
        simulator.admission.enter("photo", SECOND, RequestContext("x", usage=Usage(50.0))),
    ):
        raise RuntimeError
    simulator.admit()
    assert simulator.admission.seconds == pytest.approx(1.0)


@pytest.mark.parametrize("clients", [1, 4])
def test_at_twice_the_load_accepted_requests_are_on_time_and_retries_are_admitted(clients: int) -> None:
    """A simulated device processes one picture per second, first come first served within a client.

    Two requests per second arrive. Refused ones give up if `Retry-After` exceeds their deadline, and retry otherwise.
    """
    dice, patience, until = random.Random(3), 20.0, 1600.0
    simulator, numbers = Simulator(), iter(range(10**6))
    queues: dict[str, list[tuple[RequestContext, float]]] = {f"client {place}": [] for place in range(clients)}
    retries: list[tuple[float, str, int, float]] = []
    admitted_on_retry: list[bool] = []
    late, busy, turn, new = 0, 0.0, 0, simulator.clock.now

    def arrive(client: str, mark: int, *, again: bool) -> None:
        try:
            context = simulator.admit(client, within=patience, mark=mark)
        except Overloaded as refusal:
            retry_after = refusal.retry_after or math.inf
            if again:
                admitted_on_retry.append(False)
            elif retry_after <= patience:
                retries.append((simulator.clock.now + retry_after, client, mark, retry_after))
        else:
            queues[client].append((context, simulator.clock.now + patience))
            if again:
                admitted_on_retry.append(True)

    while simulator.clock.now < until:
        while new <= simulator.clock.now:
            arrive(dice.choice(list(queues)), next(numbers), again=False)
            new += dice.expovariate(2.0)
        for one in sorted(one for one in retries if one[0] <= simulator.clock.now):
            retries.remove(one)
            arrive(one[1], one[2], again=True)
        names = [name for name in queues if queues[name]]
        if names:
            turn += 1
            context, deadline = queues[names[turn % len(names)]].pop(0)
            took = dice.uniform(0.7, 1.3)
            simulator.clock.now += took
            busy += took
            late += simulator.clock.now > deadline
            simulator.finish(context, took)
        else:
            simulator.clock.now += 0.05
    assert late == 0 if clients == 1 else late <= 0.01 * busy
    assert busy >= 0.95 * 600
    assert len(admitted_on_retry) > 100
    assert sum(admitted_on_retry) >= 0.95 * len(admitted_on_retry)
