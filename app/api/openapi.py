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
}

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
        "instance": {"type": "string", "description": "The request id."},
        "field": {"type": "string", "description": "The field or header that it is about."},
        "value": {"description": "What was given."},
        "limit": {"description": "What is allowed."},
        "retry_after": {"type": "integer", "description": "Seconds to wait, also in `Retry-After`."},
    },
    "required": ["type", "title", "status", "detail", "instance"],
}


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
    """Return the answers of a picture endpoint: the picture, the JSON envelope (or `table`), and its problems."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("image/*", "image/png", "image/jpeg", "image/webp", "image/tiff", "image/avif")
    content: Schema = dict.fromkeys(kinds, binary)
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in ("Envelope", table) if name]
    content["application/json"] = {"schema": {"oneOf": schemas} if table else schemas[0]}
    headers = {
        name: {"description": meaning, "schema": {"type": "string", "examples": [example]}}
        for name, (meaning, example) in _HEADERS.items()
    }
    return answers({"description": "The picture.", "content": content, "headers": headers}, slugs)


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
            {"name": "models", "description": "What does the work, and how well."},
            {"name": "service", "description": "For those who run the service."},
        ],
    )
    schema = copy.deepcopy(schema)
    components = schema.setdefault("components", {})
    components["schemas"] = {"Envelope": _ENVELOPE, "Problem": _PROBLEM, "ClassTable": _CLASS_TABLE}
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
