"""Runs jobs in the background, with the same forms, tasks and pipeline as direct requests."""

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
    """Runs jobs of `tasks` in `pipeline`; `clock` returns seconds since 1970.

    Jobs have their own pixel `budget`, so that jobs and requests do not wait for each other.
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
        """Return the result of the job. Raises ServiceError, such as DeadlineExceeded."""
        left = None if job.deadline is None else max(0.0, job.deadline - self._clock())
        deadline = time.monotonic() + left if left is not None else float("inf")
        # A separate client, so that a job does not take a share of the direct requests of its sender.
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
                raise  # a timeout inside the task
            raise DeadlineExceeded("The job did not finish within the time set by `Cancel-After`.") from None


def explain(error: Exception) -> dict[str, Any]:
    """Return the problem document of a failed job; `internal-error` for unexpected exceptions."""
    if not isinstance(error, ServiceError):
        error = problems.InternalError(problems.INTERNAL_ERROR)
    return problems.describe(error, "")


@contextmanager
def _open_uploads(files: Mapping[str, Path], names: Mapping[str, str]) -> Iterator[dict[str, Upload]]:
    with ExitStack() as opened:
        uploads = {}
        for field, path in files.items():
            file = opened.enter_context(path.open("rb"))
            uploads[field] = Upload(file, path.stat().st_size, names.get(field, ""))
        yield uploads
