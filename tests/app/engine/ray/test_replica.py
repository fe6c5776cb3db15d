from __future__ import annotations

import asyncio
import errno
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from app.engine.ray.replica import Replica
from app.engine.ray.wire import WireRequest
from app.errors import DeadlineExceeded, ModelUnavailable, ServiceError, UnknownModel
from models import repository
from models.manifest import Signature
from tests.engines import Chain, Costly, Failing, Identity, Loader, Recording, Slow, request
from tests.model_repository import manifest, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")
    for one in (manifest(default=True, batch_sizes=[1, 2]), manifest(name="other")):
        repository.publish(one, source, tmp_path / "models")
    return tmp_path / "models"


def wire_request(value: float = 0.5, *, left: float = 60.0, model: str = "denoise/identity@1") -> WireRequest:
    return WireRequest.of(request(value, deadline=100.0 + left, model=model), "front", now=100.0)


def test_a_result_has_the_outputs_the_device_seconds_and_what_was_counted_since_the_last_one(root: Path) -> None:
    async def work() -> None:
        replica = Replica([root], (), 64, Loader({"identity": Identity()}))
        replies = [await replica.run(wire_request(value)) for value in (0.25, 0.75)]
        for reply, value in zip(replies, (0.25, 0.75), strict=True):
            assert not isinstance(reply.outcome, ServiceError)
            assert reply.outcome["image"].flat[0] == np.float32(value)
            assert reply.device_seconds > 0
            assert (reply.counters.requests, reply.counters.batches, reply.counters.pixels) == (1, 1, 64)
            assert reply.counters.batch_sizes == {1: 1}
        assert (replies[0].counters + replies[1].counters) == replica.engine.counters

    asyncio.run(work())


def test_a_result_has_the_precision_that_it_was_computed_in(root: Path, tmp_path: Path) -> None:
    async def work() -> None:
        signature = Signature(inputs={"image": picture()}, outputs={"image": picture()}, bfloat16=True)
        repository.publish(manifest(name="photo", signatures={"denoise": signature}), tmp_path / "source", root)
        model = Recording()
        replica = Replica([root], ["denoise/photo"], 64, Loader({"photo": model}), precision="bfloat16")
        assert [signature for signature, *_ in model.calls] == ["denoise:bfloat16"]  # warm before the first request
        sent = wire_request(model="denoise/photo@1")
        assert (await replica.run(sent)).precision == "bfloat16"
        assert (await replica.run(replace(sent, exact=True))).precision == "float32"

    asyncio.run(work())


def test_errors_of_the_model_are_returned_and_not_raised(root: Path) -> None:
    async def work() -> None:
        replica = Replica([root], (), 64, Loader({"identity": Failing(error=ModelUnavailable("It failed."))}))
        reply = await replica.run(wire_request())
        assert isinstance(reply.outcome, ModelUnavailable)
        assert reply.counters.failures == 1
        assert isinstance((await replica.run(wire_request(model="denoise/nobody@1"))).outcome, UnknownModel)
        assert isinstance((await replica.run(wire_request(left=-1.0))).outcome, DeadlineExceeded)

    asyncio.run(work())


def test_requests_share_batches_up_to_the_smaller_limit(root: Path) -> None:
    async def work(max_batch: int) -> set[int]:
        slow = Slow()
        replica = Replica([root], (), max_batch, Loader({"identity": Chain(slow, Costly(call=0.01))}))
        for tiles in (1, 2, 4):
            replica.engine.latency.record("denoise/identity@1", "denoise", 64, tiles, 0.01)
        going = [asyncio.create_task(replica.run(wire_request(value))) for value in range(9)]
        await asyncio.to_thread(slow.entered.wait, 30)
        slow.gate.set()
        sizes: Counter[int] = Counter()
        for reply in await asyncio.gather(*going):
            sizes += reply.counters.batch_sizes
        return set(sizes)

    assert asyncio.run(work(64)) == {1, 2}, "the manifest allows two"
    assert asyncio.run(work(1)) == {1}


def test_cancelling_takes_a_request_off_the_queue(root: Path) -> None:
    async def work() -> None:
        slow = Slow()
        replica = Replica([root], (), 1, Loader({"identity": slow}))
        first = asyncio.create_task(replica.run(wire_request(1.0)))
        await asyncio.to_thread(slow.entered.wait, 30)
        second = asyncio.create_task(replica.run(wire_request(2.0)))
        while not replica.engine.devices["CPU:0"].depth:
            await asyncio.sleep(0.001)
        second.cancel()
        await asyncio.wait([second])
        assert replica.engine.devices["CPU:0"].depth == 0
        slow.gate.set()
        assert (await first).counters.requests == 1

    asyncio.run(work())


def test_preloaded_models_are_warm_at_the_start_and_one_that_fails_stops_no_other(root: Path) -> None:
    recording = Recording()
    loader = Loader({"identity": recording})
    Replica([root], ("denoise/other", "denoise/nobody", "defaults"), 64, loader)
    assert loader.loads == ["denoise/other@1", "denoise/identity@1"]
    assert [signature for signature, *_ in recording.calls] == ["denoise"]


def test_models_that_are_not_preloaded_are_evicted_first(root: Path) -> None:
    async def work() -> None:
        repository.publish(manifest(name="another"), root.parent / "source", root)
        loader = Loader({"identity": Identity(), "other": Identity(), "another": Identity()})
        replica = Replica([root], ("denoise/other",), 64, loader, budget=200)
        await replica.run(wire_request(model="denoise/other@1"))
        assert replica._measuring
        await replica._measuring  # it leases the models that it measures
        for model in ("identity", "another"):
            await replica.run(wire_request(model=f"denoise/{model}@1"))
        assert loader.unloads == [loader.fakes["identity"]], "there is memory for two, and one is pinned"

    asyncio.run(work())


def test_a_replica_reports_what_is_wrong_with_a_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica([root], (), 64, Loader(broken={"other": "operation ReadFile is not allowed"}))

    identity, other = root / "denoise/identity/1", root / "denoise/other/1"
    expected = {folder: repository.open_model(folder) for folder in (identity, other)}

    def problems(folder: Path, **changed: str) -> list[str]:
        return asyncio.run(replica.problems(folder, expected[folder].model_copy(update=changed)))

    assert problems(identity) == []
    assert problems(identity, title="Another one") == ["a replica has a different model in this folder"]
    assert problems(other) == ["operation ReadFile is not allowed"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        assert problems(identity) == ["it cannot be read: Too many open files"]
    (identity / "saved_model.pb").write_bytes(b"changed")
    assert problems(identity) == ["saved_model.pb has another SHA-256 than the manifest says"]
