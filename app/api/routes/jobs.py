"""The job endpoints: list, status, events, result, and `DELETE` to cancel or delete a job."""

# No postponed annotations: FastAPI could not resolve names that are defined inside `router`.
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.api import openapi, schemas
from app.api.jobs import MAX_LISTED, UNCACHED, JobService
from app.jobs.job import Job

Id = Annotated[str, Path(description="Id of the job.", examples=["0f8fad5bd9cb469fa16570867728950e"])]
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
        summary="List your jobs, newest first",
        description=f"Returns at most {MAX_LISTED} jobs of the API key. Not available if the service has no API keys.",
        response_model=schemas.JobList,
        responses=openapi.answers({"description": "The jobs."}, (*openapi.PAGE_PROBLEMS, "not-found", "overloaded")),
    )
    async def list_jobs(request: Request) -> JSONResponse:
        return JSONResponse(await jobs.list_newest(request), headers=UNCACHED)

    @routes.get(
        "/jobs/{id}",
        summary="Get the state and progress of a job",
        response_model=schemas.Job,
        responses=openapi.answers({"description": "The job."}, PROBLEMS),
    )
    async def get_job(job: Annotated[Job, Depends(find)]) -> JSONResponse:
        return JSONResponse(jobs.describe(job), headers=UNCACHED)

    @routes.get(
        "/jobs/{id}/events",
        summary="Follow the progress of a job",
        description="A stream of server-sent events: `progress` with the job when it changes, and `done` with the job "
        "when it is finished, which ends the stream. A comment every 15 seconds keeps the connection open.",
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
        description="Returns the same response and headers as a direct request. If the job failed, returns its problem "
        "with the status of the problem.",
        response_class=Response,
        responses=openapi.job_answers((*PROBLEMS, "job-conflict")),
        openapi_extra={"parameters": [openapi.IF_NONE_MATCH]},
    )
    async def get_job_result(request: Request, job: Annotated[Job, Depends(find)]) -> Response:
        return await jobs.fetch_result(request, job)

    @routes.delete(
        "/jobs/{id}",
        summary="Cancel a job, or delete a finished job",
        description="A queued or running job is cancelled and stays listed as `cancelled`. A finished job is deleted "
        "together with its result.",
        response_model=schemas.Job,
        responses=openapi.answers(
            {"description": "The cancelled job."},
            (*openapi.PAGE_PROBLEMS, "not-found", "overloaded", "storage-full"),
            {204: {"description": "The job was deleted."}},
        ),
    )
    async def delete_job(request: Request, id: Id) -> Response:
        return await jobs.end(request, id)

    return routes
