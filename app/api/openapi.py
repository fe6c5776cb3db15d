"""Builds the OpenAPI 3.1 document: forms from their classes, responses from schemas, problems from their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app import media_types
from app.api import problems, schemas
from app.api.forms import form_class
from app.api.middleware import OPEN
from app.tasks.base import Task

Schema = dict[str, Any]
Answers = dict[int | str, Schema]

DESCRIPTION = """\
A self-hosted API to restore and edit photos: remove noise (denoise), enlarge pictures (upscale), remove the background,
erase objects, repair scratches in old photos, and apply the style of a painting (style transfer).

**Request.** Send the picture as the file field `image` of a `multipart/form-data` form, and options as text fields. The
service accepts no URLs and never downloads anything.

**Response.** The body is the resulting picture. Headers name the model (`X-Model`) and the settings that were used
(`X-Applied`). With `Accept: application/json`, the response is JSON with the picture in base64 (`ImageResult`, media
type `application/vnd.restore.result+json`). `/segment` with `output=json` returns a table (`SegmentTable`, media type
`application/vnd.restore.table+json`).

**Jobs.** With `Prefer: respond-async`, a request runs in the background, and the response has the address of its job.

**Errors.** Every error is an `application/problem+json` document (RFC 9457). Its `type` is the path of a page that
explains it; [/problems](/problems) lists all of them.
"""

PICTURES = "Restore and edit pictures: remove noise, upscale, remove the background, erase objects, transfer a style."

# Problems of all picture endpoints.
PICTURE_PROBLEMS = (
    "malformed-request",
    "unauthorized",
    "not-acceptable",
    "request-timeout",
    "upload-too-large",
    "too-many-pixels",
    "work-too-large",
    "unsupported-image",
    "missing-field",
    "unknown-field",
    "invalid-field",
    "unknown-model",
    "broken-image",
    "animated-image",
    "wrong-size",
    "too-many-requests",
    "internal-error",
    "job-conflict",
    "idempotency-mismatch",
    "jobs-full",
    "storage-full",
    "overloaded",
    "model-unavailable",
    "shutting-down",
    "deadline-exceeded",
)
PAGE_PROBLEMS = ("unauthorized", "too-many-requests", "internal-error")

_HEADERS = {
    "X-Model": ("Model that was used, as `task/name@version`.", "denoise/photo@1"),
    "X-Applied": (
        "Settings that were used, and what the result could not keep, such as `icc=dropped`.",
        "strength=0.043;tiles=12;precision=float32",
    ),
    "X-Request-Id": (
        "Id of the request, also in the log. A client may send its own.",
        "0f8fad5bd9cb469fa16570867728950e",
    ),
    "Server-Timing": (
        "Duration of each stage, in milliseconds.",
        "decode;dur=4.1, queue;dur=0.3, model;dur=212.0, encode;dur=11.0",
    ),
    "Link": ("Path of the model card.", '</models/denoise/photo>; rel="describedby"'),
    "Content-Disposition": ("Suggested file name of the result.", 'inline; filename="holiday-denoise.jpg"'),
    "ETag": ("Identifier of this result, for `If-None-Match`.", '"9f86d081884c7d659a2feaa0c55ad015"'),
    "Content-Location": (
        "Path of the result, if the request became a job: the job can be deleted then.",
        "/jobs/0f8fad5bd9cb469fa16570867728950e/result",
    ),
    "Location": ("Path of the job.", "/jobs/0f8fad5bd9cb469fa16570867728950e"),
    "Preference-Applied": ("The preferences in `Prefer` that were applied.", "respond-async"),
}
_PICTURE_HEADERS = ("X-Model", "X-Applied", "X-Request-Id", "Server-Timing", "Link", "Content-Disposition")


_RATE_LIMIT_HEADERS: Schema = {
    "RateLimit": {
        "description": "What is left of the rate limit: `r` requests now, and one more in `t` seconds. Sent if a rate "
        "limit is set (draft-ietf-httpapi-ratelimit-headers-10).",
        "schema": {"type": "string", "examples": ['"default";r=50;t=2']},
    },
    "RateLimit-Policy": {
        "description": "The rate limit: `q` requests in `w` seconds. Sent if a rate limit is set.",
        "schema": {"type": "string", "examples": ['"default";q=60;w=60']},
    },
}
_RETRY_AFTER: Schema = {
    "Retry-After": {
        "description": "Seconds after which to send the request again.",
        "schema": {"type": "integer", "examples": [2]},
    }
}


def form_body(task: Task[Any]) -> Schema:
    """Return the request body of the endpoint of `task`."""
    schema = form_class(task).model_json_schema()
    for field in schema["properties"].values():
        field.pop("title", None)
    image = {
        "type": "string",
        "format": "binary",
        "description": "The picture, as JPEG, PNG, WebP, TIFF, BMP, AVIF, HEIC or GIF of one frame. The format is "
        "detected from the content, not from the file name.",
    }
    others = {name: {"type": "string", "format": "binary", "description": text} for name, text in task.pictures.items()}
    properties = {"image": image, **others, **schema["properties"]}
    form = {"type": "object", "properties": properties, "required": ["image"], "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def picture_answers(task: Task[Any]) -> Answers:
    """Return the responses of a picture endpoint: the picture, a job, and its problems."""
    job = {"description": "The request was queued as a job.", "model": schemas.Job}
    job["headers"] = _describe_headers("Location", "Preference-Applied")
    return answers(_picture("Content-Location"), (*PICTURE_PROBLEMS, *task.problems), {202: job})


def job_answers(slugs: Sequence[str]) -> Answers:
    """Return the responses of a job's result: the picture, the problem of a failed job, and the problems `slugs`."""
    return answers(
        _picture("ETag"),
        slugs,
        {
            304: {"description": "The client already has this result: its `ETag` is in `If-None-Match`."},
            "default": {
                "description": "The job failed: its problem, with the status of the problem.",
                "content": {problems.MEDIA_TYPE: {"schema": reference(schemas.Problem)}},
            },
        },
    )


