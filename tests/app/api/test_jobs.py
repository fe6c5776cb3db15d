"""Jobs over HTTP: the real service, over models that do what they are told."""

from __future__ import annotations

import json
import re
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from starlette.datastructures import Headers

from app.api import problems
from app.api.negotiation import parse_prefer
from app.engine.protocol import BACKGROUND, INTERACTIVE, Arrays
from tests.app.api.service import Service, file, hole, opened, png, serving
from tests.engines import Slow
from tests.walk import STEPS, walk

ASYNC = {"Prefer": "respond-async"}


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def refused(answer: httpx.Response, slug: str) -> dict[str, Any]:
    """Check that `answer` is the problem `slug`, and return its body."""
    body: dict[str, Any] = answer.json()
    assert (body["type"], answer.status_code) == (f"/problems/{slug}", problems.BY_SLUG[slug].status), body
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert body["instance"] == answer.headers["x-request-id"]
    return body


def accepted(answer: httpx.Response) -> str:
    """Check that `answer` is a job that goes on, and return its address."""
    assert answer.status_code == 202, answer.text
    address = answer.headers["location"]
    assert address == f"/jobs/{answer.json()['id']}"
    return str(address)


def until(service: Service, address: str, *states: str, **headers: str) -> dict[str, Any]:
    """Return the job once it is in one of these states."""
    limit = time.monotonic() + 30
    while True:
        answer = service.client.get(address, headers=headers)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        if job["state"] in states:
            return job
        assert time.monotonic() < limit, job
        time.sleep(0.005)


def result(service: Service, address: str) -> httpx.Response:
    until(service, address, "succeeded", "failed")
    return service.client.get(f"{address}/result")


@contextmanager
def occupied(**options: Any) -> Iterator[tuple[Service, Slow, str]]:
    """Give a service whose one place for jobs is taken by a job that waits for its model's gate to open."""
    slow = Slow()
    with serving({"slow": slow}, **options) as service:
        try:
            address = accepted(service.denoise(png(200, 200), model="slow", headers=ASYNC))
            assert slow.entered.wait(20)
            until(service, address, "running")
            yield service, slow, address
        finally:
            slow.gate.set()


# --- the answer ---


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/denoise", {"strength": "0.3", "format": "webp", "lossless": "true"}),
        ("/superres", {"scale": "3"}),
        ("/segment", {"output": "json"}),
        ("/cutout", {"shrink": "2"}),
        ("/inpaint", {"method": "telea", "radius": "5", "mask": hole()}),
    ],
)
@pytest.mark.parametrize("accept", [None, "application/json"])
def test_a_job_gives_what_a_direct_request_gets(
    service: Service, path: str, fields: dict[str, Any], accept: str | None
) -> None:
    headers = {"Accept": accept} if accept else {}
    direct = service.send(path, headers=headers, **fields)
    answer = service.send(path, headers=headers | ASYNC, **fields)
    assert answer.headers["preference-applied"] == "respond-async"
    address = accepted(answer)
    given = fields.keys() - {"mask"} | ({"output"} if path == "/cutout" else set())
    assert answer.json()["options"].keys() == given
    got = result(service, address)
    assert got.status_code == direct.status_code == 200
    if accept or path == "/segment":
        timeless = [{**one.json(), "timing": None} for one in (got, direct)]
        assert timeless[0] == timeless[1]
    else:
        assert got.content == direct.content
    for name in ("content-type", "x-model", "x-applied", "content-disposition", "link"):
        assert got.headers.get(name) == direct.headers.get(name)
    waited = service.send(path, headers=headers | {"Prefer": "wait=20"}, **fields)
    assert waited.status_code == 200
    assert waited.headers["preference-applied"] == "wait=20"
    assert waited.headers["cache-control"] == "private, no-store"


