"""Two Ray nodes on this machine with a replica each and real models; replicas are killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from app.engine.ray.cluster import APPLICATION, DEPLOYMENT, Cluster
from app.engine.ray.engine import RayEngine
from app.main import create_app
from app.settings import Settings
from models import manifest as contract
from models import repository
from tests.app.api.service import file, running
from tests.e2e.test_process import started
from tests.replicas import PAUSE_S, Account, Watched

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "models/published/denoise"
REQUESTS = 24

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own; ours are errors in every other test
]

T = TypeVar("T")


@dataclass
class Front:
    """A service whose replicas are on two nodes, and a client that talks to it."""

    engine: RayEngine
    client: httpx.Client

    @property
    def handle(self) -> Any:
        """Ray Serve's own handle to the replicas."""
        from ray import serve

        return serve.get_deployment_handle(DEPLOYMENT, APPLICATION)

    def denoise(self, data: bytes, model: str = "photo", **headers: str) -> httpx.Response:
        fields = {"model": model} | ({"strength": "0.2"} if model == "photo" else {})
        return self.client.post("/denoise", files={"image": data}, data=fields, headers=headers)

    def accounts(self) -> dict[int, Account]:
        """Return the account of each replica that works, by process."""
        found: dict[int, Account] = {}
        end = time.monotonic() + 20
        while len(found) < self.engine.worker_count and time.monotonic() < end:
            asked = [self.handle.account.remote() for _ in range(8)]  # at once, so that they are spread
            found |= {one.pid: one for one in (answer.result(timeout_s=20) for answer in asked)}
        return found

    def metric(self, name: str) -> float:
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return sum(map(float, found))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two published models, and of one whose graph is not what its manifest says."""
    root = tmp_path_factory.mktemp("models")
    for name in ("photo", "digits"):
        shutil.copytree(PUBLISHED / name, root / "denoise" / name)
    folder = PUBLISHED / "digits" / "1"
    honest = contract.read(folder)
    repository.publish(
        honest.model_copy(update={"name": "unlisted", "operations": ["Add"], "default": False}), folder, root
    )
    return root


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes, with room for one replica on each, that only this machine can reach."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # localhost means localhost
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": 2, "object_store_memory": 200 * 2**20, "node_ip_address": "127.0.0.1"}
    nodes = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(**node)
    yield nodes.address
    nodes.shutdown()


@pytest.fixture(scope="module")
def front(address: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    cluster = Cluster(address, replicas=2, cpus=1.5)
    engine = RayEngine([root], cluster, preload=["denoise/photo", "denoise/digits"], max_batch=1, replica=Watched)
    settings = Settings(
        models_dir=(root,),
        data_dir=tmp_path_factory.mktemp("jobs"),
        preload=("denoise/photo", "denoise/digits"),
        decoders=0,
    )
    with running(create_app(settings, engine=engine)) as (_, port):
        until(lambda: engine.worker_count == 2)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield Front(engine, client)


@pytest.fixture(autouse=True)
def rested(request: pytest.FixtureRequest) -> None:
    """Wait until both replicas work and are idle."""
    if "front" in request.fixturenames:
        front: Front = request.getfixturevalue("front")
        until(lambda: front.engine.worker_count == 2 and not front.engine.depth)
        until(lambda: len(found := front.accounts()) == 2 and not any(one.held for one in found.values()))


def until(condition: Callable[[], T], limit: float = 180) -> T:
    """Wait until `condition` holds, and return it."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return found


def noisy(number: int, side: int = 64) -> bytes:
    """Return a different picture for each number."""
    chance = np.random.default_rng(number)
    return file((120 + number + chance.normal(0, 12, (side, side, 3))).clip(0, 255).astype(np.uint8))


def together(front: Front, pictures: list[bytes], pool: ThreadPoolExecutor) -> dict[str, Future[httpx.Response]]:
    """Send pictures at once, each as a request whose id is returned."""
    return {
        f"picture-{number}": pool.submit(front.denoise, data, **{"X-Request-Id": f"picture-{number}"})
        for number, data in enumerate(pictures)
    }


def owners(account: Account) -> set[str]:
    """Return the ids of the HTTP requests whose tiles a replica holds."""
    return {request.partition("/")[2].partition("#")[0] for request in account.held}


def test_a_killed_replica_loses_nothing(front: Front) -> None:
    """`kill -9` while it holds tiles: every response arrives, with the same content as without the kill."""
    pictures = [noisy(number) for number in range(REQUESTS)] + [noisy(REQUESTS, side=900)]
    with ThreadPoolExecutor(len(pictures)) as pool:
        untouched = [one.result() for one in together(front, pictures, pool).values()]
        assert [answer.status_code for answer in untouched] == [200] * len(pictures)
        retries = front.engine.counters.retries

        going = together(front, pictures, pool)
        victim = until(lambda: next((one for one in front.accounts().values() if one.held.total() > 4), None))
        os.kill(victim.pid, signal.SIGSTOP)  # it answers nothing any more
        time.sleep(0.5)  # until its last results have arrived
        unanswered = {name for name in owners(victim) if not going[name].done()}
        os.kill(victim.pid, signal.SIGKILL)
        assert len(unanswered) > 2, "tiles were in flight on it"
        answers = [one.result() for one in going.values()]

    assert [answer.status_code for answer in answers] == [200] * len(pictures)
    for answer, expected in zip(answers, untouched, strict=True):
        assert answer.content == expected.content
    assert front.engine.counters.retries - retries >= len(unanswered)
    assert front.metric("restore_device_retries_total") == front.engine.counters.retries
    until(lambda: front.engine.worker_count == 2)
    assert victim.pid not in front.accounts()


