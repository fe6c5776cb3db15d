"""RFC 9457: the one table from errors to what goes over the wire, and the pages that explain each problem.

`python -m app.api.problems > docs/errors.md` writes the same explanations as a document.
"""

from __future__ import annotations

import html
import math
import sys
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from app import errors

MEDIA_TYPE = "application/problem+json"


class NotFound(errors.BadRequest): ...


class MethodNotAllowed(errors.BadRequest): ...


class Unauthorized(errors.BadRequest): ...


class InternalError(errors.Unavailable): ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table. `meaning` and `remedy` are what `/problems/{slug}` says."""

    error: type[errors.ServiceError]
    slug: str
    status: int
    title: str
    meaning: str
    remedy: str


TABLE: tuple[Problem, ...] = (
    Problem(
        errors.MissingField,
        "missing-field",
        422,
        "A required field is missing",
        "The form lacks a field that this endpoint cannot do without, or the field came empty.",
        "Add the field that `field` names. A picture is sent as a file: `-F image=@picture.jpg` with curl.",
    ),
    Problem(
        errors.UnknownField,
        "unknown-field",
        422,
        "A field is not known here",
        "The form has a field that this endpoint does not know. Nothing is ignored silently, so that a misspelt "
        "option cannot pass for its default.",
        "Correct the name (the nearest known one is suggested) or leave the field out. `/docs` lists all fields.",
    ),
    Problem(
        errors.InvalidField,
        "invalid-field",
        422,
        "A field has a value that is not allowed",
        "The value cannot be read, is out of range, came twice, or asks for something the result cannot be.",
        "`detail` says what is allowed. `/docs` shows the range and an example of each field.",
    ),
    Problem(
        errors.ConflictingFields,
        "conflicting-fields",
        422,
        "Two fields exclude each other",
        "The form has fields that cannot hold at the same time.",
        "Leave one of them out.",
    ),
    Problem(
        errors.UnknownModel,
        "unknown-model",
        422,
        "There is no such model",
        "The field `model` names a model, or a version of one, that this service does not hold.",
        "`GET /models` lists what there is. Without the field, the task's default is used.",
    ),
    Problem(
        errors.UnknownStyle,
        "unknown-style",
        422,
        "There is no such style",
        "The field `style` names a preset that this service does not hold.",
        "Choose one of those that `detail` lists.",
    ),
    Problem(
        errors.UnknownClass,
        "unknown-class",
        422,
        "There is no such class",
        "The field `classes` names something that the model does not tell apart.",
        "The model's card (`GET /models`) lists its classes.",
    ),
    Problem(
        errors.UnsupportedImage,
        "unsupported-image",
        415,
        "The file is not a picture of a known format",
        "The format is detected from the bytes of the file, never from its name. It is none of JPEG, PNG, WebP, "
        "TIFF, BMP and AVIF.",
        "Convert the file to one of these formats.",
    ),
    Problem(
        errors.BrokenImage,
        "broken-image",
        422,
        "The picture is damaged",
        "The file begins like a picture but is cut short or corrupt, so that its pixels cannot be read.",
        "Check that the whole file was sent, and that a viewer can open it. Re-saving the file often fixes it.",
    ),
    Problem(
        errors.AnimatedImage,
        "animated-image",
        422,
        "The picture is an animation",
        "The file holds more than one frame. The service works on still pictures.",
        "Send one frame.",
    ),
    Problem(
        errors.WrongSize,
        "wrong-size",
        422,
        "The model takes pictures of other sizes or kinds only",
        "Some models accept pictures of a fixed size or in grey only.",
        "`detail` names the size. Resize the picture, or choose another model.",
    ),
    Problem(
        errors.MaskSize,
        "mask-size",
        422,
        "Mask and picture differ in size",
        "A mask must be exactly as wide and high as the picture, after the picture's orientation is applied.",
        "Make the mask from the picture as a viewer shows it.",
    ),
    Problem(
        errors.MaskEmpty,
        "mask-empty",
        422,
        "The mask marks nothing",
        "No pixel of the mask is set, so there is nothing to fill.",
        "White (any value but zero) marks what is missing.",
    ),
    Problem(
        errors.MaskFull,
        "mask-full",
        422,
        "The mask marks everything",
        "Every pixel of the mask is set, so there is nothing to fill from.",
        "White (any value but zero) marks what is missing; leave the rest black.",
    ),
    Problem(
        errors.NotAcceptable,
        "not-acceptable",
        406,
        "The result cannot be sent in an accepted format",
        "The `Accept` header allows no format that can carry this result.",
        "Accept `image/*` or `image/png`, or name a format in the field `format`, which wins over the header.",
    ),
    Problem(
        errors.UploadTooLarge,
        "upload-too-large",
        413,
        "The upload is too large",
        "The body of the request is larger than this service takes (`RESTORE_MAX_UPLOAD_MB`). It was refused before "
        "it was read whole.",
        "Send a smaller file: a lossy format, or fewer pixels.",
    ),
    Problem(
        errors.TooManyPixels,
        "too-many-pixels",
        413,
        "The picture has too many pixels",
        "Width times height is more than this service takes (`RESTORE_MAX_PIXELS`), as the file's header says.",
        "Cut the picture into parts, or reduce it.",
    ),
    Problem(
        errors.ResultTooLarge,
        "result-too-large",
        413,
        "The result would have too many pixels",
        "The picture times the scale is more than this service makes (`RESTORE_MAX_OUTPUT_PIXELS`).",
        "Choose a smaller scale, or cut the picture into parts.",
    ),
    Problem(
        errors.WorkTooLarge,
        "work-too-large",
        413,
        "Too much work for a direct answer",
        "What was asked would take longer than a request may.",
        "Ask for less, as `detail` says.",
    ),
    Problem(
        errors.MalformedRequest,
        "malformed-request",
        400,
        "The request cannot be read",
        "The body is not a whole `multipart/form-data` form (wrong content type, no boundary, cut short, far too many "
        "parts or a text that is far too long), or a header cannot be read.",
        "Let a library or curl's `-F` build the form; do not set its `Content-Type` by hand.",
    ),
    Problem(
        Unauthorized,
        "unauthorized",
        401,
        "A valid API key is needed",
        "This service answers only to those who send one of its API keys; none came, or a wrong one.",
        "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`. In Swagger UI, press Authorize.",
    ),
    Problem(
        NotFound,
        "not-found",
        404,
        "There is nothing here",
        "No page, model, job or problem stands at this address.",
        "`/docs` lists every address, `GET /models` every model.",
    ),
    Problem(
        MethodNotAllowed,
        "method-not-allowed",
        405,
        "This address does not take this method",
        "The address exists but not for this HTTP method.",
        "The header `Allow` lists the methods that it takes.",
    ),
    Problem(
        errors.RequestTimeout,
        "request-timeout",
        408,
        "The body came too slowly",
        "The body of the request stopped, or trickled in more slowly than this service waits for "
        "(`RESTORE_BODY_TIMEOUT_S`).",
        "Send it again over a better connection, or send a smaller file.",
    ),
    Problem(
        errors.TooManyRequests,
        "too-many-requests",
        429,
        "Too many requests from this client",
        "This client (its API key, else its address) sent more requests than it may (`RESTORE_RATE_LIMIT`).",
        "Wait for the seconds that `Retry-After` says.",
    ),
    Problem(
        errors.JobConflict,
        "job-conflict",
        409,
        "The job is not in a state that allows this",
        "The result was asked for before it is there, or of a job that was cancelled; or a request with the same "
        "`Idempotency-Key` is still under way.",
        "`GET /jobs/{id}` says how far the job is, `GET /jobs/{id}/events` when it is done. Or send the request again "
        "with `Prefer: respond-async` or `Prefer: wait=20`, which joins the job that is under way.",
    ),
    Problem(
        errors.IdempotencyMismatch,
        "idempotency-mismatch",
        422,
        "The key was used with another request",
        "A request with this `Idempotency-Key` was here before, and its path, `Accept`, options or pictures were "
        "others.",
        "Take a new key for each new request, and the same one only to repeat a request.",
    ),
    Problem(
        errors.JobExpired,
        "job-expired",
        410,
        "The result is no longer kept",
        "Results are kept for a while (`RESTORE_JOB_TTL_H`) and erased then.",
        "Send the request again, and fetch the result before the time that `expires` names.",
    ),
    Problem(
        errors.JobsFull,
        "jobs-full",
        503,
        "The job queue is full",
        "The limit of jobs that wait or run is reached (`RESTORE_JOBS_MAX`).",
        "Send it again after the seconds that `Retry-After` says.",
    ),
    Problem(
        errors.StorageFull,
        "storage-full",
        507,
        "There is no room left for jobs",
        "The pictures and results of jobs take as much room as they may (`RESTORE_JOBS_DISK_MB`), or the disk is full.",
        "Erase results that are no longer needed (`DELETE /jobs/{id}`), or wait until some expire.",
    ),
    Problem(
        errors.JobInterrupted,
        "job-interrupted",
        500,
        "The job was interrupted too often",
        "The service ended in the middle of this job again and again, perhaps because of it. It is not tried again.",
        "Ask who runs the service to look at its log; send a smaller picture.",
    ),
    Problem(
        errors.Overloaded,
        "overloaded",
        503,
        "The queue is full",
        "More work waits already than this service takes on.",
        "Send it again after the seconds that `Retry-After` says.",
    ),
    Problem(
        errors.ModelUnavailable,
        "model-unavailable",
        503,
        "The model cannot be used now",
        "The model failed to load, or failed while it ran. The others work.",
        "Choose another model, or ask who runs the service to look at its log.",
    ),
    Problem(
        errors.WeightsMissing,
        "weights-missing",
        503,
        "Weights are not installed",
        "What was asked for needs the weights of a network that is not part of this service and is installed apart: "
        "`method=optimize` needs VGG19.",
        "Whoever runs the service installs them with the command that `detail` names, and starts it again. "
        "`method=fast` works without them.",
    ),
    Problem(
        errors.ShuttingDown,
        "shutting-down",
        503,
        "The service is stopping",
        "The service finishes what it has begun and takes on nothing new.",
        "Send it again in a few seconds.",
    ),
    Problem(
        errors.DeadlineExceeded,
        "deadline-exceeded",
        504,
        "The answer would have come too late",
        "The request was not done in the time allowed (`Cancel-After`, or `RESTORE_REQUEST_TIMEOUT_S`). Its work "
        "was taken off the queue.",
        "Allow more time, or send a smaller picture.",
    ),
    Problem(
        InternalError,
        "internal-error",
        500,
        "Something went wrong here",
        "A bug. What happened is in the service's log under the request id that `instance` holds.",
        "Report it with the request id.",
    ),
)

BY_SLUG = {problem.slug: problem for problem in TABLE}
_BY_ERROR = {problem.error: problem for problem in TABLE}
_INTERNAL = BY_SLUG["internal-error"]


def of(error: errors.ServiceError) -> Problem:
    """Return the row for `error`, by its class or the nearest above it."""
    for ancestor in type(error).__mro__:
        if ancestor in _BY_ERROR:
            return _BY_ERROR[ancestor]
    return _INTERNAL


def response(error: errors.ServiceError, request_id: str) -> JSONResponse:
    """Return `error` as a problem document. `retry_after` goes into the body and, rounded up, into `Retry-After`."""
    body = describe(error, request_id)
    headers = {"Cache-Control": "no-store"}
    if "retry_after" in body:
        headers["Retry-After"] = str(body["retry_after"])
    if isinstance(error, errors.RequestTimeout):
        headers["Connection"] = "close"  # or the rest of the body could trickle in for ever
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="restore"'
    return JSONResponse(body, body["status"], headers, MEDIA_TYPE)


def describe(error: errors.ServiceError, request_id: str) -> dict[str, Any]:
    """Return `error` as the content of a problem document."""
    problem = of(error)
    body: dict[str, Any] = {
        "type": f"/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": error.detail,
        "instance": request_id,
    }
    for name in ("field", "limit", "value"):
        member = getattr(error, name)
        if member is not None:
            body[name] = _plain(member)
    if error.retry_after is not None and math.isfinite(error.retry_after):
        body["retry_after"] = max(1, math.ceil(error.retry_after))
    return body


def _plain(member: object) -> object:
    if isinstance(member, str):
        return member[:200]
    if isinstance(member, bool | int):
        return member
    if isinstance(member, float):
        return member if math.isfinite(member) else str(member)
    if isinstance(member, list | tuple):
        return [_plain(part) for part in member[:100]]
    return str(member)[:200]


def page(problem: Problem) -> str:
    """Return `problem` explained, as a page for a browser."""
    meaning, remedy = (_code(html.escape(text)) for text in (problem.meaning, problem.remedy))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(problem.title)}</title>\n'
        f"<h1>{html.escape(problem.title)}</h1>\n<p><code>{problem.slug}</code>, status {problem.status}</p>\n"
        f"<h2>What it means</h2>\n<p>{meaning}</p>\n<h2>What to do</h2>\n<p>{remedy}</p>\n"
    )


def _code(text: str) -> str:
    parts = text.split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def render_markdown() -> str:
    """Return every problem as Markdown: the text of `docs/errors.md`."""
    lines = [
        "# Problems",
        "",
        "Every error is an `application/problem+json` document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)):",
        "`type` (a link to `/problems/{slug}`), `title`, `status`, `detail` (what was wrong, the value, the limit),",
        "`instance` (the request id, also in `X-Request-Id` and in the log) and, where it helps, `field`, `value`,",
        "`limit` and `retry_after` (seconds, also in `Retry-After`).",
        "",
        "This page is generated: `python -m app.api.problems > docs/errors.md`.",
        "",
        "| slug | status | title |",
        "|---|---|---|",
    ]
    lines += [f"| [`{row.slug}`](#{row.slug}) | {row.status} | {row.title} |" for row in TABLE]
    for row in TABLE:
        lines += ["", f"## {row.slug}", "", f"**{row.status}. {row.title}.** {row.meaning}", "", row.remedy]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_markdown())
