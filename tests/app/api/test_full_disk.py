"""The disk of the jobs is full: jobs expire, are deleted and succeed again, without a restart."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.app.api.service import Service, file, serving, wait_until
from tests.app.api.test_jobs import ASYNC, Clock, accepted, refused, until
from tests.small_disk import fill, small_disk

pytestmark = pytest.mark.integration

PICTURE = file(np.random.default_rng(3).integers(0, 256, (400, 400, 3), np.uint8))


@contextmanager
def on_a_small_disk(folder: Path, clock: Clock) -> Iterator[tuple[Service, Path]]:
    with (
        small_disk(folder / "disk", 3 * 2**20) as disk,
        serving(data_dir=disk / "data", job_ttl_h=1, clock=clock) as service,
    ):
        yield service, disk


def fill_with_jobs(service: Service) -> list[str]:
    """Send jobs, one after the other, until there is no room for another; return those that succeeded."""
    succeeded = []
    for _ in range(40):
        answer = service.denoise(PICTURE, headers=ASYNC)
        if answer.status_code == 507:
            refused(answer, "storage-full")
            return succeeded
        address = accepted(answer)
        job = until(service, address, "succeeded", "failed")
        if job["state"] == "failed":  # there was room for the picture, not for the result
            assert job["problem"]["type"] == "/problems/storage-full"
            return succeeded
        succeeded.append(address)
    raise AssertionError("the disk never was full")


def succeeds(service: Service) -> bool:
    answer = service.denoise(PICTURE, headers=ASYNC)
    return answer.status_code == 202 and until(service, accepted(answer), "succeeded", "failed")["state"] == "succeeded"


def test_jobs_expire(tmp_path: Path) -> None:
    clock = Clock()
    with on_a_small_disk(tmp_path, clock) as (service, disk):
        addresses = fill_with_jobs(service)
        assert len(addresses) >= 3
        fill(disk / "other")
        clock.now += 3601
        wait_until(lambda: succeeds(service))
        refused(service.client.get(addresses[0]), "job-expired")


def test_jobs_are_deleted(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, Clock()) as (service, disk):
        addresses = fill_with_jobs(service)
        for address in addresses:
            fill(disk / "other")  # whatever is freed is taken by something else at once, the reserve, too
            assert service.client.delete(address).status_code == 204
            refused(service.client.get(address), "not-found")
        (disk / "other").unlink()
        assert succeeds(service)


def test_direct_requests_need_no_disk(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, Clock()) as (service, disk):
        fill(disk / "other")
        assert service.denoise(PICTURE).status_code == 200


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_nobody_else_may_read_the_files_of_jobs(tmp_path: Path) -> None:
    (tmp_path / "data" / "jobs").mkdir(parents=True)
    for path in (tmp_path / "data", tmp_path / "data" / "jobs"):
        path.chmod(0o777)
    before = os.umask(0)
    try:
        with serving(data_dir=tmp_path / "data") as service:
            until(service, accepted(service.denoise(PICTURE, headers=ASYNC)), "succeeded")
            found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*")}
    finally:
        os.umask(before)
    assert {path.name for path in found} >= {"jobs.sqlite3", "jobs.sqlite3-wal", "jobs.sqlite3-shm", "reserve"}
    assert any(path.name.startswith("result-") for path in found)
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in found.items() if path.exists()), found
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "latency.json").stat().st_mode) == 0o600
