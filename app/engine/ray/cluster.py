"""The Ray cluster: connecting to it, deploying replicas, and how many of them work."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from app.engine.ray.replica import Replica

log = structlog.get_logger(__name__)

APPLICATION = "restore"
DEPLOYMENT = "replica"
ROUTER = "app.engine.ray.serve_router.Router"

STATUS_POLL_S = 1.0
"""Seconds between two questions to the cluster of how many replicas work."""

_START_S = 300.0  # within which the first replica must work
_STATUS_MAX_AGE_S = 10.0  # without an answer from the cluster for so long, no replica counts as working
_DRAIN_S = 30.0  # for the requests of a replica that is stopped
_MAX_ONGOING_REQUESTS = 100_000  # no limit of Ray Serve's: requests queue in the replica's scheduler, which is fair


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


def connect(cluster: Cluster) -> tuple[Any, Any]:
    """Return the modules `ray` and `ray.serve`, connected to `cluster`. Raises ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers
    try:
        import ray
        import ray.serve
        import ray.serve.config
        import ray.serve.exceptions
    except ImportError:
        raise ClusterError(
            "the package ray is not installed. Install it: pip install -r requirements/ray.txt"
        ) from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options: dict[str, Any] = {"namespace": APPLICATION, "log_to_driver": False, "configure_logging": False}
    try:
        if cluster.address:
            ray.init(cluster.address, **options)
        else:
            # Only this service uses the cluster, so each replica's CPUs are a share and need not exist. Whoever
            # reaches a cluster can run anything on it: it listens to this machine alone.
            options |= {"num_cpus": math.ceil(cluster.replicas * cluster.cpus), "_node_ip_address": "127.0.0.1"}
            ray.init("local", include_dashboard=False, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        log.error("Ray cluster not available", error=str(error))
        action = f"connect to the Ray cluster at {cluster.address}" if cluster.address else "start a Ray cluster here"
        raise ClusterError(f"cannot {action}; the log has the reason") from None
    return ray, ray.serve


def deploy(serve: Any, cluster: Cluster, replica: type[Replica], arguments: Mapping[str, Any]) -> Any:
    """Return a handle to the replicas, which are deployed with `arguments` unless the cluster has them already."""
    serve.start(proxy_location="Disabled")
    if APPLICATION in serve.status().applications:
        return serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
    deployment = serve.deployment(
        replica,
        name=DEPLOYMENT,
        num_replicas=cluster.replicas,
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        ray_actor_options={
            "num_cpus": cluster.cpus,
            "num_gpus": cluster.gpus,
            "runtime_env": _environment(cluster),
        },
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=_DRAIN_S,
        request_router_config=serve.config.RequestRouterConfig(request_router_class=ROUTER),
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    target = serve.RunTarget(deployment.bind(**arguments), name=APPLICATION, route_prefix=None)
    (handle,) = serve.run_many([target], wait_for_applications_running=False)
    return handle


class ReplicaMonitor:
    """Asks the cluster, on a thread of its own, how many replicas work."""

    def __init__(self, serve: Any) -> None:
        self._serve = serve
        self._count, self._updated = 0, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="replicas", daemon=True)

    @property
    def worker_count(self) -> int:
        """How many replicas work; 0 as well when the cluster does not answer."""
        return self._count if time.monotonic() - self._updated < _STATUS_MAX_AGE_S else 0

    def wait_for_first(self, cluster: Cluster) -> None:
        """Return when a replica works. Raises ClusterError where none does within five minutes."""
        until = time.monotonic() + _START_S
        while not self._count:
            state, reason = self._update()
            if state == "DEPLOY_FAILED" or time.monotonic() > until:
                log.error("no replica started", state=state, reason=reason)
                needed = f"{cluster.cpus:g} CPUs" + (f" and {cluster.gpus:g} GPUs" if cluster.gpus else "")
                raise ClusterError(
                    f"no replica started; each needs a node with {needed} free, where this service is installed and "
                    "the models are in the same folders"
                )
            time.sleep(STATUS_POLL_S / 4)

    def start(self) -> None:
        """Begin to ask every STATUS_POLL_S."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking, within ten seconds."""
        self._stop.set()
        self._thread.join(_STATUS_MAX_AGE_S)

    def _watch(self) -> None:
        while not self._stop.wait(STATUS_POLL_S):
            try:
                self._update()
            except Exception as error:  # the controller is being replaced, or gone: the count gets too old
                log.warning("Ray cluster does not respond", error=type(error).__name__)

    def _update(self) -> tuple[str, str]:
        """Count the replicas that work; return the application's state and the message of its deployment."""
        application = self._serve.status().applications.get(APPLICATION)
        deployment = application.deployments.get(DEPLOYMENT) if application else None
        self._count = int(deployment.replica_states.get("RUNNING", 0)) if deployment else 0
        self._updated = time.monotonic()
        state = str(application.status.value) if application else "gone"
        return state, str(deployment.message) if deployment else ""


def _environment(cluster: Cluster) -> dict[str, Any]:
    """Return the environment of a replica's process: where the service's code lies, and how many threads it may use."""
    root = str(Path(__file__).resolve().parents[3])
    return {"env_vars": {"PYTHONPATH": root, "TF_NUM_INTRAOP_THREADS": str(max(1, round(cluster.cpus)))}}
