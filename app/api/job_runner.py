"""Runs jobs: the same form, task and pipeline as for a request, in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from app.api import problems, responses
from app.api.forms import form_class, make_request
from app.engine.protocol import BACKGROUND, Progress, RequestContext
from app.errors import DeadlineExceeded, ServiceError
from app.jobs.job import Job
from app.jobs.worker import JobResult
from app.limits.pixel_budget import PixelBudget
from app.pipeline import Encoded, ImagePipeline, ImageRequest, Upload
from app.tasks.base import Task


class JobRunner:
    """Runs jobs of `tasks` in `pipeline`; `clock` gives the time of day.

    Their pictures have a `budget` of their own, so that none waits for a request or delays one.
    """

    def __init__(
        self,
        pipeline: ImagePipeline,
        tasks: Sequence[Task[Any]],
        budget: PixelBudget,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._tasks = {task.name: task for task in tasks}
        self._budget = budget
        self._clock = clock

    async def __call__(self, job: Job, files: Mapping[str, Path], progress: Progress) -> JobResult:
        """Return what the job gives. Raises whatever ServiceError is met, and DeadlineExceeded."""
        left = None if job.deadline is None else max(0.0, job.deadline - self._clock())
        deadline = time.monotonic() + left if left is not None else float("inf")
        # A client of its own: what the job's sender does meanwhile shares nothing with its job.
        context = RequestContext(f"job {job.id}", f"job:{job.client}", deadline, weight=BACKGROUND, progress=progress)
        task = self._tasks[job.task]
        form = form_class(task).model_validate(job.request["form"])
        with ExitStack() as opened:
            uploads = await asyncio.to_thread(opened.enter_context, _open_uploads(files, job.request["names"]))
            request = make_request(task, form, uploads, job.request["accept"])
            encoded = await self._run(request, context, left)
        response = await responses.build(encoded, request)
        headers = {key: value for key, value in response.headers.items() if key != "content-length"}
        return JobResult(response.body, {"headers": headers})

    async def _run(self, request: ImageRequest, context: RequestContext, left: float | None) -> Encoded:
        try:
            async with asyncio.timeout(left) as limit:
                return await self._pipeline.run(request, context, self._budget)
        except TimeoutError:
            if not limit.expired():
                raise  # another timeout, inside the work
            raise DeadlineExceeded("The job was not done in the time that Cancel-After allowed.") from None


def explain(error: Exception) -> dict[str, Any]:
    """Return the problem that ended a job; what nobody expected is `internal-error`."""
    if not isinstance(error, ServiceError):
        error = problems.InternalError("Something went wrong here. It is in the log under the job's id.")
    return problems.describe(error, "")


@contextmanager
def _open_uploads(files: Mapping[str, Path], names: Mapping[str, str]) -> Iterator[dict[str, Upload]]:
    with ExitStack() as opened:
        uploads = {}
        for field, path in files.items():
            file = opened.enter_context(path.open("rb"))
            uploads[field] = Upload(file, path.stat().st_size, names.get(field, ""))
        yield uploads
