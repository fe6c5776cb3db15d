"""`GET /jobs`, a job, its events and its result; `DELETE` ends it."""

# Without postponed annotations: FastAPI could not resolve those that name what `router` defines.
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.api import openapi, schemas
from app.api.jobs import MAX_LISTED, UNCACHED, JobService
from app.jobs.job import Job

Id = Annotated[str, Path(description="The job's id.", examples=["0f8fad5bd9cb469fa16570867728950e"])]
PROBLEMS = (*openapi.PAGE_PROBLEMS, "not-found", "job-expired", "overloaded")


def router(jobs: JobService) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["jobs"])

    async def find(request: Request, id: Id) -> Job:
        return await jobs.find(request, id)

    async def find_for_stream(request: Request, id: Id) -> Job:
        jobs.check_streams()
        return await jobs.find(request, id)

    @routes.get(
        "/jobs",
        summary="List the client's jobs, newest first",
        description=f"Only where API keys are set, and at most {MAX_LISTED}.",
        response_model=schemas.JobList,
        responses=openapi.answers({"description": "The jobs."}, (*openapi.PAGE_PROBLEMS, "not-found", "overloaded")),
    )
    async def list_jobs(request: Request) -> JSONResponse:
        return JSONResponse(await jobs.list_newest(request), headers=UNCACHED)

    @routes.get(
        "/jobs/{id}",
        summary="Show a job and its progress",
        response_model=schemas.Job,
        responses=openapi.answers({"description": "The job."}, PROBLEMS),
    )
    async def get_job(job: Annotated[Job, Depends(find)]) -> JSONResponse:
        return JSONResponse(jobs.describe(job), headers=UNCACHED)

    @routes.get(
        "/jobs/{id}/events",
        summary="Follow a job by server-sent events",
        description="Server-sent events: `progress` with the job whenever something has changed, and `done` with the "
        "job at the end, after which the stream ends. A line of comment every fifteen seconds keeps proxies content.",
        response_class=EventSourceResponse,
        responses=openapi.answers({"description": "The events."}, (*PROBLEMS, "shutting-down")),
    )
    async def stream_job_events(
        request: Request, job: Annotated[Job, Depends(find_for_stream)]
    ) -> AsyncIterator[ServerSentEvent]:
        async for described in jobs.follow(request, job):
            over = described["state"] not in ("queued", "running")
            yield ServerSentEvent(data=described, event="done" if over else "progress")

    @routes.get(
        "/jobs/{id}/result",
        summary="Download a job's result",
        description="The answer that a direct request would have got, with its headers; the problem of a job that "
        "failed, with its status.",
        response_class=Response,
        responses=openapi.job_answers((*PROBLEMS, "job-conflict")),
        openapi_extra={"parameters": [openapi.IF_NONE_MATCH]},
    )
    async def get_job_result(request: Request, job: Annotated[Job, Depends(find)]) -> Response:
        return await jobs.fetch_result(request, job)

    @routes.delete(
        "/jobs/{id}",
        summary="Cancel a job, or erase a finished one",
        description="One that waits or runs is cancelled, its work is taken off the queue, and it is kept as "
        "`cancelled`. One that is over is erased with its result.",
        response_model=schemas.Job,
        responses=openapi.answers(
            {"description": "The job, cancelled."},
            (*openapi.PAGE_PROBLEMS, "not-found", "overloaded", "storage-full"),
            {204: {"description": "It is erased."}},
        ),
    )
    async def delete_job(request: Request, id: Id) -> Response:
        return await jobs.end(request, id)

    return routes
