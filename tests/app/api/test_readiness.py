from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from app.api import readiness
from app.engine.local import LocalEngine
from app.engine.protocol import Arrays
from app.errors import ModelUnavailable, Overloaded
from tests.app.api.service import Honest, Service, png, serving
from tests.engines import Slow
from tests.model_repository import manifest

TASKS = ("denoise", "inpaint", "segment", "stylize", "superres")


def test_alive(service: Service) -> None:
    assert service.client.get("/livez").json() == {"status": "alive"}


@pytest.mark.parametrize(
    "path", ["/livez", "/models", "/models/denoise/photo", "/docs", "/docs/swagger-ui.css", "/openapi.json"]
)
def test_head_answers_where_get_does(service: Service, path: str) -> None:
    head, get = service.client.head(path), service.client.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    for name in ("content-type", "content-length", "cache-control"):
        assert head.headers.get(name) == get.headers.get(name)
    assert service.client.head(path).status_code == get.status_code  # on the same connection


def test_head_counts_as_itself_and_is_refused_where_get_is(service: Service) -> None:
    service.client.head("/livez")
    assert 'restore_requests_total{method="HEAD",path="/livez",status="200"}' in service.client.get("/metrics").text
    refused = service.client.head("/denoise")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert service.client.head("/nothing").status_code == 404


def test_ready_when_every_task_works() -> None:
    with serving() as service:
        answer = service.client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ready", "tasks": dict.fromkeys(TASKS, "ready")}


def test_requests_work_while_models_warm() -> None:
    slow = Slow()
    with serving({"nearest": slow}, settled=False) as service:
        try:
            assert slow.entered.wait(20) or service.denoise().status_code == 200
        finally:
            slow.gate.set()


class Device(Honest):
    """Works until it dies: `how` is what it does then."""

    def __init__(self) -> None:
        self.how: Exception | float | None = None

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        if isinstance(self.how, Exception):
            raise self.how
        outputs = super().run(signature, inputs)
        return outputs if self.how is None else {name: array * np.float32(self.how) for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (ModelUnavailable("dead"), "ModelUnavailable"),
        (Overloaded("no memory"), "Overloaded"),
        (RuntimeError("dead"), "ModelUnavailable"),
        (0.5, "another result than before"),
        (float("nan"), "ModelUnavailable"),
    ],
)
def test_a_device_that_died_is_not_ready_and_may_come_back(
    how: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "FRESH_S", 0.0)
    device = Device()
    with serving({"photo": device}) as service:
        assert service.client.get("/readyz").status_code == 200
        device.how = how
        answer = service.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["tasks"] == dict.fromkeys(TASKS, "ready") | {"denoise": reason}
        device.how = None
        assert service.client.get("/readyz").status_code == 200


def test_a_device_that_hangs_is_not_ready_though_its_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH_S", 0.0)
    slow = Slow()
    with serving({"slow": slow}, queue_megapixels=0.001) as service, ThreadPoolExecutor() as pool:
        assert service.client.get("/readyz").status_code == 200
        monkeypatch.setattr(readiness, "TIMEOUT_S", 0.2)
        caught = pool.submit(service.denoise, png(300, 300), model="slow")
        assert slow.entered.wait(20)
        refused = service.denoise(model="slow")
        assert refused.json()["type"] == "/problems/overloaded"
        answer = service.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["tasks"] == dict.fromkeys(TASKS, "no answer in time")
        slow.gate.set()
        assert caught.result().status_code == 200
        monkeypatch.setattr(readiness, "TIMEOUT_S", 15.0)
        assert service.client.get("/readyz").status_code == 200


def test_a_default_that_is_not_loaded_at_start_is_loaded_to_be_judged() -> None:
    with serving(preload=("superres",)) as service:
        assert service.client.get("/readyz").json() == {"status": "ready", "tasks": dict.fromkeys(TASKS, "ready")}


def test_a_verdict_holds_for_a_while_and_many_may_ask() -> None:
    calls = []

    class Counting(Honest):
        def run(self, signature: str, inputs: Arrays) -> Arrays:
            calls.append(threading.current_thread().name)
            return super().run(signature, inputs)

    async def ask(port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answers = await asyncio.gather(*(client.get("/readyz") for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}

    with serving({"photo": Counting()}) as service:
        service.client.get("/readyz")
        before = len(calls)
        asyncio.run(ask(service.port))
        assert len(calls) == before


def test_without_workers_the_service_is_not_ready_whatever_was_probed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as service:
        assert service.client.get("/readyz").status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(LocalEngine, "worker_count", 0)
            answer = service.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "not ready", "tasks": dict.fromkeys(TASKS, "no worker")}
        assert service.client.get("/readyz").status_code == 200


def test_a_shelf_without_models_or_without_a_default_is_not_ready() -> None:
    with serving(models=()) as service:
        answer = service.client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "tasks": {}})
        assert service.denoise().json()["type"] == "/problems/unknown-model"
        assert service.client.get("/models").json() == {"models": []}
    with serving(models=(manifest(name="identity"),)) as service:
        answer = service.client.get("/readyz")
        assert (answer.status_code, answer.json()["tasks"]) == (503, {"denoise": "no default model"})
        assert service.denoise(model="identity").status_code == 200


def test_metrics_count(service: Service) -> None:
    def counted(name: str) -> float:
        text = service.client.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    answered = 'restore_requests_total{method="POST",path="/denoise",status="200"}'
    refused = 'restore_problems_total{slug="unknown-field"}'
    pixels = 'restore_input_pixels_total{task="denoise"}'
    before = [counted(name) for name in (answered, refused, pixels)]
    service.denoise()
    service.denoise(nonsense="1")
    assert [counted(name) for name in (answered, refused, pixels)] == [before[0] + 1, before[1] + 1, before[2] + 960]
    assert counted("restore_requests_active") == 1  # the one that asks
    assert counted('restore_device_tiles_total{device="CPU:0"}') > 0
    for path in ("/a", "/b", "/c"):
        service.client.get(path)
    assert 'path="/a"' not in service.client.get("/metrics").text
