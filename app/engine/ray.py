"""The engine of many machines: replicas that Ray Serve keeps alive, behind the same protocol. Imports no TensorFlow.

Ray Serve starts, watches, replaces and drains the replicas. `LeastOutstandingRouter` chooses the replica for each tile,
and each replica's own scheduler orders the tiles there. A tile is a pure function of its inputs: if its replica dies it
goes to another one, `RETRIES` times at most and within its deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from app.engine.latency_model import LatencyModel
from app.engine.loader import Model
from app.engine.local import warmup_requests
from app.engine.protocol import Arrays, Counters, DeviceStats, InferenceRequest, ModelStatus, RequestContext
from app.engine.registry import Registry
from app.engine.replica import Replica, WireRequest, WireResult
from app.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServiceError, ShuttingDown
from models.manifest import Manifest

log = structlog.get_logger(__name__)

APPLICATION = "restore"
DEPLOYMENT = "replica"
ROUTER = "app.engine.serve_router.Router"

RETRIES = 2
"""How often a tile whose replica died is sent to another one."""

LOOK_S = 1.0
"""Seconds between two looks at how many replicas work."""

_START_S = 300.0  # in which the first replica must work
_BLIND_S = 10.0  # without an answer from the cluster: no replica is believed to work then
_RESTART_S = 15.0  # about what a new replica needs, and what callers are told to wait where none works
_DRAIN_S = 30.0  # for what a replica has begun when it is to go
_MANY = 100_000  # tickets that Serve lets through to a replica: they queue in its scheduler, which is fair


class ClusterError(Exception):
    """The engine cannot start. Its text is one line for the person who starts the service."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where replicas run: `address` (empty: on this machine, in a cluster that ends with this process), how many of
    them, and the processor cores and GPUs that each is given.
    """

    address: str = ""
    replicas: int = 2
    cpus: float = 1.0
    gpus: float = 0.0


class LeastOutstandingRouter:
    """Sends each ticket to the replica that has the fewest of ours unanswered, or chosen for it and on their way; of
    equals, to the one used longest ago.

    Mixed into Ray Serve's own router (`app.engine.serve_router`). It chooses on one event loop and hears
    of answers from any thread.
    """

    def initialize_state(self, **_: Any) -> None:
        """Begin with nothing sent."""
        self._lock = threading.Lock()
        self._sent: Counter[Any] = Counter()
        self._chosen: dict[asyncio.Future[Any], Any] = {}  # the replica of each ticket that is not assigned yet
        self._used: dict[Any, int] = {}
        self._turns = itertools.count(1)

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any) -> list[list[Any]]:
        """Return the candidates, best first, each a rank of its own.

        Serve may first ask a replica how long its queue is: meanwhile others choose, so the choice counts until the
        ticket is assigned or given up, which ends its future. One that is chosen for again counts once.
        """
        assigned: Any = pending_request.future if pending_request else None
        with self._lock:
            again = self._chosen.pop(assigned, None) is not None
            coming = Counter(self._chosen.values())
            ranked = sorted(candidate_replicas, key=lambda one: self._rank(one.replica_id, coming))
            self._used = {one.replica_id: self._used.get(one.replica_id, 0) for one in ranked}
            for best in ranked[:1]:
                self._used[best.replica_id] = next(self._turns)
                if assigned and not assigned.done():
                    self._chosen[assigned] = best.replica_id
        if assigned and not again:
            assigned.add_done_callback(self._settled)
        return [[one] for one in ranked]

    def on_send_request(self, replica_id: Any) -> None:
        """Count a ticket that goes to a replica."""
        with self._lock:
            self._sent[replica_id] += 1
        super().on_send_request(replica_id)  # type: ignore[misc]

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        """Count a ticket that is over, whatever became of it."""
        with self._lock:
            self._sent[replica_id] -= 1
            self._sent += Counter()  # forgets those without any
        super().on_request_completed(replica_id, internal_request_id)  # type: ignore[misc]

    def _settled(self, assigned: asyncio.Future[Any]) -> None:
        with self._lock:
            self._chosen.pop(assigned, None)

    def _rank(self, replica_id: Any, coming: Counter[Any]) -> tuple[int, int]:
        return self._sent[replica_id] + coming[replica_id], self._used.get(replica_id, 0)


class RayEngine:
    """Implements `protocol.ModelServer` with replicas on the nodes of a Ray cluster.

    The shelf in `folders` is read here, for names and manifests, and must be the same at the same place on every node.
    At most `max_megapixels` for each working replica are under way from here; what would be more is Overloaded, except
    for a probe, for a job, and for a request that has tickets under way or had some done. `replica` is what each of
    them runs, with models of about `budget` bytes in memory (0: any number).

    The first engine that comes to a cluster deploys the replicas; those that come later use what is there. Raises
    ClusterError where none works within five minutes. Make it outside of an event loop.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        cluster: Cluster,
        *,
        preload: Sequence[str] = (),
        max_batch: int = 64,
        max_megapixels: float = 64.0,
        budget: int = 0,
        replica: type[Replica] = Replica,
    ) -> None:
        self.accelerated = cluster.gpus > 0
        self.latency = LatencyModel("ray")
        self._max_pixels = max_megapixels * 1e6
        self._sender = uuid.uuid4().hex[:12]
        self._tickets: dict[int, InferenceRequest] = {}
        self._numbers = itertools.count(1)
        self._answered: set[str] = set()
        self._counters = Counters()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended = threading.Event()
        self._worker_count, self._seen = 0, time.monotonic()
        places = [folder.absolute() for folder in folders]
        self._ray, self._serve = _connected(cluster)
        self._lost = self._ray.exceptions.RayError, self._serve.exceptions.RayServeException
        try:
            arguments = {"folders": places, "preload": tuple(preload), "max_batch": max_batch, "budget": budget}
            self._handle = self._deployed(cluster, replica, arguments)
            self._await_first(cluster)
            self._registry = Registry(places, RemoteModelLoader(self._handle))
        except BaseException as error:
            self._ray.shutdown()
            if isinstance(error, (*self._lost, TimeoutError)):
                log.error("no cluster", error=str(error))
                raise ClusterError("the cluster does not answer any more") from None
            raise
        self._watch = threading.Thread(target=self._keep_looking, name="replicas", daemon=True)
        self._watch.start()

    @property
    def device(self) -> str:
        """What models run on, in words."""
        return f"{self.worker_count} Ray replicas{' with a GPU' if self.accelerated else ''}"

    @property
    def worker_count(self) -> int:
        """How many replicas work."""
        return self._worker_count if time.monotonic() - self._seen < _BLIND_S else 0

    @property
    def devices(self) -> Mapping[str, DeviceStats]:
        """What waits and what was done, of all replicas together."""
        return {"replicas": self}

    @property
    def depth(self) -> int:
        """Tickets that are under way."""
        return len(self._tickets)

    @property
    def megapixels(self) -> float:
        """Megapixels that are under way."""
        return sum(request.pixels for request in self._tickets.values()) / 1e6

    @property
    def counters(self) -> Counters:
        """What happened on the replicas, as far as this engine was told: what they count is told to one engine each."""
        return self._counters

    def statuses(self) -> list[ModelStatus]:
        """Return what is on the shelf. Loaded is a model that a replica has answered for."""
        return [
            replace(entry, state="loaded") if entry.id in self._answered and not entry.reason else entry
            for entry in self._registry.statuses()
        ]

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""
        return self._registry.defaults()

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None."""
        return self._registry.find(task, name)

    async def run(self, request: InferenceRequest) -> Arrays:
        """Return the outputs of `ticket` from whichever replica did it. Raises what `protocol.Engine.run` raises."""
        self._admit(request)
        number = next(self._numbers)
        self._tickets[number] = request
        self._idle.clear()
        left = request.context.deadline - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(left) else left):
                result = await self._sent(request)
        except TimeoutError:
            raise self._rejected("deadline-exceeded", _too_late()) from None
        finally:
            del self._tickets[number]
            if not self._tickets:
                self._idle.set()
        self._counters += result.counters
        for stage, seconds in result.device_seconds.items():
            request.context.device_seconds[stage] = request.context.device_seconds.get(stage, 0.0) + seconds
        if isinstance(result.outcome, ServiceError):
            raise result.outcome
        self._answered.add(request.model)
        return result.outcome

    def as_run(self, manifest: Manifest) -> Manifest:
        """Return `manifest`: what precision its replicas choose they do not tell."""
        return manifest

    async def refresh(self) -> None:
        """Do nothing: a cluster's shelf is that of its deployment."""

    async def warm(self, manifest: Manifest, *, keep: bool = False) -> None:  # noqa: ARG002
        """Run each signature once on some replica. Each replica warms what it preloads by itself, also a new one."""
        context = RequestContext(f"warm {manifest.id}", client="warm-up", probe=True)
        for request in warmup_requests(manifest, context):
            await self.run(request)

    async def close(self, limit: float) -> None:
        """End gracefully: what is under way gets `limit` seconds, then ShuttingDown. Replicas of a cluster that was
        there before go on for others.
        """
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._idle.wait()
        self._ended.set()
        await self._idle.wait()  # those left see it at their next look
        await asyncio.to_thread(self._disconnect)

    def _disconnect(self) -> None:
        self._watch.join(_BLIND_S)
        self._ray.shutdown()

    def _admit(self, request: InferenceRequest) -> None:
        context = request.context
        if self._closing:
            raise self._rejected("shutting-down", ShuttingDown("The service is shutting down."))
        if context.deadline <= time.monotonic():
            raise self._rejected("deadline-exceeded", _too_late())
        if not self.worker_count:
            raise self._rejected("overloaded", _nobody())
        if context.device_seconds or context.probe or context.background:
            return
        if any(other.context.request_id == context.request_id for other in self._tickets.values()):
            return
        pixels = sum(other.pixels for other in self._tickets.values())
        if pixels and pixels + request.pixels > self._max_pixels * self.worker_count:
            wait = round(max(1.0, self._seconds(pixels)), 1)
            text = f"The queue is full. Try again in {wait:g} seconds."
            raise self._rejected("overloaded", Overloaded(text, retry_after=wait))

    def _seconds(self, pixels: int) -> float:
        """Return about how long all replicas together need for `pixels`, as their work went so far."""
        return self._counters.busy_seconds / max(1, self._counters.pixels) * pixels / max(1, self.worker_count)

    def _rejected(self, reason: str, error: ServiceError) -> ServiceError:
        self._counters.rejections[reason] += 1
        return error

    async def _sent(self, request: InferenceRequest) -> WireResult:
        """Return a replica's reply; another one's if the first died."""
        for attempt in range(RETRIES + 1):
            wire_request = WireRequest.of(request, self._sender, time.monotonic())
            try:
                return await self._answer(self._handle.run.remote(wire_request))
            except self._ray.exceptions.RayTaskError:
                log.exception("replica failed", model=request.model, signature=request.signature)
                break
            except self._lost as error:
                log.warning("replica lost", model=request.model, attempt=attempt + 1, error=type(error).__name__)
                self._counters.retries += attempt < RETRIES
        raise ModelUnavailable(f"The model {request.model} failed on this picture.", value=request.model)

    async def _answer(self, response: Any) -> WireResult:
        """Return what `response` becomes. Gives up where no replica works any more, and when the engine ends."""
        answer = asyncio.ensure_future(_awaited(response))
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=LOOK_S)
                if answer.done():
                    break
                if self._ended.is_set():
                    raise ShuttingDown("The service is shutting down.")
                if not self.worker_count:
                    raise self._rejected("overloaded", _nobody())
            return answer.result()
        finally:
            if not answer.done():
                response.cancel()
                answer.add_done_callback(_seen)

    def _deployed(self, cluster: Cluster, replica: type[Replica], arguments: Mapping[str, Any]) -> Any:
        """Return a handle to the replicas, which are deployed unless they are there already."""
        self._serve.start(proxy_location="Disabled")
        if APPLICATION in self._serve.status().applications:
            return self._serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        deployment = self._serve.deployment(
            replica,
            name=DEPLOYMENT,
            num_replicas=cluster.replicas,
            max_ongoing_requests=_MANY,
            ray_actor_options={
                "num_cpus": cluster.cpus,
                "num_gpus": cluster.gpus,
                "runtime_env": _environment(cluster),
            },
            health_check_period_s=2.0,
            graceful_shutdown_timeout_s=_DRAIN_S,
            request_router_config=self._serve.config.RequestRouterConfig(request_router_class=ROUTER),
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        target = self._serve.RunTarget(deployment.bind(**arguments), name=APPLICATION, route_prefix=None)
        (handle,) = self._serve.run_many([target], wait_for_applications_running=False)
        return handle

    def _await_first(self, cluster: Cluster) -> None:
        until = time.monotonic() + _START_S
        while not self._worker_count:
            state, reason = self._look()
            if state == "DEPLOY_FAILED" or time.monotonic() > until:
                log.error("no replica works", state=state, reason=reason)
                needed = f"{cluster.cpus:g} CPUs" + (f" and {cluster.gpus:g} GPUs" if cluster.gpus else "")
                raise ClusterError(
                    f"no replica came to work; each needs a node with {needed} free, with this service installed and "
                    "the models in the same place"
                )
            time.sleep(LOOK_S / 4)

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self._look()
            except Exception as error:  # the controller is being replaced, or gone: `width` tells
                log.warning("cluster does not answer", error=type(error).__name__)

    def _look(self) -> tuple[str, str]:
        """Count the replicas that work, and return the application's state and what its deployment says."""
        application = self._serve.status().applications.get(APPLICATION)
        deployment = application.deployments.get(DEPLOYMENT) if application else None
        self._worker_count = int(deployment.replica_states.get("RUNNING", 0)) if deployment else 0
        self._seen = time.monotonic()
        state = str(application.status.value) if application else "gone"
        return state, str(deployment.message) if deployment else ""


class RemoteModelLoader:
    """Has graphs checked by a replica, and loads none."""

    devices = ("replicas",)

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return what a replica finds wrong with the model in `folder`."""
        found: list[str] = self._handle.problems.remote(folder, manifest).result(timeout_s=60)
        return found

    def size(self, folder: Path) -> int:  # noqa: ARG002
        """Return 0: nothing is in memory here."""
        return 0

    def unload(self, model: Any) -> None:
        """Do nothing."""

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:  # noqa: ARG002
        """Raise ModelUnavailable: models are in memory where they run."""
        raise ModelUnavailable(f"The model {manifest.id} is loaded by replicas only.", value=manifest.id)


def _connected(cluster: Cluster) -> tuple[Any, Any]:
    """Return the modules `ray` and `ray.serve`, connected to `cluster`. Raises ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report its use to its makers
    try:
        import ray
        import ray.serve
        import ray.serve.config
        import ray.serve.exceptions
    except ImportError:
        raise ClusterError("the package ray is not installed here: pip install -r requirements/ray.txt") from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options: dict[str, Any] = {"namespace": APPLICATION, "log_to_driver": False, "configure_logging": False}
    try:
        if cluster.address:
            ray.init(cluster.address, **options)
        else:
            # Nobody else's work comes here, so what each replica is given is a share and need not exist. Whoever
            # reaches a cluster may run what he likes on it: it listens to this machine alone.
            options |= {"num_cpus": math.ceil(cluster.replicas * cluster.cpus), "_node_ip_address": "127.0.0.1"}
            ray.init("local", include_dashboard=False, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        log.error("no cluster", error=str(error))
        where = f"at {cluster.address}" if cluster.address else "could be started on this machine"
        raise ClusterError(f"no Ray cluster {where}") from None
    return ray, ray.serve


def _environment(cluster: Cluster) -> dict[str, Any]:
    """Return what a replica's process is told: where the service's code lies, and how many threads it may use."""
    root = str(Path(__file__).resolve().parents[2])
    return {"env_vars": {"PYTHONPATH": root, "TF_NUM_INTRAOP_THREADS": str(max(1, round(cluster.cpus)))}}


async def _awaited(response: Any) -> WireResult:
    result: WireResult = await response
    return result


def _seen(answer: asyncio.Future[WireResult]) -> None:
    if not answer.cancelled():
        answer.exception()  # nobody waits for it any more


def _nobody() -> Overloaded:
    return Overloaded(f"No replica works now. Try again in {_RESTART_S:g} seconds.", retry_after=_RESTART_S)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The work was not done before its deadline and was taken off the queue.")