def _picture(*headers: str) -> Schema:
    """Return the response 200 of a picture.

    Client generators use the first media type that they know, often JSON, as the type of every response. The JSON
    variants are therefore listed separately, in `x-content`.
    """
    json_variants: dict[str, type[BaseModel]] = {
        media_types.RESULT: schemas.ImageResult,
        media_types.TABLE: schemas.SegmentTable,
    }
    return {
        "description": "The resulting picture.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": _describe_headers(*_PICTURE_HEADERS, *headers),
        "x-content": {media_type: {"schema": reference(model)} for media_type, model in json_variants.items()},
    }


def _describe_headers(*names: str) -> Schema:
    return {
        name: {"description": meaning, "schema": {"type": "string", "examples": [example]}}
        for name, (meaning, example) in _HEADERS.items()
        if name in names
    }


def reference(model: type[BaseModel]) -> Schema:
    """Return a reference to the schema of `model`, which `build` adds to the document."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def answers(success: Schema, slugs: Sequence[str], extra: Answers | None = None) -> Answers:
    """Return the responses of an endpoint: 200, one per status of the problems `slugs`, and `extra`."""
    rows = [problems.BY_SLUG[slug] for slug in slugs]
    answers_by_status: Answers = {200: success, **(extra or {})}
    for row in rows:
        answer = answers_by_status.setdefault(
            row.status,
            {
                "description": "",
                "content": {problems.MEDIA_TYPE: {"schema": reference(schemas.Problem)}},
            },
        )
        answer["description"] += f"{', ' if answer['description'] else ''}[{row.slug}](/problems/{row.slug})"
    return answers_by_status


CANCEL_AFTER: Schema = {
    "name": "Cancel-After",
    "in": "header",
    "required": False,
    "description": "Cancel the request if the result is not ready after this time, such as `20s` or `500ms`. The time "
    "starts when the request arrives.",
    "schema": {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,3})?(s|ms)?$"},
}


PREFER: Schema = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`respond-async`: queue the request as a job and respond immediately. `wait=20`: queue it as a job, "
    "wait up to 20 seconds, and respond with the result if it is ready, else with the job.",
    "schema": {"type": "string", "examples": ["respond-async"]},
}
IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A key that the client chooses for this request. Repeating the request with the same key returns "
    "the same job, so the work is done only once. The request runs as a job and continues if the connection breaks.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of the result that the client already has.",
    "schema": {"type": "string"},
}
REQUEST_HEADERS = [CANCEL_AFTER, PREFER, IDEMPOTENCY_KEY]


def build(app: FastAPI, *, needs_key: bool) -> Schema:
    """Return the OpenAPI document of `app`; `needs_key` adds the API key to its security schemes."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=[
            {"name": "pictures", "description": PICTURES},
            {"name": "jobs", "description": "Run requests in the background and download their results."},
            {"name": "models", "description": "Models with their measured quality, and style presets."},
            {"name": "service", "description": "Health checks, metrics and documentation."},
        ],
    )
    schema = dict(_without_const(schema))
    components = schema.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **_definitions()}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None) if not _is_problem(operation, "422") else None
    _describe_rate_limit(schema)
    if needs_key:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        any_of_them: list[dict[str, list[str]]] = [{name: []} for name in components["securitySchemes"]]
        for path, item in schema["paths"].items():
            for operation in item.values():
                operation["security"] = [] if OPEN.fullmatch(path) else any_of_them
    return schema


def _describe_rate_limit(schema: Schema) -> None:
    """Add the headers of the rate limit to the responses of every path that counts for it."""
    schema["components"]["headers"] = {**_RATE_LIMIT_HEADERS, **_RETRY_AFTER}
    for path, item in schema["paths"].items():
        if OPEN.fullmatch(path):
            continue
        for operation in item.values():
            for status, response in operation["responses"].items():
                names = [*_RATE_LIMIT_HEADERS, *(_RETRY_AFTER if status in ("429", "503") else ())]
                headers = response.setdefault("headers", {})
                headers.update({name: {"$ref": f"#/components/headers/{name}"} for name in names})


def _definitions() -> Schema:
    """Return the schemas that are referenced but are the `response_model` of no route."""
    referenced = (schemas.Problem, schemas.ProblemTypeList, schemas.ImageResult, schemas.SegmentTable)
    _, found = models_json_schema(
        [(model, "serialization") for model in referenced], ref_template="#/components/schemas/{model}"
    )
    return dict(_without_const(found["$defs"]))


def _without_const(part: Any) -> Any:
    """Return `part` of the document with each `const` as an `enum` of one value, for generators that lack `const`."""
    if isinstance(part, dict):
        return {
            "enum" if key == "const" else key: [value] if key == "const" else _without_const(value)
            for key, value in part.items()
        }
    return [_without_const(value) for value in part] if isinstance(part, list) else part


def _is_problem(operation: Schema, status: str) -> bool:
    """Return whether the response is a problem document: FastAPI adds its own 422 to routes with parameters."""
    return problems.MEDIA_TYPE in operation["responses"].get(status, {}).get("content", {})
