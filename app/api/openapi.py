"""The OpenAPI 3.1 document: forms from their classes, answers and problems from their tables."""

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
A self-hosted image restoration service.

Send a picture as the file field `image` of a `multipart/form-data` form; options are fields beside it. The answer is
the picture, with what was decided in its headers. The service never fetches anything that a client names: there is no
URL input.

`Accept: application/json` answers a JSON object with the picture in base64 instead (`ImageResult`, as
`application/vnd.restore.result+json`). `output=json` of `/segment` answers a table (`SegmentTable`, as
`application/vnd.restore.table+json`).

Long work runs as a job: `Prefer: respond-async` answers at once with the job's address.

Every error is an `application/problem+json` document (RFC 9457) whose `type` links to an explanation.
"""

# What any picture endpoint can meet, whatever its task.
PICTURE_PROBLEMS = (
    "malformed-request",
    "unauthorized",
    "not-acceptable",
    "request-timeout",
    "upload-too-large",
    "too-many-pixels",
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
    "X-Model": ("The model that was used: task/name@version.", "denoise/photo@1"),
    "X-Applied": ("What was decided for the client.", "strength=0.043;tiles=12;precision=float32"),
    "X-Request-Id": ("The client's own id or a new one; the log has it too.", "0f8fad5bd9cb469fa16570867728950e"),
    "Server-Timing": ("Milliseconds by stage.", "decode;dur=4.1, queue;dur=0.3, model;dur=212.0, encode;dur=11.0"),
    "Link": ("The model's card.", '</models/denoise/photo>; rel="describedby"'),
    "Content-Disposition": ("A name for the result.", 'inline; filename="holiday-denoise.jpg"'),
    "ETag": ("The fingerprint of the result.", '"9f86d081884c7d659a2feaa0c55ad015"'),
    "Location": ("The job's address.", "/jobs/0f8fad5bd9cb469fa16570867728950e"),
    "Preference-Applied": ("What of `Prefer` was done.", "respond-async"),
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
        "description": "The picture: JPEG, PNG, WebP, TIFF, BMP or AVIF, detected by its bytes, never by its name.",
    }
    others = {name: {"type": "string", "format": "binary", "description": text} for name, text in task.pictures.items()}
    properties = {"image": image, **others, **schema["properties"]}
    form = {"type": "object", "properties": properties, "required": ["image"], "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def picture_answers(task: Task[Any]) -> Answers:
    """Return the answers of a picture endpoint: the picture, a job, its problems."""
    job = {"description": "It has become a job.", "model": schemas.Job}
    job["headers"] = _describe_headers("Location", "Preference-Applied")
    return answers(_picture(), (*PICTURE_PROBLEMS, *task.problems), {202: job})


def job_answers(slugs: Sequence[str]) -> Answers:
    """Return the answers of a job's result: whatever an endpoint may answer, and its problems."""
    return answers(
        _picture("ETag"),
        slugs,
        {
            304: {"description": "The client has it, as `If-None-Match` says."},
            "default": {
                "description": "The problem of a job that failed.",
                "content": {problems.MEDIA_TYPE: {"schema": _reference(schemas.Problem)}},
            },
        },
    )


def _picture(*headers: str) -> Schema:
    """Return a 200 that is a picture.

    Generators of clients take the first media type that they know for the type of every answer, and JSON is the one
    that they know: what is JSON here is listed apart (`x-content`), and only where `Accept` or the form asks for it.
    """
    apart: dict[str, type[BaseModel]] = {
        media_types.RESULT: schemas.ImageResult,
        media_types.TABLE: schemas.SegmentTable,
    }
    return {
        "description": "The picture.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": _describe_headers(*_PICTURE_HEADERS, *headers),
        "x-content": {media_type: {"schema": _reference(model)} for media_type, model in apart.items()},
    }


def _describe_headers(*names: str) -> Schema:
    return {
        name: {"description": meaning, "schema": {"type": "string", "examples": [example]}}
        for name, (meaning, example) in _HEADERS.items()
        if name in names
    }


def _reference(model: type[BaseModel]) -> Schema:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def answers(success: Schema, slugs: Sequence[str], extra: Answers | None = None) -> Answers:
    """Return the answers of an endpoint: 200, the problems `slugs` (those of one status together), and `extra`."""
    rows = [problems.BY_SLUG[slug] for slug in slugs]
    answers_by_status: Answers = {200: success, **(extra or {})}
    for row in rows:
        answer = answers_by_status.setdefault(
            row.status,
            {
                "description": "",
                "content": {problems.MEDIA_TYPE: {"schema": _reference(schemas.Problem)}},
            },
        )
        answer["description"] += f"{', ' if answer['description'] else ''}[{row.slug}](/problems/{row.slug})"
    return answers_by_status


CANCEL_AFTER: Schema = {
    "name": "Cancel-After",
    "in": "header",
    "required": False,
    "description": "Give up after this time, counted from the request's arrival: `20s`, `500ms`.",
    "schema": {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,3})?(s|ms)?$"},
}


PREFER: Schema = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`respond-async`: become a job at once. `wait=20`: become a job, and answer as ever if it is done "
    "in so many seconds.",
    "schema": {"type": "string", "examples": ["respond-async"]},
}
IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A key of the client's own for this request: a repeat with the same key is answered with the same "
    "job, and the work is done once. The request becomes a job, which goes on if the connection breaks.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of the result that the client has.",
    "schema": {"type": "string"},
}
REQUEST_HEADERS = [CANCEL_AFTER, PREFER, IDEMPOTENCY_KEY]


def build(app: FastAPI, *, needs_key: bool) -> Schema:
    """Return the document of `app`; with `needs_key`, it says that a key is needed."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=[
            {"name": "pictures", "description": "A picture goes in, a better one comes out."},
            {"name": "jobs", "description": "Work in the background."},
            {"name": "models", "description": "The models, and how good they are."},
            {"name": "service", "description": "For those who run the service."},
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
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, item in schema["paths"].items():
            for operation in item.values():
                operation["security"] = [] if OPEN.fullmatch(path) else [{"bearer": []}, {"key": []}]
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
    """Return the schemas that no route names as its model."""
    referenced = (schemas.Problem, schemas.ImageResult, schemas.SegmentTable)
    _, found = models_json_schema(
        [(model, "serialization") for model in referenced], ref_template="#/components/schemas/{model}"
    )
    return dict(_without_const(found["$defs"]))


def _without_const(part: Any) -> Any:
    """Return `part` of the document with `enum` of one value for `const`, which not every generator reads."""
    if isinstance(part, dict):
        return {
            "enum" if key == "const" else key: [value] if key == "const" else _without_const(value)
            for key, value in part.items()
        }
    return [_without_const(value) for value in part] if isinstance(part, list) else part


def _is_problem(operation: Schema, status: str) -> bool:
    """Whether the answer is ours: FastAPI adds a 422 of its own form to whatever has parameters."""
    return problems.MEDIA_TYPE in operation["responses"].get(status, {}).get("content", {})
