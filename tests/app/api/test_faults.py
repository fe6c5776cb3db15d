"""A device that fails, and callers that go away at any moment: the next request works, and nothing stays held."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from app import pipeline
from app.errors import Overloaded
from tests.app.api.service import Service, file, png, serving, wait_until
from tests.app.api.test_refusals import multipart, part, refused
from tests.app.api.test_server import connected, request
from tests.engines import Failing, Slow

HELD = {
    "restore_decoded_pixels": 0.0,
    "restore_requests_waiting": 0.0,
    "restore_queue_tiles": 0.0,
    "restore_queue_pixels": 0.0,
    "restore_pending_work_seconds": 0.0,
    "restore_requests_active": 1.0,  # the one that asks
}


def gauges(service: Service) -> dict[str, float]:
    """Return what the service holds now, by its own account."""
    text = service.client.get("/metrics").text
    found: Counter[str] = Counter()
    for name, value in re.findall(r"^(\w+)(?:{.*})? (\S+)$", text, re.MULTILINE):
        if name in HELD:
            found[name] += float(value)  # type: ignore[assignment]
    return {name: float(value) for name, value in found.items()}


def nothing_is_held(service: Service) -> None:
    """Wait until all is given back, and see that the next request works."""
    wait_until(lambda: gauges(service) == pytest.approx(HELD, abs=1e-9))
    assert service.denoise().status_code == 200
    wait_until(lambda: service.concurrency.count == 0)


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (RuntimeError("secret"), "model-unavailable"),
        (MemoryError("secret"), "model-unavailable"),
        (OSError(28, "secret"), "model-unavailable"),
        (RecursionError("secret"), "model-unavailable"),
        (Overloaded("The device has too little memory for this now. Try again later."), "overloaded"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_whatever_a_device_raises_costs_one_request_and_not_its_neighbours(error: Exception, slug: str) -> None:
    white, grey = file(np.full((24, 40, 3), 255, np.uint8)), png()
    with serving({"failing": Failing(0.99, error)}) as service, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(service.denoise, data, model="failing") for data in (white, grey) * 4]
        for bad, good in zip(answers[::2], answers[1::2], strict=True):
            assert "secret" not in refused(bad.result(), slug)["detail"]
            assert good.result().status_code == 200
        nothing_is_held(service)


def sent(model: str, picture: bytes) -> bytes:
    return request(multipart(part("model", model.encode()), part("image", picture, "a.png")))


def test_who_goes_away_in_the_middle_of_his_upload_leaves_nothing() -> None:
    with serving() as service:
        whole = sent("identity", png(300, 300))
        with connected(service, whole[: len(whole) // 2]):
            wait_until(lambda: service.concurrency.count == 1)
        nothing_is_held(service)


def test_who_goes_away_before_his_picture_is_decoded_leaves_nothing() -> None:
    slow = Slow()
    with serving({"slow": slow}, decoded_megapixels=0.002) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.denoise, model="slow")
        assert slow.entered.wait(20)
        with connected(service, sent("identity", png())):
            wait_until(lambda: gauges(service)["restore_requests_waiting"] == 1)
        wait_until(lambda: gauges(service)["restore_requests_waiting"] == 0)
        slow.gate.set()
        assert first.result().status_code == 200
        nothing_is_held(service)


def test_who_goes_away_while_his_picture_is_decoded_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, entered, gate = pipeline._decode, threading.Event(), threading.Event()

    def held_up(*args: Any) -> Any:
        entered.set()
        assert gate.wait(30)
        return decode(*args)

    with serving() as service, monkeypatch.context() as patch:
        patch.setattr(pipeline, "_decode", held_up)
        with connected(service, sent("identity", png(160, 160))):
            assert entered.wait(20)
        wait_until(lambda: gauges(service)["restore_requests_active"] == 1)
        held = gauges(service)["restore_decoded_pixels"]
        gate.set()
        assert held > 0  # a thread cannot be stopped: what it has is given back when it is done
        nothing_is_held(service)


@pytest.mark.skipif(sys.platform != "linux", reason="decoder processes need Linux")
def test_of_fifty_requests_only_those_fail_whose_decoder_is_killed_or_segfaults() -> None:
    with serving(decoders=4) as service, ThreadPoolExecutor(50) as senders:
        pool = service.app.state.decoders
        wait_until(lambda: len(pool.pids) == 4)
        pids = pool.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that pictures are in the middle of being decoded
        answers = [senders.submit(service.denoise, model="identity") for _ in range(50)]
        wait_until(lambda: len(pool.busy_pids) == 3)  # one client leaves one decoder to others
        assert service.client.get("/livez").status_code == 200
        killed, crashed, *_ = pool.busy_pids
        os.kill(killed, signal.SIGKILL)
        os.kill(crashed, signal.SIGSEGV)
        for pid in set(pids) - {killed}:
            os.kill(pid, signal.SIGCONT)
        counts = Counter(answer.result().status_code for answer in answers)
        assert counts == {200: 48, 413: 1, 422: 1}
        for answer in answers:
            if answer.result().status_code != 200:
                slug = {413: "too-many-pixels", 422: "broken-image"}[answer.result().status_code]
                assert refused(answer.result(), slug)["field"] == "image"
        text = service.client.get("/metrics").text
        for reason, count in (("killed", 1), ("crash", 1), ("timeout", 0)):
            assert f'restore_decoder_failures_total{{reason="{reason}"}} {count}.0' in text
        assert float(re.findall(r"^restore_decoder_memory_bytes (\S+)$", text, re.MULTILINE)[0]) > 10e6
        nothing_is_held(service)
    assert pool.pids == []


@pytest.mark.integration
def test_who_goes_away_while_his_answer_is_sent_leaves_nothing() -> None:
    noise = file(np.random.default_rng(1).integers(0, 256, (1600, 1600, 3), np.uint8))  # more than a socket holds
    with serving() as service:
        with connected(service, sent("identity", noise)) as raw:
            assert raw.recv(12) == b"HTTP/1.1 200"
        nothing_is_held(service)