def test_without_a_replica_requests_fail_at_once_and_are_served_again_later(front: Front) -> None:
    picture = noisy(1)
    expected = front.denoise(picture).content
    with ThreadPoolExecutor(8) as pool:
        going = together(front, [noisy(number) for number in range(8)], pool)
        until(lambda: front.engine.depth == 8)
        begun = time.monotonic()
        for pid in front.accounts():
            os.kill(pid, signal.SIGKILL)
        ended = [one.result() for one in going.values()]
        assert time.monotonic() - begun < 30
    refused = [answer for answer in ended if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("overloaded")
        assert int(answer.headers["retry-after"]) > 0
    assert front.client.get("/readyz").status_code == 503
    until(lambda: front.denoise(picture).status_code == 200)
    assert front.denoise(picture).content == expected
    until(lambda: front.engine.worker_count == 2)


def test_requests_of_clients_that_disconnected_leave_the_replicas(front: Front) -> None:
    def hung_up(number: int) -> bool:
        form = {"files": {"image": noisy(number)}, "data": {"model": "photo", "strength": "0.2"}}
        try:
            assert front.client.post("/denoise", **form, timeout=2 * PAUSE_S).status_code == 200
        except httpx.ReadTimeout:
            return True
        return False

    with ThreadPoolExecutor(REQUESTS) as pool:
        begun = time.monotonic()
        assert any(list(pool.map(hung_up, range(REQUESTS))))
        until(lambda: not any(account.held for account in front.accounts().values()), 10)
        assert time.monotonic() - begun < REQUESTS * PAUSE_S / 2, "the replicas would have needed longer for all"
    assert front.engine.depth == 0


def test_replicas_check_the_graphs(front: Front) -> None:
    states = {entry["name"]: entry["state"] for entry in front.client.get("/models").json()["models"]}
    assert states == {"digits": "loaded", "photo": "loaded", "unlisted": "unavailable"}
    answer = front.denoise(noisy(1, side=28), model="unlisted")
    assert answer.status_code == 503
    assert answer.json()["type"].endswith("model-unavailable")


def test_counters_of_replicas_are_in_the_metrics(front: Front) -> None:
    names = ["restore_device_tiles_total", "restore_device_batches_total", "restore_device_busy_seconds_total"]
    for number in range(4):  # each replica has reported what it did for clients that had disconnected
        front.denoise(noisy(number))
    before = [front.metric(name) for name in names]
    answer = front.denoise(noisy(3))
    assert answer.status_code == 200
    tiles, batches, seconds = (front.metric(name) - then for name, then in zip(names, before, strict=True))
    assert (tiles, batches) == (1, 1)
    assert seconds > PAUSE_S
    assert "model;dur=" in answer.headers["server-timing"]
    assert front.metric("restore_devices") == 2
    assert front.metric("restore_queue_tiles") == 0


SECOND_FRONT = """
import asyncio, sys
from pathlib import Path
from app.engine.local import warmup_requests
from app.engine.protocol import RequestContext
from app.engine.ray import Cluster, RayEngine

async def main(engine):
    photo = engine.find("denoise", "photo")
    await engine.warm(photo)
    print([status.state for status in engine.statuses()], engine.worker_count)
    requests = [next(warmup_requests(photo, RequestContext(f"caller {{number}}"))) for number in range(3)]
    answers = await asyncio.gather(*map(engine.run, requests), return_exceptions=True)
    print([type(answer).__name__ for answer in answers])
    await engine.close(10)

asyncio.run(main(RayEngine([Path({root!r})], Cluster({address!r}), max_megapixels=0.0001)))
assert not {{"tensorflow", "keras"}} & sys.modules.keys()
"""


def test_a_second_service_uses_the_same_replicas_limits_its_own_queue_and_imports_no_tensorflow(
    front: Front, address: str, root: Path
) -> None:
    pids = set(front.accounts())
    program = SECOND_FRONT.format(root=str(root), address=address)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, first, second = done.stdout.splitlines()  # after lines of the log
    assert first == "['unloaded', 'loaded', 'unavailable'] 2"
    assert second == "['dict', 'Overloaded', 'Overloaded']"
    assert set(front.accounts()) == pids


def test_one_command_serves_with_a_cluster_of_its_own(root: Path) -> None:
    environment = {"RESTORE_ENGINE": "ray", "RESTORE_RAY_REPLICAS": "1", "RESTORE_PRELOAD": "denoise/digits"}
    with started(root, **environment) as process:

        def answers() -> bool:
            try:
                return process.client.get("/livez").status_code == 200
            except httpx.TransportError:
                assert process.process.poll() is None, process.errors()
                return False

        until(answers)
        picture = file(np.zeros((28, 28, 1), np.uint8))
        answer = process.client.post("/denoise", files={"image": picture}, data={"model": "digits"})
        assert answer.status_code == 200
        assert answer.headers["x-model"] == "denoise/digits@1"
        assert "restore_devices 1.0" in process.client.get("/metrics").text
        code, errors = process.end()
    assert code == 0, errors
