"""The OpenAPI 3.1 document: forms from their classes, answers and problems from their tables."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import problems
from app.api.forms import PictureForm
from app.api.middleware import OPEN

Schema = dict[str, Any]
Answers = dict[int | str, Schema]

DESCRIPTION = """\
A self-hosted image restoration service.

Send a picture as the file field `image` of a `multipart/form-data` form; options are fields beside it. The answer is
the picture, with what was decided in its headers. `Accept: application/json` answers a JSON object with the picture
in base64 instead. The service never fetches anything that a caller names: there is no URL input.

Work that takes long goes as a job: `Prefer: respond-async` answers at once with where to ask for it.

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
    "X-Applied": ("What was decided for the caller.", "strength=0.043;tiles=12;precision=float32"),
    "X-Request-Id": ("The caller's own id or a new one; the log has it too.", "0f8fad5bd9cb469fa16570867728950e"),
    "Server-Timing": ("Milliseconds by stage.", "decode;dur=4.1, queue;dur=0.3, model;dur=212.0, encode;dur=11.0"),
    "Link": ("The model's card.", '</models/denoise/photo>; rel="describedby"'),
    "Content-Disposition": ("A name for the result.", 'inline; filename="holiday-denoise.jpg"'),
    "ETag": ("What the result is told apart by.", '"9f86d081884c7d659a2feaa0c55ad015"'),
    "Location": ("The job's address.", "/jobs/0f8fad5bd9cb469fa16570867728950e"),
    "Preference-Applied": ("What of `Prefer` was done.", "respond-async"),
}
_PICTURE_HEADERS = ("X-Model", "X-Applied", "X-Request-Id", "Server-Timing", "Link", "Content-Disposition")

_ENVELOPE: Schema = {
    "type": "object",
    "description": "The answer for callers that cannot take a binary body (`Accept: application/json`).",
    "properties": {
        "image": {"type": "string", "contentEncoding": "base64", "description": "The picture, in base64."},
        "content_type": {"type": "string", "description": "What `image` is.", "examples": ["image/png"]},
        "width": {"type": "integer", "minimum": 1, "description": "Width of the result, in pixels."},
        "height": {"type": "integer", "minimum": 1, "description": "Height of the result, in pixels."},
        "model": {"type": "string", "description": "As `X-Model`.", "examples": ["denoise/photo@1"]},
        "applied": {"type": "object", "additionalProperties": {"type": "string"}, "description": "As `X-Applied`."},
        "timing": {
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "Milliseconds by stage.",
        },
    },
    "required": ["image", "content_type", "width", "height", "model", "applied", "timing"],
}

_STYLES: Schema = {
    "type": "object",
    "description": "The presets of `/stylize`.",
    "properties": {
        "model": {
            "type": ["string", "null"],
            "description": "The model that knows them.",
            "examples": ["stylize/any@1"],
        },
        "styles": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "What goes into the field `style`."},
                    "title": {"type": "string", "description": "The work's."},
                    "artist": {"type": "string", "description": "Who made it."},
                    "year": {"type": "string", "description": "When."},
                    "painting": {"type": ["string", "null"], "description": "Path of a photograph painted in it."},
                },
                "required": ["name", "title", "artist", "year", "painting"],
            },
        },
    },
    "required": ["model", "styles"],
}

_SHARED = ("width", "height", "model", "applied", "timing")
_CLASS_TABLE: Schema = {
    "type": "object",
    "description": "What `/segment` answers for `output=json`.",
    "properties": {
        **{name: _ENVELOPE["properties"][name] for name in _SHARED},
        "classes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer", "minimum": 0, "maximum": 255, "description": "As in the mask."},
                    "name": {"type": "string", "description": "The class."},
                    "color": {"type": "string", "pattern": "^#[0-9a-f]{6}$", "description": "As in mask and overlay."},
                    "pixels": {"type": "integer", "minimum": 0, "description": "How many pixels are of the class."},
                    "fraction": {"type": "number", "minimum": 0, "maximum": 1, "description": "Their share."},
                    "box": {
                        "type": ["array", "null"],
                        "items": {"type": "integer"},
                        "description": "Left, top, right and bottom of what holds them all, ends excluded.",
                    },
                },
                "required": ["id", "name", "color", "pixels", "fraction", "box"],
            },
        },
    },
    "required": [*_SHARED, "classes"],
}

_PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457.",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Link to what the problem means."},
        "title": {"type": "string", "description": "The problem in a few words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What was wrong, the value, the limit."},
        "instance": {"type": "string", "description": "The request id; in a job, its id."},
        "field": {"type": "string", "description": "The field or header that it is about."},
        "value": {"description": "What was given."},
        "limit": {"description": "What is allowed."},
        "retry_after": {"type": "integer", "description": "Seconds to wait, also in `Retry-After`."},
    },
    "required": ["type", "title", "status", "detail", "instance"],
}


def _time(meaning: str, *, always: bool = False) -> Schema:
    return {"type": "string" if always else ["string", "null"], "format": "date-time", "description": meaning}


