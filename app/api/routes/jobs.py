"""`GET /jobs`, a job, its events and its result; `DELETE` ends it."""

# Without postponed annotations: FastAPI could not resolve those that name what `router` defines.
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.api import openapi
from app.api.jobs import MOST_LISTED, Jobs
from app.jobs.job import Job

Id = Annotated[str, Path(description="The job's id.", examples=["0f8fad5bd9cb469fa16570867728950e"])]
_LIST = {"type": "object", "properties": {"jobs": {"type": "array", "items": openapi.reference("Job")}}}
PROBLEMS = (*openapi.PAGE_PROBLEMS, "not-found", "job-expired", "overloaded")


def router(jobs: Jobs) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["jobs"])

    async def visible(request: Request, id: Id) -> Job:
        return await jobs.visible(request, id)

    async def streamed(request: Request, id: Id) -> Job:
        jobs.check_streams()
        return await jobs.visible(request, id)

    @routes.get(
        "/jobs",
        summary="The caller's own jobs, newest first",
        description=f"Only where API keys are set, and at most {MOST_LISTED}.",
        response_class=JSONResponse,
        responses=openapi.answers(
            openapi.json_answer("The jobs.", _LIST),
            (*openapi.PAGE_PROBLEMS, "not-found", "overloaded"),
        ),
    )
    async def listed(request: Request) -> JSONResponse:
        return JSONResponse({"jobs": await jobs.listed(request)}, headers={"Cache-Control": "private, no-store"})

    @routes.get(
        "/jobs/{id}",
        summary="How far a job is",
        response_class=JSONResponse,
        responses=openapi.answers(openapi.json_answer("The job.", openapi.reference("Job")), PROBLEMS),
    )
    async def read(job: Annotated[Job, Depends(visible)]) -> JSONResponse:
        return JSONResponse(jobs.told(job), headers={"Cache-Control": "private, no-store"})

    @routes.get(
        "/jobs/{id}/events",
        summary="What happens to a job, as it happens",
        description="Server-sent events: `progress` with the job whenever something has changed, and `done` with the "
        "job at the end, after which the stream ends. A line of comment every fifteen seconds keeps proxies content.",
        response_class=EventSourceResponse,
        responses=openapi.answers({"description": "The events."}, (*PROBLEMS, "shutting-down")),
    )
    async def events(request: Request, job: Annotated[Job, Depends(streamed)]) -> AsyncIterator[ServerSentEvent]:
        async for told in jobs.followed(request, job):
            over = told["state"] not in ("queued", "running")
            yield ServerSentEvent(data=told, event="done" if over else "progress")

    @routes.get(
        "/jobs/{id}/result",
        summary="What a job gave",
        description="The answer that a direct request would have got, with its headers; the problem of a job that "
        "failed, with its status.",
        response_class=Response,
        responses=openapi.job_answers((*PROBLEMS, "job-conflict")),
        openapi_extra={"parameters": [openapi.IF_NONE_MATCH]},
    )
    async def result(request: Request, job: Annotated[Job, Depends(visible)]) -> Response:
        return await jobs.fetched(request, job)

    @routes.delete(
        "/jobs/{id}",
        summary="Cancel a job, or erase one that is over",
        description="One that waits or runs is cancelled, its work is taken off the queue, and it is kept as "
        "`cancelled`. One that is over is erased with its result.",
        response_class=Response,
        responses=openapi.answers(
            openapi.json_answer("The job, cancelled.", openapi.reference("Job")),
            (*openapi.PAGE_PROBLEMS, "not-found", "overloaded", "storage-full"),
            {204: {"description": "It is erased."}},
        ),
    )
    async def end(request: Request, id: Id) -> Response:
        return await jobs.end(request, id)

    return routes