def test_a_job_tells_everything_about_itself() -> None:
    with occupied() as (service, slow, first):
        second = accepted(service.send("/superres", headers=ASYNC))
        job = until(service, first, "running")
        assert (job["task"], job["options"], job["place"]) == ("denoise", {"model": "slow"}, None)
        assert job["created"] <= job["started"]
        assert job["finished"] is job["expires"] is job["problem"] is None
        job = until(service, second, "queued")
        assert (job["task"], job["place"], job["progress"], job["eta"]) == ("superres", 1, 0, None)
        slow.gate.set()
        done = until(service, first, "succeeded")
        assert done["done"] == done["all"] > 10
        assert (done["progress"], done["eta"]) == (1, None)
        assert done["finished"] < done["expires"]
        assert done["links"] == {"self": first, "events": f"{first}/events", "result": f"{first}/result"}
        assert re.fullmatch(r"[0-9a-f]{32}", done["id"])
        assert service.client.get(first).headers["cache-control"] == "private, no-store"
        until(service, second, "succeeded")


class Stepping:
    """A model that gives its inputs back, one call at a time, as the test lets it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.calls += 1
        time.sleep(self.seconds)
        return dict(inputs)


def test_progress_goes_up_tile_by_tile_and_an_end_is_foretold() -> None:
    with serving({"slow": Stepping(0.1)}, max_batch=1) as service:
        address = accepted(service.denoise(png(256, 256), model="slow", headers=ASYNC))
        with service.client.stream("GET", f"{address}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = (line for line in stream.iter_lines() if line.startswith("data: "))
            told = [json.loads(line.removeprefix("data: ")) for line in lines]
        running = [job for job in told if job["state"] == "running" and job["all"]]
        assert len(running) > 3
        assert [job["done"] for job in running] == sorted(job["done"] for job in running)
        assert {job["all"] for job in running} == {told[-1]["all"]}
        assert told[-1]["state"] == "succeeded"
        first = next(job for job in running if job["done"])
        assert 0.3 < first["eta"] / (0.1 * (first["all"] - first["done"])) < 3


def test_events_end_with_done() -> None:
    with occupied() as (service, slow, address), service.client.stream("GET", f"{address}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: progress"
        assert json.loads(next(lines).removeprefix("data: "))["state"] == "running"
        slow.gate.set()
        rest = list(lines)
        assert rest[-3] == "event: done"
        assert json.loads(rest[-2].removeprefix("data: "))["state"] == "succeeded"


def test_a_stream_ends_when_its_reader_goes_its_job_is_erased_or_the_service_stops() -> None:
    with occupied() as (service, _, address):
        jobs = service.app.state.jobs
        assert service.client.head(f"{address}/events").headers["content-type"].startswith("text/event-stream")
        with service.client.stream("GET", f"{address}/events") as stream:
            lines = stream.iter_lines()  # dropped, it would close the connection
            assert next(lines) == "event: progress"
            assert jobs._streams == 1
        with service.client.stream("GET", f"{address}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            assert service.client.delete(address).status_code == 200
            assert "event: done" in list(lines)
        other = accepted(service.denoise(model="slow", headers=ASYNC))
        with service.client.stream("GET", f"{other}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            service.shutdown.closing = True
            assert "event: done" not in list(lines)
        refused(service.client.get(f"{other}/events"), "shutting-down")
        refused(service.denoise(headers={"Idempotency-Key": "k"}), "shutting-down")
        service.shutdown.closing = False
        limit = time.monotonic() + 10
        while jobs._streams:
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.jobs.MAX_STREAMS", 1)
    with occupied() as (service, _, address), service.client.stream("GET", f"{address}/events") as stream:
        lines = stream.iter_lines()  # dropped, it would close the connection
        next(lines)
        refused(service.client.get(f"{address}/events"), "overloaded")


def test_a_large_result_comes_whole_and_is_not_sent_again_to_who_has_it(service: Service) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (900, 1000, 3), np.uint8)
    address = accepted(service.denoise(file(noise), model="identity", headers=ASYNC))
    got = result(service, address)
    assert int(got.headers["content-length"]) == len(got.content) > 2**21
    np.testing.assert_array_equal(opened(got.content), noise)
    tag = got.headers["etag"]
    assert got.headers["cache-control"] == "private, no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = service.client.get(f"{address}/result", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert service.client.get(f"{address}/result", headers={"If-None-Match": '"other"'}).status_code == 200
    head = service.client.head(f"{address}/result")
    assert (head.status_code, head.headers["content-length"]) == (200, got.headers["content-length"])


# --- what is preferred ---


@given(st.text(st.characters(max_codepoint=255)))
def test_whatever_is_preferred_nobody_waits_for_ever(text: str) -> None:
    found = parse_prefer(Headers(raw=[(b"prefer", text.encode("latin-1"))]), 60)
    assert found.wait is None or 0 <= found.wait <= 60


def test_what_takes_longer_than_one_waits_becomes_a_job() -> None:
    with occupied() as (service, slow, first):
        begun = time.monotonic()
        answer = service.denoise(headers={"Prefer": "wait=1"})
        assert 0.9 < time.monotonic() - begun < 10
        second = accepted(answer)
        assert answer.headers["preference-applied"] == "wait=1"
        both = service.denoise(headers={"Prefer": "respond-async, wait=0"})
        assert accepted(both)
        assert both.headers["preference-applied"] == "respond-async, wait=0"
        slow.gate.set()
        for address in (first, second):
            until(service, address, "succeeded")


# --- repeats ---


def test_a_repeat_gets_the_same_bytes_and_the_work_is_done_once(service: Service) -> None:
    key = {"Idempotency-Key": "once"}
    before = service.app.state.worker.finished_counts["succeeded"]
    first, second = (service.denoise(headers=key) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.content == second.content == service.denoise().content
    assert first.headers["server-timing"] == second.headers["server-timing"]
    again = service.denoise(headers={**key, **ASYNC})
    assert again.status_code == 200
    assert service.app.state.worker.finished_counts["succeeded"] == before + 1
    for other in (
        service.denoise(png(30, 30), headers=key),
        service.denoise(strength="0.2", headers=key),
        service.send("/superres", headers=key),
        service.denoise(headers={**key, "Accept": "image/webp"}),
        service.denoise(headers={**key, "Accept": "application/json"}),
    ):
        assert refused(other, "idempotency-mismatch")["field"] == "Idempotency-Key"


@pytest.mark.parametrize("key", ["", "with space", "\u00e4".encode("latin-1"), "x" * 256])
def test_a_key_that_is_none(service: Service, key: Any) -> None:
    assert refused(service.denoise(headers={"Idempotency-Key": key}), "malformed-request")["field"] == "Idempotency-Key"


def test_a_repeat_of_what_is_under_way() -> None:
    with occupied() as (service, slow, _):
        key = {"Idempotency-Key": "k"}
        address = accepted(service.denoise(headers=key | ASYNC))
        refused(service.denoise(headers=key), "job-conflict")
        assert accepted(service.denoise(headers=key | ASYNC)) == address
        assert accepted(service.denoise(headers=key | {"Prefer": "wait=0"})) == address
        slow.gate.set()
        assert service.denoise(headers=key | {"Prefer": "wait=20"}).content == result(service, address).content
        assert service.client.delete(address).status_code == 204
        assert accepted(service.denoise(headers=key | ASYNC)) != address  # what is erased holds no key


def test_a_direct_request_with_a_key_waits_as_long_as_any_and_its_job_goes_on() -> None:
    with occupied(request_timeout_s=1.0) as (service, slow, _):
        key = {"Idempotency-Key": "k"}
        assert "Its job continues" in refused(service.denoise(headers=key), "deadline-exceeded")["detail"]
        slow.gate.set()
        limit = time.monotonic() + 20
        while (answer := service.denoise(headers=key)).status_code != 200:
            refused(answer, "job-conflict")
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_who_hangs_up_finds_the_job_again() -> None:
    with occupied() as (service, slow, _):
        request = httpx.Request("POST", service.client.base_url.join("/denoise"), files={"image": png()})
        body = request.read()
        with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
            head = f"POST /denoise HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: {len(body)}\r\n"
            raw.sendall(f"{head}Content-Type: {request.headers['content-type']}\r\n\r\n".encode() + body)
            limit = time.monotonic() + 20
            while service.app.state.worker.counts.get("queued") != 1:
                assert time.monotonic() < limit
                time.sleep(0.01)
        slow.gate.set()
        answer = service.client.post(
            "/denoise", files={"image": png()}, headers={"Idempotency-Key": "k", "Prefer": "wait=20"}
        )
        assert answer.status_code == 200
        assert service.app.state.worker.finished_counts["succeeded"] == 2


# --- its end ---


def test_a_result_is_there_when_it_is_there() -> None:
    with occupied() as (service, slow, address):
        refused(service.client.get(f"{address}/result"), "job-conflict")
        slow.gate.set()
        assert result(service, address).status_code == 200
        assert service.client.delete(address).status_code == 204
        for path in (address, f"{address}/result", f"{address}/events"):
            refused(service.client.get(path), "not-found")
        refused(service.client.delete(address), "not-found")


def test_cancelling_ends_one_job_and_no_other() -> None:
    with occupied(jobs_at_once=2) as (service, slow, first):
        second = accepted(service.denoise(png(200, 200), model="slow", headers=ASYNC))
        until(service, second, "running")
        third = accepted(service.denoise(model="slow", headers=ASYNC))
        scheduler = service.pipeline.engine.schedulers["CPU:0"]
        answer = service.client.delete(second)
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        limit = time.monotonic() + 20
        while any(waiting.request.context.request_id == f"job {second[6:]}" for waiting in scheduler._queue):
            assert time.monotonic() < limit
            time.sleep(0.01)
        until(service, third, "running")
        assert until(service, first, "running")
        refused(service.client.get(f"{second}/result"), "job-conflict")
        slow.gate.set()
        for address in (first, third):
            until(service, address, "succeeded")
        assert until(service, second, "cancelled")["progress"] < 1
        assert service.client.delete(second).status_code == 204


def test_what_is_kept_expires() -> None:
    clock = Clock()
    with serving(clock=clock, job_ttl_h=1) as service:
        key = {"Idempotency-Key": "k"}
        address = accepted(service.denoise(headers=key | ASYNC))
        assert result(service, address).status_code == 200
        clock.now += 3601
        for path in (address, f"{address}/result", f"{address}/events"):
            refused(service.client.get(path), "job-expired")
        anew = accepted(service.denoise(headers=key | ASYNC))
        assert anew != address
        clock.now += 3600
        refused(service.client.get(address), "not-found")


def test_a_job_that_fails_keeps_its_problem(service: Service) -> None:
    cut = file(np.random.default_rng(3).integers(0, 256, (60, 60, 3), np.uint8))[:-2000]
    address = accepted(service.denoise(cut, headers=ASYNC))
    job = until(service, address, "failed")
    assert job["problem"]["type"] == "/problems/broken-image"
    assert job["problem"]["instance"] == job["id"]
    assert job["problem"]["detail"] == refused(service.denoise(cut), "broken-image")["detail"]
    refused(service.client.get(f"{address}/result"), "broken-image")
    refused(service.denoise(cut, headers={"Prefer": "wait=20"}), "broken-image")
    assert service.client.delete(address).status_code == 204


@pytest.mark.parametrize(
    ("path", "fields", "slug"),
    [
        ("/denoise", {"strength": "2"}, "invalid-field"),
        ("/denoise", {"strenght": "1"}, "unknown-field"),
        ("/denoise", {"model": "fotos"}, "unknown-model"),
        ("/denoise", {"model": "identity", "strength": "0.5"}, "invalid-field"),
        ("/denoise", {"data": b"no picture"}, "unsupported-image"),
        ("/superres", {"scale": "4"}, "invalid-field"),
        ("/superres", {"data": png(600, 800)}, "result-too-large"),
        ("/segment", {"classes": "cat"}, "unknown-class"),
        ("/segment", {"background": "#ffffff"}, "conflicting-fields"),
        ("/inpaint", {}, "missing-field"),
        ("/inpaint", {"mask": hole(), "mask_from": "alpha"}, "conflicting-fields"),
        ("/inpaint", {"mask": b"no picture"}, "unsupported-image"),
    ],
)
def test_what_is_wrong_is_told_at_once_and_becomes_no_job(
    service: Service, path: str, fields: dict[str, Any], slug: str
) -> None:
    before = service.app.state.worker.counts
    sent = dict(fields)
    answer = service.send(path, sent.pop("data", None), headers=ASYNC, **sent)
    refused(answer, slug)
    assert sum(before.values()) == sum(service.app.state.worker.counts.values())


def test_a_deadline_holds_for_jobs_too() -> None:
    with occupied(jobs_at_once=1) as (service, slow, first):
        late = accepted(service.denoise(headers=ASYNC | {"Cancel-After": "100ms"}))
        job = until(service, late, "failed")
        assert job["problem"]["type"] == "/problems/deadline-exceeded"
        slow.gate.set()
        until(service, first, "succeeded")
    with serving({"slow": Stepping(0.2)}, max_batch=1) as service:
        address = accepted(service.denoise(png(256, 256), model="slow", headers=ASYNC | {"Cancel-After": "1s"}))
        assert until(service, address, "failed")["problem"]["type"] == "/problems/deadline-exceeded"
        refused(service.client.get(f"{address}/result"), "deadline-exceeded")


def test_time_that_was_up_elsewhere_is_no_deadline_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def timed_out(*_: Any) -> None:
        raise TimeoutError("a disk far away")

    with serving() as service:
        monkeypatch.setattr(service.pipeline, "run", timed_out)
        address = accepted(service.denoise(headers=ASYNC))
        assert until(service, address, "failed")["problem"]["type"] == "/problems/internal-error"


# --- bounds, and who may see what ---


def test_jobs_and_their_room_are_bounded() -> None:
    with occupied(jobs_max=2, jobs_disk_mb=1) as (service, slow, first):
        second = accepted(service.denoise(headers=ASYNC))
        refused(service.denoise(headers=ASYNC), "jobs-full")
        slow.gate.set()
        for address in (first, second):
            until(service, address, "succeeded")
        noise = file(np.random.default_rng(3).integers(0, 256, (640, 640, 3), np.uint8))
        refused(service.denoise(noise, headers=ASYNC), "storage-full")
        assert service.denoise(noise).status_code == 200


def test_callers_with_keys_see_their_own_jobs_only() -> None:
    with serving(api_keys=("one", "two")) as service:
        one, two = {"X-API-Key": "one"}, {"X-API-Key": "two"}
        addresses = [accepted(service.denoise(headers=one | ASYNC)) for _ in range(3)]
        until(service, addresses[-1], "succeeded", **one)
        for path in (addresses[0], f"{addresses[0]}/result", f"{addresses[0]}/events"):
            refused(service.client.get(path, headers=two), "not-found")
            refused(service.client.get(path), "unauthorized")
            assert service.client.get(path, headers=one).status_code == 200
        refused(service.client.delete(addresses[0], headers=two), "not-found")
        listed = service.client.get("/jobs", headers=one).json()["jobs"]
        assert [job["links"]["self"] for job in listed] == addresses[::-1]
        assert service.client.get("/jobs", headers=two).json() == {"jobs": []}
        # The same word of two callers is two keys.
        key = {"Idempotency-Key": "k"}
        first = accepted(service.denoise(headers=one | ASYNC | key))
        second = accepted(service.denoise(png(30, 30), headers=two | ASYNC | key))
        assert first != second


def test_without_keys_there_is_no_list(service: Service) -> None:
    assert "API keys" in refused(service.client.get("/jobs"), "not-found")["detail"]


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(name=st.binary(min_size=1, max_size=60), method=st.sampled_from(["GET", "DELETE"]))
def test_any_bytes_for_an_id(service: Service, name: bytes, method: str) -> None:
    escaped = "".join(f"%{byte:02x}" for byte in name)
    for rest in ("", "/result", "/events"):
        answer = service.client.request(method, f"/jobs/{escaped}{rest}")
        assert answer.status_code in (404, 405), answer.text


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(
    prefer=st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    key=st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=300),
)
def test_any_headers(service: Service, prefer: str, key: str | None) -> None:
    headers = {"Prefer": prefer.strip().encode("latin-1")}
    if key is not None:
        headers["Idempotency-Key"] = key.strip().encode("latin-1")
    answer = service.client.post("/denoise", files={"image": png(8, 8)}, headers=headers)
    assert answer.status_code in (200, 202, 400, 409), answer.text


def test_jobs_are_in_the_metrics(service: Service) -> None:
    until(service, accepted(service.denoise(headers=ASYNC)), "succeeded")
    text = service.client.get("/metrics").text
    ended = re.search(r'^restore_jobs_finished_total{state="succeeded"} (\S+)$', text, re.MULTILINE)
    assert ended
    assert float(ended[1]) >= 1
    for name in ("queued", "running", 'finished_total{state="failed"}', 'finished_total{state="cancelled"}'):
        assert f"\nrestore_jobs_{name} " in text


# --- beside others, and over an end ---


@pytest.mark.integration
@pytest.mark.parametrize(("size", "tiles"), [((24, 40), 1), ((120, 120), 9)])
def test_a_running_job_adds_at_most_two_batch_times_or_its_share_to_a_picture(
    size: tuple[int, int], tiles: int
) -> None:
    call = 0.1

    class Timed:
        """A model whose every call takes the same time, however large its batch."""

        def run(self, signature: str, inputs: Arrays) -> Arrays:
            time.sleep(call)
            if signature == "estimate":
                return {"level": np.full((len(inputs["image"]), 1, 1, 1), 0.25, np.float32)}
            return {"image": inputs["image"]}

    def seconds(service: Service) -> float:
        begun = time.monotonic()
        answer = service.denoise(png(*size))
        assert f"tiles={tiles}" in answer.headers["x-applied"]
        return time.monotonic() - begun

    with serving({"photo": Timed()}) as service:
        seconds(service)
        alone = statistics.median(seconds(service) for _ in range(5))
        address = accepted(service.denoise(png(1000, 1000), headers=ASYNC))
        until(service, address, "running")
        beside = [seconds(service) for _ in range(9)]
        done = until(service, address, "running")["done"]
        limit = time.monotonic() + 20
        while until(service, address, "running")["done"] == done:  # it was never stopped
            assert time.monotonic() < limit
        service.client.delete(address)
    print(f"{tiles} tiles: alone {alone:.3f} s, beside a job {[round(one, 3) for one in beside]} s")
    share = alone * BACKGROUND / INTERACTIVE + call  # the last is under way when the picture comes
    assert statistics.median(beside) <= alone + max(2 * call, share)


def test_a_job_that_a_stop_interrupts_is_done_by_the_next_start(tmp_path: Path) -> None:
    with occupied(data_dir=tmp_path) as (service, slow, first):
        second = accepted(service.denoise(headers=ASYNC))
        stop_while_closed(service, slow)
    with serving({"slow": opened_gate()}, data_dir=tmp_path) as service:
        for address in (first, second):
            assert result(service, address).status_code == 200


def stop_while_closed(service: Service, slow: Slow) -> None:
    """Leave the gate closed for the service's stop, until the job was put back."""
    worker = service.app.state.worker
    release = worker.store.release

    def released(job: Any) -> bool:
        done: bool = release(job)
        slow.gate.set()
        return done

    worker.store.release = released