_JOB: Schema = {
    "type": "object",
    "description": "Work that goes on while nobody waits.",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "128 random bits."},
        "task": {"type": "string", "description": "What is done.", "examples": ["superres"]},
        "state": {
            "type": "string",
            "enum": ["queued", "running", "succeeded", "failed", "cancelled", "expired"],
            "description": "One that is interrupted is queued again.",
        },
        "options": {"type": "object", "description": "The form's fields, as far as they were sent."},
        "created": _time("When it was sent.", always=True),
        "started": _time("When it was begun."),
        "finished": _time("When it was over."),
        "expires": _time("When it and its result are erased."),
        "place": {"type": ["integer", "null"], "minimum": 1, "description": "Its place in the queue; 1 is the next."},
        "progress": {"type": "number", "minimum": 0, "maximum": 1, "description": "How much is done."},
        "done": {"type": "integer", "minimum": 0, "description": "Tiles or steps that are done."},
        "all": {"type": "integer", "minimum": 0, "description": "Tiles or steps in all; 0 before that is known."},
        "eta": {"type": ["number", "null"], "description": "Seconds that it needs yet, about."},
        "problem": {
            "oneOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}],
            "description": "Why it failed.",
        },
        "links": {
            "type": "object",
            "additionalProperties": {"type": "string", "format": "uri-reference"},
            "description": "`self`, `events`, and `result` once there is one.",
        },
    },
    "required": ["id", "task", "state", "options", "created", "progress", "done", "all", "links"],
}


def reference(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_answer(meaning: str, schema: Schema) -> Schema:
    """Return an answer in JSON."""
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}


def form_body(kind: type[PictureForm]) -> Schema:
    """Return the request body of an endpoint that takes the form `kind`."""
    schema = kind.model_json_schema()
    for field in schema["properties"].values():
        field.pop("title", None)
    image = {
        "type": "string",
        "format": "binary",
        "description": "The picture: JPEG, PNG, WebP, TIFF, BMP or AVIF, told by its bytes, never by its name.",
    }
    others = {name: {"type": "string", "format": "binary", "description": text} for name, text in kind.files.items()}
    properties = {"image": image, **others, **schema["properties"]}
    form = {"type": "object", "properties": properties, "required": ["image"], "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def picture_answers(slugs: Sequence[str] = PICTURE_PROBLEMS, *, table: str | None = None) -> Answers:
    """Return the answers of a picture endpoint: the picture, the JSON envelope (or `table`), a job, its problems."""
    job = json_answer("It has become a job.", reference("Job"))
    job["headers"] = _told("Location", "Preference-Applied")
    return answers(_picture((table,) if table else ()), slugs, {202: job})


def job_answers(slugs: Sequence[str]) -> Answers:
    """Return the answers of a job's result: whatever an endpoint may answer, and its problems."""
    return answers(
        _picture(("ClassTable",), "ETag"),
        slugs,
        {
            304: {"description": "The caller has it, as `If-None-Match` says."},
            "default": {
                "description": "The problem of a job that failed.",
                "content": {problems.MEDIA_TYPE: {"schema": reference("Problem")}},
            },
        },
    )


def _picture(tables: Sequence[str], *headers: str) -> Schema:
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("image/*", "image/png", "image/jpeg", "image/webp", "image/tiff", "image/avif")
    content: Schema = dict.fromkeys(kinds, binary)
    schemas = [reference(name) for name in ("Envelope", *tables)]
    content["application/json"] = {"schema": {"oneOf": schemas} if tables else schemas[0]}
    return {"description": "The picture.", "content": content, "headers": _told(*_PICTURE_HEADERS, *headers)}


def _told(*names: str) -> Schema:
    return {
        name: {"description": meaning, "schema": {"type": "string", "examples": [example]}}
        for name, (meaning, example) in _HEADERS.items()
        if name in names
    }


def answers(success: Schema, slugs: Sequence[str], extra: Answers | None = None) -> Answers:
    """Return the answers of an endpoint: 200, the problems `slugs` (those of one status together), and `extra`."""
    rows = [problems.BY_SLUG[slug] for slug in slugs]
    answers_by_status: Answers = {200: success, **(extra or {})}
    for row in rows:
        told = answers_by_status.setdefault(
            row.status,
            {
                "description": "",
                "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
        told["description"] += f"{', ' if told['description'] else ''}[{row.slug}](/problems/{row.slug})"
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
    "description": "A word of the caller's own for this request: a repeat with the same word is answered with the same "
    "job, and the work is done once. The request becomes a job, which goes on if the connection breaks.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of the result that the caller has.",
    "schema": {"type": "string"},
}
REQUEST_HEADERS = [CANCEL_AFTER, PREFER, IDEMPOTENCY_KEY]


def build(app: FastAPI, *, closed: bool) -> Schema:
    """Return the document of `app`; with `closed`, it says that a key is needed."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=[
            {"name": "pictures", "description": "A picture goes in, a better one comes out."},
            {"name": "jobs", "description": "Long work, which goes on while nobody waits."},
            {"name": "models", "description": "What does the work, and how well."},
            {"name": "service", "description": "For those who run the service."},
        ],
    )
    schema = copy.deepcopy(schema)
    components = schema.setdefault("components", {})
    components["schemas"] = {
        "Envelope": _ENVELOPE,
        "Problem": _PROBLEM,
        "ClassTable": _CLASS_TABLE,
        "Styles": _STYLES,
        "Job": _JOB,
    }
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None) if not _own(operation, "422") else None
    if closed:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, item in schema["paths"].items():
            for operation in item.values():
                operation["security"] = [] if OPEN.fullmatch(path) else [{"bearer": []}, {"key": []}]
    return schema


def _own(operation: Schema, status: str) -> bool:
    """Whether the answer is ours: FastAPI adds a 422 of its own form to whatever has parameters."""
    return problems.MEDIA_TYPE in operation["responses"].get(status, {}).get("content", {})
