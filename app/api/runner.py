"""Runs a job the way a request is answered: the same form, the same endpoint, another caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from app.api import problems
from app.api.desk import Desk, Errand
from app.api.forms import Upload
from app.api.limits import PixelBudget
from app.engine.protocol import BACKGROUND, Progress, RequestContext
from app.errors import DeadlineExceeded, ServiceError
from app.jobs.job import Job
from app.jobs.worker import JobResult


class Runner:
    """Does jobs at `desk`; `clock` gives the time of day.

    Their pictures have room of their own, so that none waits for a request or holds one up.
    """

    def __init__(self, desk: Desk, clock: Callable[[], float] = time.time) -> None:
        self._desk = desk
        self._clock = clock
        self._budget = PixelBudget(desk.settings.decoded_megapixels)

    async def __call__(self, job: Job, files: Mapping[str, Path], progress: Progress) -> JobResult:
        """Return what the job gives. Raises whatever ServiceError is met, and DeadlineExceeded."""
        left = None if job.deadline is None else max(0.0, job.deadline - self._clock())
        deadline = time.monotonic() + left if left is not None else float("inf")
        # Another client than whoever sent it: what it does meanwhile shares nothing with its job.
        context = RequestContext(f"job {job.id}", f"job:{job.client}", deadline, weight=BACKGROUND, progress=progress)
        endpoint = self._desk.endpoints[job.task]
        form = endpoint.kind.model_validate(job.request["form"])
        with ExitStack() as opened:
            uploads = await asyncio.to_thread(opened.enter_context, _opened(files, job.request["names"]))
            errand = Errand(endpoint, form, uploads, job.request["accept"])
            try:
                async with asyncio.timeout(left) as limit:
                    parcel = await self._desk.make(errand, context, self._budget)
            except TimeoutError:
                if not limit.expired():
                    raise  # somebody else's time was up
                raise DeadlineExceeded("The job was not done in the time that Cancel-After allowed.") from None
        headers = {key: value for key, value in parcel.headers.items() if key != "content-length"}
        return JobResult(parcel.body, {"headers": headers})


def explain(error: Exception) -> dict[str, Any]:
    """Return the problem that ended a job; what nobody expected is `internal-error`."""
    if not isinstance(error, ServiceError):
        error = problems.InternalError("Something went wrong here. It is in the log under the job's id.")
    return problems.content(error, "")


@contextmanager
def _opened(files: Mapping[str, Path], names: Mapping[str, str]) -> Iterator[dict[str, Upload]]:
    with ExitStack() as opened:
        uploads = {}
        for field, path in files.items():
            file = opened.enter_context(path.open("rb"))
            uploads[field] = Upload(file, path.stat().st_size, names.get(field, ""))
        yield uploads