def opened_gate() -> Slow:
    slow = Slow()
    slow.gate.set()
    return slow


# --- the contract, in any order, against a plain model of it ---


@dataclass
class Plain:
    """What a job should be."""

    address: str
    picture: bytes
    key: str | None
    state: str = "queued"
    until: float | None = None
    known: bool = True
    answers: list[bytes] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Clients who create, poll, cancel, repeat and fetch while time goes by; jobs pass only while the gate is open."""

    jobs = Bundle("jobs")
    steps: ClassVar[int] = 0
    service: ClassVar[Service]
    slow: ClassVar[Slow]
    clock: ClassVar[Clock]
    words: ClassVar[int] = 0

    pictures = st.sampled_from([png(8, 8), png(8, 16)])

    def __init__(self) -> None:
        super().__init__()
        Machine.words += 1
        self.plain: list[Plain] = []
        self.slow.gate.set()

    def teardown(self) -> None:
        self.slow.gate.set()
        for job in self.plain:
            if self.state(job) in ("queued", "running"):
                until(self.service, job.address, "succeeded")

    def state(self, job: Plain) -> str:
        """Return what state it should show by now."""
        if job.until is not None and self.clock.now >= job.until:
            return "expired" if self.clock.now < job.until + 3600 else "forgotten"
        return job.state if job.known else "forgotten"

    def settle(self) -> None:
        """Let the plain model do what the service does in no time: one job runs, and ends if the gate is open."""
        waiting = [job for job in self.plain if self.state(job) in ("queued", "running")]
        if self.slow.gate.is_set():
            for job in waiting:
                until(self.service, job.address, "succeeded")
                job.state, job.until = "succeeded", self.clock.now + 3600
        elif waiting:
            waiting[0].state = "running"
            until(self.service, waiting[0].address, "running")

    def send(self, picture: bytes, key: str | None, headers: Mapping[str, str]) -> httpx.Response:
        word = {"Idempotency-Key": f"{Machine.words}-{key}"} if key else {}
        return self.service.denoise(picture, model="slow", headers={**headers, **word})

    def holder(self, key: str | None) -> Plain | None:
        """Return the job that has the key."""
        held = [job for job in self.plain if key and job.key == key and self.state(job) not in ("expired", "forgotten")]
        return held[0] if held else None

    @rule(target=jobs, picture=pictures, key=st.sampled_from([None, "k", "l"]))
    def create_or_repeat(self, picture: bytes, key: str | None) -> Plain | None:
        held = self.holder(key)
        answer = self.send(picture, key, ASYNC)
        if held is not None:
            if held.picture != picture:
                refused(answer, "idempotency-mismatch")
            elif held.state == "succeeded":
                assert answer.status_code == 200
                held.answers.append(answer.content)
            elif held.state == "cancelled":
                refused(answer, "job-conflict")
            else:
                assert accepted(answer) == held.address
            return held
        active = [job for job in self.plain if self.state(job) in ("queued", "running")]
        if len(active) >= 4:
            refused(answer, "jobs-full")
            return None
        job = Plain(accepted(answer), picture, key)
        self.plain.append(job)
        self.settle()
        return job

    @rule(picture=pictures, key=st.sampled_from(["k", "l"]))
    def repeat_directly(self, picture: bytes, key: str) -> None:
        held = self.holder(key)
        if held is None or held.picture != picture or held.state == "cancelled":
            return
        answer = self.send(picture, key, {})
        if held.state == "succeeded":
            held.answers.append(answer.content)
            assert answer.status_code == 200
        else:
            refused(answer, "job-conflict")

    @rule(job=jobs)
    def poll(self, job: Plain | None) -> None:
        if job is None:
            return
        answer = self.service.client.get(job.address)
        match self.state(job):
            case "forgotten":
                refused(answer, "not-found")
            case "expired":
                refused(answer, "job-expired")
            case state:
                assert answer.json()["state"] == state
                waiting = [one for one in self.plain if self.state(one) == "queued"]
                assert answer.json()["place"] == (waiting.index(job) + 1 if job in waiting else None)

    @rule(job=jobs)
    def fetch(self, job: Plain | None) -> None:
        if job is None:
            return
        answer = self.service.client.get(f"{job.address}/result")
        match self.state(job):
            case "forgotten":
                refused(answer, "not-found")
            case "expired":
                refused(answer, "job-expired")
            case "succeeded":
                job.answers.append(answer.content)
                np.testing.assert_array_equal(opened(answer.content), opened(job.picture))
            case _:
                refused(answer, "job-conflict")

    @rule(job=jobs)
    def delete(self, job: Plain | None) -> None:
        if job is None:
            return
        state = self.state(job)
        answer = self.service.client.delete(job.address)
        if state == "forgotten":
            refused(answer, "not-found")
        elif state in ("queued", "running"):
            assert answer.json()["state"] == "cancelled"
            job.state, job.until = "cancelled", self.clock.now + 3600
            self.settle()
        else:
            assert answer.status_code == 204
            job.known = False
            job.until = None

    @rule(is_open=st.booleans())
    def turn_the_gate(self, is_open: bool) -> None:
        if is_open:
            self.slow.gate.set()
        else:
            self.slow.gate.clear()
        self.settle()

    @rule(hours=st.sampled_from([0.4, 1.0]))
    def time_goes_by(self, hours: float) -> None:
        self.clock.now += hours * 3600

    @invariant()
    def the_same_job_always_gives_the_same(self) -> None:
        Machine.steps += 1
        assert all(len(set(job.answers)) <= 1 for job in self.plain)


@pytest.mark.integration
@pytest.mark.timeout(3000)
def test_the_contract_holds_whatever_is_sent_in_whatever_order() -> None:
    Machine.slow, Machine.clock = Slow(), Clock()
    Machine.steps = 0
    Machine.slow.gate.set()
    with serving({"slow": Machine.slow}, clock=Machine.clock, job_ttl_h=1, jobs_max=4) as Machine.service:
        walk(Machine)
    assert Machine.steps >= STEPS
