from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.engine.fair_queue import GROW_AFTER, FairQueue, QueuedRequest
from app.engine.latency_model import LatencyModel
from app.engine.protocol import BACKGROUND, INTERACTIVE, InferenceRequest
from tests.engines import request

SECONDS = 0.01


def queue(*requests: InferenceRequest, limit: int = 1, call: float = 0.0) -> FairQueue[QueuedRequest]:
    """Return a queue of a device that takes SECONDS per tile and `call` per batch."""
    latency = LatencyModel()
    for pixels in (16, 64, 256):
        for tiles in (1, 2, 4, 8):
            latency.record("denoise/identity@1", "denoise", pixels, tiles, call + SECONDS * tiles)
    waiting: FairQueue[QueuedRequest] = FairQueue(latency)
    for order, one in enumerate(requests):
        waiting.add(QueuedRequest(one, limit, order))
    return waiting


def names(batch: list[QueuedRequest]) -> list[tuple[str, float]]:
    return [(one.client, float(one.request.inputs["image"].flat[0])) for one in batch]


def leads(waiting: FairQueue[QueuedRequest], count: int) -> str:
    """Return the clients of the next batches, one letter each."""
    return "".join(waiting.take()[0].client for _ in range(count))


def test_an_empty_queue_has_no_batch() -> None:
    waiting = queue()
    assert (waiting.next_request(), waiting.take(), len(waiting), waiting.pixels) == (None, [], 0, 0)


def test_the_client_that_used_least_goes_first_then_the_earliest_deadline_then_the_first_to_arrive() -> None:
    waiting = queue(
        request(1, client="a"), request(2, client="b"), request(3, client="b", deadline=5), request(4, client="b")
    )
    assert [names(waiting.take()) for _ in range(4)] == [[("b", 3)], [("a", 1)], [("b", 2)], [("b", 4)]]


def test_of_one_clients_requests_the_first_due_goes_first_whenever_it_arrived() -> None:
    large = [request(i, request_id="large", deadline=300, due=100) for i in (1, 2)]
    waiting = queue(*large, request(3, request_id="small", deadline=300, due=20), request(4, deadline=10))
    assert [names(waiting.take())[0][1] for _ in range(4)] == [4, 3, 1, 2]


def test_batch_is_shared_between_clients_in_turn() -> None:
    requests = [request(i, client=client) for client in "ab" for i in range(5)]
    assert names(queue(*requests, limit=4, call=0.1).take()) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_a_batch_has_the_size_with_the_least_time_per_tile_and_never_waits_to_fill() -> None:
    requests = [request(i) for i in range(6)]
    assert [len(queue(*requests, limit=limit, call=0.1).take()) for limit in (1, 2, 4, 64)] == [1, 2, 4, 6]
    assert len(queue(*requests, limit=64, call=0).take()) == 1


def test_copies_fill_a_batch_up_to_a_size_that_repeats() -> None:
    waiting = queue(*(request(i) for i in range(6)), limit=64, call=0.1)
    batch = waiting.take()
    assert (len(batch), waiting.size_for(batch)) == (6, 8)


def test_only_the_same_model_signature_and_shape_share_a_batch() -> None:
    first = request(1)
    others = [request(2, model="denoise/other@1"), request(3, signature="estimate"), request(4, size=16)]
    waiting = queue(first, *others, request(5), limit=8, call=0.1)
    assert names(waiting.take()) == [("anonymous", 1), ("anonymous", 5)]
    assert len(waiting) == 3


def test_jobs_can_be_left_out() -> None:
    job, person = request(1, client="job", weight=BACKGROUND), request(2, client="person")
    assert names(queue(job, person).take(jobs=False)) == [("person", 2)]
    assert queue(job).take(jobs=False) == []


def test_what_takes_too_long_is_left_out_and_keeps_its_turn() -> None:
    waiting = queue(request(1, client="a"), request(2, client="a"), request(3, client="b"))
    waiting.add(QueuedRequest(request(4, client="a", size=64), 1, 9))  # 4,096 pixels: sixteen times as long
    assert [names(waiting.take(most_seconds=2 * SECONDS)) for _ in range(4)] == [[("a", 1)], [("b", 3)], [("a", 2)], []]
    assert names(waiting.take()) == [("a", 4)]


def test_a_job_gets_its_share_where_both_want_the_device_all_the_time() -> None:
    jobs = [request(1, client="j", weight=BACKGROUND) for _ in range(20)]
    waiting = queue(*jobs, *(request(2, client="p") for _ in range(20)))
    assert leads(waiting, 20).count("p") == INTERACTIVE / (INTERACTIVE + BACKGROUND) * 20


