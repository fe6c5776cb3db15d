"""The Ray engine with Ray faked. tests/e2e/test_ray.py has clusters."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

from app.engine.precision import PrecisionSetting
from app.engine.ray import engine as ray_engine
from app.engine.ray.cluster import APPLICATION, DEPLOYMENT, Cluster
from app.engine.ray.engine import RayEngine
from app.engine.ray.replica import Replica
from models.manifest import Signature
from tests.engines import Loader
from tests.model_repository import manifest, picture

ROOT = Path(__file__).parents[4]


def test_replicas_are_deployed_with_all_their_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {
        "folders": [tmp_path],
        "preload": ("defaults",),
        "max_batch": 8,
        "budget": 1000,
        "defaults": {"denoise": "scans"},
        "precision": "bfloat16",
    }
    ray, serve = MagicMock(), MagicMock()
    there = Mock(deployments={DEPLOYMENT: Mock(replica_states={"RUNNING": 1})})
    serve.status.side_effect = itertools.chain(
        [Mock(applications={})], itertools.repeat(Mock(applications={APPLICATION: there}))
    )
    serve.run_many.return_value = [Mock()]
    monkeypatch.setattr(ray_engine, "connect", lambda cluster: (ray, serve))
    engine = RayEngine(
        [tmp_path],
        Cluster(),
        preload=["defaults"],
        max_batch=8,
        budget=1000,
        precision="bfloat16",
        defaults={"denoise": "scans"},
    )
    asyncio.run(engine.close(1))
    bound = serve.deployment.return_value.bind.call_args
    assert bound.kwargs == arguments
    Replica(**bound.kwargs, loader=Loader())


@pytest.mark.parametrize(
    ("precision", "gpus", "used"),
    [("auto", 0, "float32"), ("float32", 0, "float32"), ("bfloat16", 0, "bfloat16"), ("bfloat16", 1, "float32")],
)
def test_replicas_have_one_precision(
    precision: PrecisionSetting, gpus: int, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = Signature(inputs={"image": picture()}, outputs={"image": picture()}, bfloat16=True)
    serve = MagicMock()
    there = Mock(deployments={DEPLOYMENT: Mock(replica_states={"RUNNING": 1})})
    serve.status.return_value = Mock(applications={APPLICATION: there})
    monkeypatch.setattr(ray_engine, "connect", lambda cluster: (MagicMock(), serve))
    engine = RayEngine([tmp_path], Cluster(gpus=gpus), precision=precision)
    assert engine.precisions(manifest(signatures={"denoise": signature})) == {"denoise": used}
    asyncio.run(engine.close(1))


@pytest.mark.integration
def test_without_the_package_ray_the_start_fails_with_one_line() -> None:
    program = "import sys; sys.modules['ray'] = None; from app.cli import main; sys.exit(main())"
    environment = {**os.environ, "RESTORE_ENGINE": "ray"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("restore: RESTORE_ENGINE=ray: ")
    assert "requirements/ray.txt" in line
