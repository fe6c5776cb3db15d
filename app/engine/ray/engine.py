"""The engine of many machines, behind the protocol of the local one. Imports no TensorFlow.

Ray Serve starts, watches, replaces and drains the replicas. `LeastOutstandingRouter` chooses the replica for each tile,
and each replica's own scheduler orders the tiles there. A tile is a pure function of its inputs: if its replica dies it
is sent to another one, `RETRIES` times at most and within its deadline.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from app.engine.admission_queue import AdmissionQueue, no_worker, shutting_down, too_late
from app.engine.latency_model import LatencyModel
from app.engine.loader import Model
from app.engine.local import warmup_requests
from app.engine.precision import PrecisionChoice, PrecisionSetting
from app.engine.protocol import Arrays, Counters, DeviceStats, InferenceRequest, ModelStatus, RequestContext
from app.engine.ray.cluster import STATUS_POLL_S, Cluster, ClusterError, ReplicaMonitor, connect, deploy
from app.engine.ray.replica import Replica
from app.engine.ray.wire import WireRequest, WireResult
from app.engine.registry import Registry
from app.errors import ModelUnavailable, ServiceError
from models.manifest import Manifest

log = structlog.get_logger(__name__)

RETRIES = 2
"""How often a tile whose replica died is sent to another one."""


class RayEngine:
    """Implements `protocol.ModelServer` with replicas on the nodes of a Ray cluster.

    The model repository in `folders` is read here, for names and manifests, and must be the same at the same place on
    every node. At most `max_megapixels` per working replica are outstanding (`AdmissionQueue`). `replica` is the class
    that is deployed, with models of about `budget` bytes in memory (0: any number). All compute in one `precision`, so
    that a picture's tiles do not differ: `auto` is float32 here, and so is bfloat16 on GPUs. `tile_mebibytes` is that
    of `protocol.Engine`.

    The first engine that connects to a cluster deploys the replicas; later ones use them. Raises ClusterError where
    none works within five minutes. Make it outside of an event loop.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        cluster: Cluster,
        *,
        preload: Sequence[str] = (),
        defaults: Mapping[str, str] | None = None,
        max_batch: int = 64,
        max_megapixels: float = 64.0,
        budget: int = 0,
        precision: PrecisionSetting = "float32",
        tile_mebibytes: int = 0,
        replica: type[Replica] = Replica,
    ) -> None:
        self.accelerated = cluster.gpus > 0
        self.tile_mebibytes = tile_mebibytes
        self.latency = LatencyModel("ray")
        unknown = precision == "auto" or (precision == "bfloat16" and self.accelerated)
        self._precision: PrecisionSetting = "float32" if unknown else precision
        self._admission = AdmissionQueue(max_megapixels)
        self._sender = uuid.uuid4().hex[:12]
        self._served: set[str] = set()  # the models that a replica has given a result of
        self._counters = Counters()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = threading.Event()
        paths = [folder.absolute() for folder in folders]
        self._ray, serve = connect(cluster)
        self._replica_errors = self._ray.exceptions.RayError, serve.exceptions.RayServeException
        self._monitor = ReplicaMonitor(serve)
        try:
            arguments = {
                "folders": paths,
                "preload": tuple(preload),
                "defaults": dict(defaults or {}),
                "max_batch": max_batch,
                "budget": budget,
                "precision": self._precision,
            }
            self._handle = deploy(serve, cluster, replica, arguments)
            self._monitor.wait_for_first(cluster)
            self._registry = Registry(paths, RemoteModelLoader(self._handle), defaults=defaults)
        except BaseException as error:
            self._ray.shutdown()
            if isinstance(error, (*self._replica_errors, TimeoutError)):
                log.error("Ray cluster not available", error=str(error))
                raise ClusterError("the Ray cluster stopped responding; the log has the reason") from None
            raise
        self._monitor.start()

    @property
    def device(self) -> str:
        """What models run on, in words."""
        return f"{self.worker_count} Ray replicas{' with a GPU' if self.accelerated else ''}"

    @property
    def worker_count(self) -> int:
        """How many replicas work."""
        return self._monitor.worker_count

    @property
    def devices(self) -> Mapping[str, DeviceStats]:
        """What is outstanding and what was done, of all replicas together."""
        return {"replicas": self}

    @property
    def depth(self) -> int:
        """Requests that are outstanding."""
        return self._admission.count

    @property
    def megapixels(self) -> float:
        """Megapixels that are outstanding."""
        return self._admission.pixels / 1e6

    @property
    def oldest_seconds(self) -> float:
        """Seconds since the oldest outstanding request came; 0 where there is none."""
        return self._admission.oldest_seconds

    @property
    def counters(self) -> Counters:
        """What was rejected here, and what replicas reported: each of their counts is reported to one engine only."""
        return self._counters + Counters(rejections=self._admission.rejections)

    def statuses(self) -> list[ModelStatus]:
        """Return all versions of all models. A model that a replica has given a result of counts as loaded."""
        return [
            replace(status, state="loaded") if status.id in self._served and not status.reason else status
            for status in self._registry.statuses()
        ]

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""
        return self._registry.defaults()

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None."""
        return self._registry.find(task, name)

    async def run(self, request: InferenceRequest) -> Arrays:
        """Return the outputs of `request` from one of the replicas. Raises what `protocol.Engine.run` raises."""
        self._admission.enter(
            request,
            waiting_pixels=self._admission.pixels,
            workers=self.worker_count,
            seconds_ahead=self._seconds_ahead,
        )
        self._idle.clear()
        remaining = request.context.deadline - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(remaining) else remaining):
                result = await self._send(request)
        except TimeoutError:
            raise self._admission.reject("deadline-exceeded", too_late()) from None
        finally:
            self._admission.leave(request)
            if not self._admission.count:
                self._idle.set()
        self._counters += result.counters
        request.context.usage.device_seconds += result.device_seconds
        request.context.usage.add_precision(request.signature, result.precision)
        if isinstance(result.outcome, ServiceError):
            raise result.outcome
        self._served.add(request.model)
        return result.outcome

    def precisions(self, manifest: Manifest) -> dict[str, str]:
        """Return {signature: the precision that replicas compute it in}, by the settings of this engine."""
        choices = {name: PrecisionChoice.of(manifest, name) for name in manifest.signatures}
        return {name: choice.preferred(self._precision) or choice.own for name, choice in choices.items()}

    async def refresh(self) -> None:
        """Do nothing: the models of a cluster are those of its deployment."""

    async def warm(self, manifest: Manifest, *, keep: bool = False) -> None:  # noqa: ARG002
        """Run each signature once on some replica. Each replica warms what it preloads by itself, also a new one."""
        context = RequestContext(f"warm {manifest.id}", client="warm-up", probe=True)
        for request in warmup_requests(manifest, context):
            await self.run(request)

    async def close(self, limit: float) -> None:
        """End gracefully: outstanding requests get `limit` seconds, then ShuttingDown. Replicas that another engine
        may use go on.
        """
        self._admission.closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._idle.wait()
        self._stopping.set()
        await self._idle.wait()  # the other requests end within STATUS_POLL_S
        await asyncio.to_thread(self._disconnect)

    def _disconnect(self) -> None:
        self._monitor.stop()
        self._ray.shutdown()

    def _seconds_ahead(self) -> float:
        """Return about how long all replicas together need for what is outstanding, judged by what they did so far."""
        seconds_per_pixel = self._counters.busy_seconds / max(1, self._counters.pixels)
        return seconds_per_pixel * self._admission.pixels / max(1, self.worker_count)

    async def _send(self, request: InferenceRequest) -> WireResult:
        """Return a replica's result, or another one's if the first died."""
        for attempt in range(RETRIES + 1):
            wire_request = WireRequest.of(request, self._sender, time.monotonic())
            try:
                return await self._wait_for(self._handle.run.remote(wire_request))
            except self._ray.exceptions.RayTaskError:
                log.exception("replica failed", model=request.model, signature=request.signature)
                break
            except self._replica_errors as error:
                log.warning("replica lost", model=request.model, attempt=attempt + 1, error=type(error).__name__)
                self._counters.retries += attempt < RETRIES
        raise ModelUnavailable(f"The model {request.model} failed on this picture.", value=request.model)

    async def _wait_for(self, response: Any) -> WireResult:
        """Return the result of `response`. Raises Overloaded when no replica works any more, ShuttingDown when the
        engine ends."""
        result = asyncio.ensure_future(_await(response))
        try:
            while not result.done():
                await asyncio.wait({result}, timeout=STATUS_POLL_S)
                if result.done():
                    break
                if self._stopping.is_set():
                    raise shutting_down()
                if not self.worker_count:
                    raise self._admission.reject("overloaded", no_worker())
            return result.result()
        finally:
            if not result.done():
                response.cancel()
                result.add_done_callback(_discard_error)


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


async def _await(response: Any) -> WireResult:
    result: WireResult = await response
    return result


def _discard_error(result: asyncio.Future[WireResult]) -> None:
    if not result.cancelled():
        result.exception()  # retrieved, as no request waits for it any more