def test_shares_are_of_time_and_not_of_tiles() -> None:
    waiting = queue(*(request(i, client="slow", model="slow") for i in range(20)), *(request(i) for i in range(20)))
    waiting._latency.record("slow", "denoise", 64, 1, 3 * SECONDS)
    order = [waiting.take()[0].client for _ in range(20)]
    assert order.count("slow") == 5


def test_the_time_that_a_batch_took_replaces_the_estimate() -> None:
    waiting = queue(*(request(i, client=client) for client in "ab" for i in range(20)))
    waiting.charge(waiting.take(), 4 * SECONDS)  # a's first took four times as long
    assert leads(waiting, 6) == "bbbbab"


def test_a_returning_client_has_no_credit() -> None:
    waiting = queue(*(request(i, client="a") for i in range(60)))
    assert leads(waiting, 30) == "a" * 30
    for i in range(10):
        waiting.add(QueuedRequest(request(i, client="b"), 1, 100 + i))
    assert leads(waiting, 20).count("b") == 10
    assert leads(waiting, 20) == "a" * 20


def test_size_halves_after_a_failure_and_grows_back() -> None:
    waiting = queue(*(request(i) for i in range(700)), limit=8, call=0.1)
    waiting.record_failure(waiting.take())
    sizes = [8]
    while waiting:
        batch = waiting.take()
        waiting.record_success(batch)
        sizes.append(len(batch))
    assert sizes[1 : GROW_AFTER + 1] == [4] * GROW_AFTER
    assert sizes[GROW_AFTER + 1 : -1] == [8] * (len(sizes) - GROW_AFTER - 2)


Entries = list[tuple[str, int, float, float]]
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([4, 8]),
        st.sampled_from([1.0, 2.0, float("inf")]),
        st.sampled_from([BACKGROUND, INTERACTIVE]),
    ),
    min_size=1,
    max_size=30,
)


def tickets_of(entries: Entries) -> list[InferenceRequest]:
    return [
        request(i, client=f"{client}{weight}", size=size, deadline=deadline, weight=weight)
        for i, (client, size, deadline, weight) in enumerate(entries)
    ]


@given(ENTRIES, st.integers(1, 9), st.sampled_from([0.0, 0.1]))
def test_every_request_is_chosen_exactly_once(entries: Entries, limit: int, call: float) -> None:
    waiting = queue(*tickets_of(entries), limit=limit, call=call)
    seen: list[QueuedRequest] = []
    while waiting:
        before = len(waiting)
        batch = waiting.take()
        assert 1 <= len(batch) <= limit
        assert waiting.size_for(batch) <= max(limit, len(batch))
        assert len({one.key for one in batch}) == 1
        assert len(waiting) == before - len(batch)
        seen += batch
    assert sorted(one.order for one in seen) == list(range(len(entries)))
    assert waiting.pixels == 0


@given(ENTRIES, st.integers(1, 9))
def test_no_request_overtakes_one_of_its_client_and_key_with_an_earlier_deadline(entries: Entries, limit: int) -> None:
    waiting = queue(*tickets_of(entries), limit=limit, call=0.1)
    seen = [one for _ in range(len(entries)) for one in waiting.take()]
    for place, one in enumerate(seen):
        assert all(
            one.rank < later.rank
            for later in seen[place:]
            if (later.client, later.key) == (one.client, one.key) and later is not one
        )


@given(ENTRIES, st.integers(1, 9), st.randoms(use_true_random=False))
def test_removed_requests_are_never_chosen(entries: Entries, limit: int, dice: object) -> None:
    waiting = queue(*tickets_of(entries), limit=limit, call=0.1)
    gone = [one for one in waiting if dice.random() < 0.5]  # type: ignore[attr-defined]
    for one in gone:
        waiting.remove(one)
        waiting.remove(one)
    seen = [one for _ in range(len(entries)) for one in waiting.take()]
    assert len(seen) == len(entries) - len(gone)
    assert not set(seen) & set(gone)


@given(st.integers(1, 5), st.lists(st.integers(0, 5), min_size=50, max_size=50))
def test_no_client_starves(others: int, wants: list[int]) -> None:
    """A client that always has a tile waiting gets its share, however much the others send."""
    waiting = queue()
    order, had = 0, 0
    waiting.add(QueuedRequest(request(client="steady"), 1, order))
    for turn, number in enumerate(wants):
        for _ in range(number):
            order += 1
            waiting.add(QueuedRequest(request(client=f"greedy {turn % others}"), 1, order))
        if waiting.take()[0].client == "steady":
            had += 1
            order += 1
            waiting.add(QueuedRequest(request(client="steady"), 1, order))
    assert had >= len(wants) // (others + 1) - 1
