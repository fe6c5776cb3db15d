from __future__ import annotations

import contextlib
import math
import random
from contextlib import ExitStack

import pytest

from app.engine.latency_model import LatencyModel
from app.engine.protocol import BACKGROUND, INTERACTIVE, RequestContext, Usage
from app.errors import Overloaded
from app.limits.admission import GRACE, RESERVE, Admission

SECOND, PIXELS = 2**20, 2**20
"""Pixels of a picture that takes a second of the device."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """An admission on a clock of its own, and those who were let in."""

    def __init__(self, devices: int = 1) -> None:
        self.clock = Clock()
        latency = LatencyModel()
        for _ in range(2):
            latency.record("photo", "request", SECOND, 1, 1.0)
        self.admission = Admission(latency, devices=lambda: devices, clock=self.clock)
        self.doors: dict[RequestContext, ExitStack] = {}
        self._numbers = iter(range(10**6))

    def come(
        self,
        client: str = "a",
        seconds: float = 1.0,
        *,
        within: float = 100.0,
        weight: float = INTERACTIVE,
        mark: int | None = None,
    ) -> RequestContext:
        """Let a request in, or raise Overloaded."""
        number = next(self._numbers)
        context = RequestContext(f"{client} {number}", client, self.clock.now + within, weight=weight)
        door = ExitStack()
        door.enter_context(
            self.admission.enter("photo", round(seconds * SECOND), context, number if mark is None else mark)
        )
        self.doors[context] = door
        return context

    def refused(
        self, client: str = "a", seconds: float = 1.0, *, within: float = 100.0, mark: int | None = None
    ) -> float:
        """Let a request come that must be refused; return when it is to come again."""
        with pytest.raises(Overloaded) as caught:
            self.come(client, seconds, within=within, mark=mark)
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    def leave(self, context: RequestContext, seconds: float = 1.0) -> None:
        """Let a request be done that took so long of the device."""
        context.usage.device_seconds = seconds
        self.doors.pop(context).close()

    def work(self, callers: list[RequestContext], seconds: int, pace: float) -> None:
        """Let time pass in which `pace` seconds of the devices are done a second for each of these."""
        for _ in range(seconds):
            self.clock.now += 1.0
            for context in callers:
                context.usage.device_seconds += pace
            self.admission._observe()


def test_empty_house_takes_whatever_comes() -> None:
    House().come(seconds=1000.0, within=10.0)


def test_what_would_be_late_is_refused_with_the_time_at_which_it_fits() -> None:
    house = House()
    for _ in range(7):
        house.come(within=10.0)
    assert house.admission.seconds == 7
    # Four seconds of its own, and seven ahead that may take seven tenths of the other six.
    assert house.refused(seconds=4.0, within=10.0) == math.ceil(7 - RESERVE * 6)
    house.come("a", within=20.0)


def test_refused_one_is_let_in_when_it_comes_back_and_others_are_not_let_in_before_it() -> None:
    house = House()
    here = [house.come(within=10.0) for _ in range(7)]
    wait = house.refused(within=10.0, mark=5)
    house.clock.now += wait
    house.leave(here.pop())
    house.refused(within=10.0, mark=6)  # it was not told to come
    house.come(within=10.0, mark=5)


def test_promises_are_made_one_after_the_other_and_to_each_only_one() -> None:
    house = House()
    for _ in range(7):
        house.come(within=10.0)
    waits = [house.refused(within=10.0, mark=mark) for mark in (-1, -2, -3, -4)]
    assert waits == sorted(set(waits))
    assert house.refused(within=10.0, mark=-4) == waits[-1]


def test_promise_that_nobody_takes_is_forgotten() -> None:
    house = House()
    here = [house.come(within=10.0) for _ in range(6)]
    waits = [house.refused(seconds=2.0, within=10.0) for _ in range(4)]
    house.leave(here.pop())
    assert house.refused(within=10.0) > 1
    passed = waits[-1] * (1 + GRACE) + 20
    house.clock.now += passed
    here[0].usage.device_seconds = passed  # the device was not idle meanwhile
    house.come(within=10.0)


def test_promises_keep_nobody_out_of_a_house_that_has_too_little_to_do() -> None:
    house = House()
    here = [house.come(within=10.0) for _ in range(7)]
    for _ in range(20):
        house.refused(within=10.0)
    for one in here[:4]:
        house.leave(one)
    house.come(within=10.0)


def test_greedy_client_keeps_nobody_out_but_itself() -> None:
    house = House()
    with contextlib.suppress(Overloaded):
        for _ in range(1000):
            house.come("greedy", within=100.0)
    assert len(house.doors) == pytest.approx(100 * RESERVE, abs=2)
    house.come("polite", within=4.0)  # it gets every second turn: one second ahead, one of its own


def test_job_takes_its_share_and_is_never_refused() -> None:
    house = House()
    house.come("job", seconds=500.0, weight=BACKGROUND)
    house.come(within=3.0)
    for _ in range(200):
        house.come("job", within=1.0, weight=BACKGROUND)
    house.refused(within=2.0)


def test_what_is_done_makes_room() -> None:
    house = House()
    here = [house.come(within=10.0) for _ in range(7)]
    house.refused(within=10.0, mark=-1)
    here[0].usage.device_seconds = 0.9  # nearly done
    house.leave(here[1])
    assert house.admission.seconds == pytest.approx(5.1)
    house.come(within=10.0, mark=-1)


def test_pace_is_learned_while_there_is_work() -> None:
    house = House()
    here = [house.come() for _ in range(50)]
    for one in here[:40]:
        house.clock.now += 2.0  # a device that is half as fast as it was measured
        house.leave(one)
    assert house.admission.pace == pytest.approx(0.5, abs=0.02)
    house.clock.now += 1000.0
    for one in here[40:]:
        house.leave(one)
    pace = house.admission.pace
    house.clock.now += 1000.0  # idle: nothing is learned
    house.leave(house.come())
    assert house.admission.pace == pytest.approx(pace, abs=0.01)


def test_one_request_on_many_devices_keeps_nobody_from_the_idle_ones() -> None:
    house = House(devices=8)
    one = house.come("one", seconds=60.0)
    house.work([one], seconds=40, pace=1.0)  # it sends one tile after the other
    assert house.admission.pace == pytest.approx(8, abs=0.1)
    for number in range(8):
        house.come(f"client {number}", seconds=10.0, within=20.0)


def test_pace_of_many_devices_is_learned_from_few_requests_and_from_many() -> None:
    house = House(devices=8)
    here = [house.come(str(number), seconds=1000.0, within=10_000.0) for number in range(8)]
    house.work(here, 60, 0.0)  # all stand still: a disk, say
    assert house.admission.pace == 0.1
    for context in here[1:]:
        house.leave(context, 0.0)
    house.work(here[:1], 60, 0.5)  # and one goes on alone, on a device half as fast as it was measured
    assert house.admission.pace == pytest.approx(4, abs=0.1)
    house.work(here[:1], 60, 4.0)  # one may keep several devices at work, but there are no more than eight
    assert house.admission.pace == 8


def test_nothing_is_learned_after_a_long_request_has_gone() -> None:
    house = House()
    context = house.come(seconds=100.0)
    house.clock.now += 100.0
    house.leave(context, 100.0)
    house.clock.now += 1000.0
    house.come(seconds=1.0)
    assert house.admission.pace == pytest.approx(1.0)


def test_estimates_follow_what_requests_took() -> None:
    house = House()
    for _ in range(40):
        house.leave(house.come(), 3.0)
    house.come()
    assert house.admission.seconds == pytest.approx(3.0, rel=0.01)


def test_what_needs_less_is_due_sooner_and_all_can_be_done_by_their_deadlines() -> None:
    house = House()

    def due(seconds: float, within: float) -> float:
        context = RequestContext("one", "a", house.clock.now + within)
        with house.admission.enter("photo", round(seconds * SECOND), context) as when:
            return when - house.clock.now

    assert due(0.1, 300) < due(1.0, 300) < due(20, 300)
    assert due(1.0, 5) < due(1.0, 300), "and what has less time"
    assert all(due(seconds, 300) + seconds < 300 for seconds in (0.1, 1, 20, 100, 250))
    assert due(0.1, math.inf) == math.inf


def test_request_that_fails_teaches_nothing() -> None:
    house = House()
    with (
        pytest.raises(RuntimeError),
        house.admission.enter("photo", SECOND, RequestContext("x", usage=Usage(50.0))),
    ):
        raise RuntimeError
    house.come()
    assert house.admission.seconds == pytest.approx(1.0)


@pytest.mark.parametrize("clients", [1, 4])
def test_at_twice_the_load_accepted_ones_are_in_time_and_refused_ones_come_in_when_they_were_told(clients: int) -> None:
    """A device that does a picture a second, first come first served inside a client, on a virtual clock.

    Two a second come. Whoever is told more than they have time for goes away, the others come back.
    """
    dice, patience, until = random.Random(3), 20.0, 1600.0
    house, numbers = House(), iter(range(10**6))
    queues: dict[str, list[tuple[RequestContext, float]]] = {f"client {place}": [] for place in range(clients)}
    back: list[tuple[float, str, int, float]] = []
    kept: list[bool] = []
    late, busy, turn, new = 0, 0.0, 0, house.clock.now

    def arrive(client: str, mark: int, *, again: bool) -> None:
        try:
            context = house.come(client, within=patience, mark=mark)
        except Overloaded as refusal:
            told = refusal.retry_after or math.inf
            if again:
                kept.append(False)
            elif told <= patience:
                back.append((house.clock.now + told, client, mark, told))
        else:
            queues[client].append((context, house.clock.now + patience))
            if again:
                kept.append(True)

    while house.clock.now < until:
        while new <= house.clock.now:
            arrive(dice.choice(list(queues)), next(numbers), again=False)
            new += dice.expovariate(2.0)
        for one in sorted(one for one in back if one[0] <= house.clock.now):
            back.remove(one)
            arrive(one[1], one[2], again=True)
        names = [name for name in queues if queues[name]]
        if names:
            turn += 1
            context, deadline = queues[names[turn % len(names)]].pop(0)
            took = dice.uniform(0.7, 1.3)
            house.clock.now += took
            busy += took
            late += house.clock.now > deadline
            house.leave(context, took)
        else:
            house.clock.now += 0.05
    assert late == 0 if clients == 1 else late <= 0.01 * busy
    assert busy >= 0.95 * 600
    assert len(kept) > 100
    assert sum(kept) >= 0.95 * len(kept)
