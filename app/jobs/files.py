"""The files of jobs: one folder per job with its input pictures and its result. All methods may block.

Files are written before the database row that refers to them and deleted after it, so a crash at any moment leaves at
most files without a row (orphans), which are deleted later. Only on a full disk the files of expired and deleted jobs
are deleted first, because the table cannot be written before.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from app.errors import StorageFull
from app.jobs.job import JOB_ID, Job
from app.private_files import open_private

ORPHAN_AGE_S = 3600.0
"""Seconds after which a folder without a row is an orphan: its upload has ended long ago."""
_FIELD = re.compile(r"[a-z_]{1,40}")


class JobFiles:
    """The files of jobs below `folder`. Safe to use from any thread. `clock` returns seconds since 1970."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def save_inputs(self, job_id: str, files: Mapping[str, BinaryIO]) -> None:
        """Save the input pictures of a new job, by form field, and wait until they are on disk. Raises StorageFull."""
        folder = self._job_folder(job_id)
        try:
            with _disk_full_errors():
                folder.mkdir(0o700, parents=True)
                for name, source in files.items():
                    source.seek(0)
                    with open_private(self._input_path(job_id, name), "xb") as target:
                        shutil.copyfileobj(source, target, 2**20)
                        _sync_file(target)
                _sync_folder(folder)
                _sync_folder(folder.parent)
        except BaseException:
            self.delete(job_id)
            raise

    def find_inputs(self, job_id: str) -> dict[str, Path]:
        """Return the paths of a job's input pictures, by form field."""
        return {path.name.removeprefix("input-"): path for path in sorted(self._job_folder(job_id).glob("input-*"))}

    def save_result(self, job: Job, body: bytes | memoryview) -> str:
        """Save the result of a claimed job and return its SHA-256 as hex. Raises StorageFull."""
        target = self.result_path(job)
        draft = target.with_suffix(".draft")
        with _disk_full_errors():
            try:
                with open_private(draft, "wb") as file:
                    file.write(body)
                    _sync_file(file)
                draft.replace(target)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        return hashlib.sha256(body).hexdigest()

    def result_path(self, job: Job) -> Path:
        """Return the path of a job's result. It depends on the lease, so that a former holder cannot overwrite it."""
        return self._job_folder(job.id) / f"result-{job.lease}"

    def cleanup(self, job: Job) -> None:
        """Delete the files that a finished job no longer needs: all but its result."""
        if job.state != "succeeded":
            self.delete(job.id)
            return
        for path in self._job_folder(job.id).glob("*"):  # none if the folder was deleted by something else
            if path != self.result_path(job):
                path.unlink(missing_ok=True)

    def delete(self, job_id: str) -> None:
        """Delete all files of a job, if any."""
        shutil.rmtree(self._job_folder(job_id), ignore_errors=True)

    def find_old_folders(self) -> list[str]:
        """Return the ids of all job folders older than ORPHAN_AGE_S; those without a row are orphans."""
        oldest = self._clock() - ORPHAN_AGE_S
        ids = []
        for folder in (self._folder / "jobs").iterdir():
            try:
                if JOB_ID.fullmatch(folder.name) and folder.stat().st_mtime < oldest:
                    ids.append(folder.name)
            except FileNotFoundError:
                continue
        return ids

    def _job_folder(self, job_id: str) -> Path:
        assert JOB_ID.fullmatch(job_id)
        return self._folder / "jobs" / job_id

    def _input_path(self, job_id: str, name: str) -> Path:
        assert _FIELD.fullmatch(name)
        return self._job_folder(job_id) / f"input-{name}"


def storage_full(limit: int | None = None) -> StorageFull:
    """Return the error for a full disk, or for reaching the `limit` in bytes."""
    return StorageFull(
        "No disk space is left for the pictures and results of jobs. Delete old results, or try again later.",
        limit=limit,
        retry_after=600,
    )


@contextmanager
def _disk_full_errors() -> Iterator[None]:
    """Turn the system's errors for a full disk or an exceeded quota into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise storage_full() from None


def _sync_file(file: IO[bytes]) -> None:
    """Wait until the content of an open file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, on systems that support it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
