"""Counting replicas, with Ray Serve faked."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest

from app.engine.ray import cluster as ray_cluster
from app.engine.ray.cluster import APPLICATION, DEPLOYMENT, Cluster, ClusterError, ReplicaMonitor


def serve(status: str = "RUNNING", **states: int) -> Mock:
    deployment = Mock(replica_states=states, message="a message")
    application = Mock(deployments={DEPLOYMENT: deployment})
    application.status.value = status
    return Mock(**{"status.return_value": Mock(applications={APPLICATION: application})})


def test_only_running_replicas_count_and_none_when_the_cluster_stopped_answering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monitor = ReplicaMonitor(serve(RUNNING=2, STARTING=1))
    monitor.wait_for_first(Cluster())
    assert monitor.worker_count == 2
    monkeypatch.setattr(ray_cluster, "_STATUS_MAX_AGE_S", 0.01)
    time.sleep(0.02)
    assert monitor.worker_count == 0


def test_a_failed_deployment_names_what_each_replica_needs() -> None:
    monitor = ReplicaMonitor(serve("DEPLOY_FAILED", STARTING=1))
    with pytest.raises(ClusterError, match="each needs a node with 2 CPUs and 1 GPUs free"):
        monitor.wait_for_first(Cluster(cpus=2, gpus=1))
