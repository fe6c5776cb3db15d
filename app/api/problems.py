"""Problem documents (RFC 9457): the table that maps each error to a slug, a status, a title and an explanation.

`python -m app.api.problems > docs/errors.md` writes the explanations as Markdown; `problem_pages` writes them as HTML.
"""

from __future__ import annotations

import math
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from app import errors

MEDIA_TYPE = "application/problem+json"
INTERNAL_ERROR = "An unexpected error occurred. The log of the service has the details under the request or job id."
EXAMPLE_REQUEST_ID = "0f8fad5bd9cb469fa16570867728950e"


class NotFound(errors.BadRequest): ...


class MethodNotAllowed(errors.BadRequest): ...


class Unauthorized(errors.BadRequest): ...


class InternalError(errors.Unavailable): ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table. `/problems/{slug}` shows `meaning` (what happened), `remedy` (what to do) and `example`."""

    example: errors.ServiceError
    slug: str
    status: int
    title: str
    meaning: str
    remedy: str

    @property
    def error(self) -> type[errors.ServiceError]:
        """The class of errors that become this problem."""
        return type(self.example)


TABLE: tuple[Problem, ...] = (
    Problem(
        errors.MissingField("The file field `image` is missing.", field="image"),
        "missing-field",
        422,
        "A required field is missing",
        "A required form field is absent or empty.",
        "Add the field that `field` names. Send a picture as a file: `-F image=@picture.jpg` with curl.",
    ),
    Problem(
        errors.UnknownField("Unknown field `file`. Did you mean `image`?", field="file"),
        "unknown-field",
        422,
        "Unknown form field",
        "The form has a field that this endpoint does not accept. Unknown fields are rejected, so that a "
        "misspelled option is never ignored silently.",
        "Correct the name or remove the field. `detail` suggests the most similar name, and `/docs` lists the "
        "fields of each endpoint.",
    ),
    Problem(
        errors.InvalidField(
            "`strength` must be auto or a number from 0 to 1, not 'high'.",
            field="strength",
            value="high",
        ),
        "invalid-field",
        422,
        "Invalid field value",
        "The value of a field cannot be parsed, is out of range, was sent more than once, or is not possible for "
        "this picture or model.",
        "Send a value that `detail` allows. `/docs` shows the allowed values and an example for each field.",
    ),
    Problem(
        errors.ConflictingFields("Send either `style` or `style_image`, not both.", field="style"),
        "conflicting-fields",
        422,
        "Conflicting fields",
        "The form has fields or values that cannot be combined.",
        "Remove or change one of the fields, as `detail` says.",
    ),
    Problem(
        errors.UnknownModel(
            "There is no model 'photos' for denoise. Did you mean `photo`?",
            field="model",
            value="photos",
        ),
        "unknown-model",
        422,
        "Unknown model",
        "There is no model, or no version of it, with the name in the field `model`.",
        "Use a name that `GET /models` lists, or omit the field to use the default model of the task.",
    ),
    Problem(
        errors.UnknownStyle(
            "There is no style 'stary-night'. Did you mean `starry-night`?",
            field="style",
            value="stary-night",
        ),
        "unknown-style",
        422,
        "Unknown style",
        "There is no style preset with the name in the field `style`.",
        "Use a name that `GET /styles` lists, or send a picture of the style as `style_image`.",
    ),
    Problem(
        errors.UnknownClass(
            "The model segment/voc@1 has no class 'doog'. Did you mean `dog`?",
            field="classes",
            value="doog",
        ),
        "unknown-class",
        422,
        "Unknown class",
        "The field `classes` names a class that the model cannot detect.",
        "Use the classes that `detail` lists. The model's card (`GET /models/segment/{name}`) lists them, too.",
    ),
    Problem(
        errors.UnsupportedImage(
            "The file looks like a video. Supported formats are JPEG, PNG, WebP, TIFF, BMP, AVIF, HEIC and GIF.",
            field="image",
        ),
        "unsupported-image",
        415,
        "Unsupported file format",
        "The file is not a JPEG, PNG, WebP, TIFF, BMP, AVIF, HEIC or GIF picture, or it uses a variant of the format "
        "that is not supported; `detail` says which. HEIC needs a part that may not be installed. The format is "
        "detected from the content of the file, not from its name.",
        "Convert the file to a supported format, for example PNG.",
    ),
    Problem(
        errors.BrokenImage("The jpeg file is truncated or corrupt; send it again or re-export it.", field="image"),
        "broken-image",
        422,
        "The picture is damaged",
        "The file is truncated or corrupt, or decoding it crashed or took too long (`RESTORE_DECODER_TIMEOUT_S`).",
        "Check that the file was uploaded completely and opens in an image viewer. Re-saving the file often fixes it.",
    ),
    Problem(
        errors.AnimatedImage("The webp file has 3 frames; send a single picture.", field="image", value=3),
        "animated-image",
        422,
        "The file has more than one frame",
        "The file is an animation or has several pages. Only still pictures are supported.",
        "Send a single frame or page.",
    ),
    Problem(
        errors.WrongSize(
            "The model inpaint/digits@1 accepts grayscale pictures of 28×28 pixels; this one is 40×24 pixels in color.",
            field="image",
            value="40×24",
        ),
        "wrong-size",
        422,
        "The model does not support this picture size",
        "The model accepts only certain picture sizes, or only grayscale pictures.",
        "Resize or convert the picture as `detail` says, or use another model.",
    ),
    Problem(
        errors.MaskSize(
            "The mask is 24×40 pixels, the picture 40×24 (upright). Both must have the same size.",
            field="mask",
            value="24×40",
            limit="40×24",
        ),
        "mask-size",
        422,
        "Mask and picture have different sizes",
        "The mask must have the width and height of the picture after its EXIF orientation is applied.",
        "Create the mask from the upright picture, as an image viewer shows it.",
    ),
    Problem(
        errors.MaskEmpty("The mask is empty: it has no white pixels.", field="mask"),
        "mask-empty",
        422,
        "The mask is empty",
        "The mask has no white pixels, so there is nothing to fill.",
        "Paint the area to fill white and leave the rest black.",
    ),
    Problem(
        errors.MaskFull("The mask covers the whole picture: nothing is left to fill from.", field="mask"),
        "mask-full",
        422,
        "The mask covers the whole picture",
        "Every pixel is to be filled, so there are no surroundings to fill from.",
        "Paint only the area to fill white and leave the rest black. Reduce `dilate` and `feather`.",
    ),
    Problem(
        errors.NotAcceptable(
            "No format in `Accept` can store this picture; possible here: image/png, image/tiff.",
            value="image/jpeg",
        ),
        "not-acceptable",
        406,
        "No acceptable response format",
        "The `Accept` header allows no format that can store the result.",
        "Add a format that `detail` lists to `Accept`, or set the field `format`, which overrides the header.",
    ),
    Problem(
        errors.UploadTooLarge(
            "The upload of 300000000 bytes exceeds the limit of 256 MiB.",
            value="300000000",
            limit=268_435_456,
        ),
        "upload-too-large",
        413,
        "The upload is too large",
        "The request body exceeds the limit (`RESTORE_MAX_UPLOAD_MB`). The service stopped reading it.",
        "Send a smaller file: use a lossy format, or scale the picture down.",
    ),
    Problem(
        errors.TooManyPixels(
            "The picture has 20000 × 10000 = 200000000 pixels; the limit is 64000000.",
            field="image",
            value=200_000_000,
            limit=64_000_000,
        ),
        "too-many-pixels",
        413,
        "The picture has too many pixels",
        "Width × height in the header of the file exceeds the limit (`RESTORE_MAX_PIXELS`), or decoding it takes more "
        "memory than one picture may use (`RESTORE_DECODER_MB`).",
        "Scale the picture down, or split it into parts.",
    ),
    Problem(
        errors.ResultTooLarge(
            "48000000 pixels enlarged 4 times in width and height would be 768000000 pixels; the limit is 200000000. "
            "Use a smaller scale or picture.",
            field="scale",
            value=768_000_000,
            limit=200_000_000,
        ),
        "result-too-large",
        413,
        "The result would have too many pixels",
        "The enlarged picture would exceed the limit (`RESTORE_MAX_OUTPUT_PIXELS`).",
        "Use a smaller `scale`, or split the picture into parts.",
    ),
    Problem(
        errors.WorkTooLarge(
            "600 steps at 512×512 pixels are too much for a direct response. Use at most 52 steps, or send "
            "`Prefer: respond-async` to run the request as a job.",
            field="steps",
            value=600,
            limit=52,
        ),
        "work-too-large",
        413,
        "The request needs too much computing time",
        "The request would take longer than the service allows. Models compute whole tiles, so a very thin picture "
        "takes far more work than its pixels.",
        "Reduce the work, split the picture or run the request as a job, as `detail` says.",
    ),
    Problem(
        errors.MalformedRequest("The form is incomplete: its closing boundary is missing."),
        "malformed-request",
        400,
        "Malformed request",
        "The body is not a complete `multipart/form-data` form, the form has too many fields or too long a text, "
        "a header has an invalid value, or the request is not well-formed HTTP/1.1.",
        "Let an HTTP library or curl's `-F` build the form, and do not set `Content-Type` yourself.",
    ),
    Problem(
        Unauthorized("No API key was sent."),
        "unauthorized",
        401,
        "Missing or invalid API key",
        "This service requires an API key. The request has none, or one that is not valid.",
        "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`, or the key as the password of HTTP Basic. In "
        "Swagger UI (`/docs`), press Authorize.",
    ),
    Problem(
        NotFound("Not found. `/docs` lists all endpoints."),
        "not-found",
        404,
        "Not found",
        "There is no page, model, job or problem at this address.",
        "Check the address. `/docs` lists all endpoints, and `GET /models` lists all models.",
    ),
    Problem(
        MethodNotAllowed("This address does not support PUT."),
        "method-not-allowed",
        405,
        "Method not allowed",
        "The address exists, but it does not support this HTTP method.",
        "Use a method that the `Allow` header lists.",
    ),
    Problem(
        errors.RequestTimeout("Received only 4096 bytes of the body in 31 seconds.", value=4096),
        "request-timeout",
        408,
        "The upload timed out",
        "The request body arrived too slowly. It may take `RESTORE_BODY_TIMEOUT_S` seconds, plus one second for "
        "each 16 KiB.",
        "Send the request again over a faster connection, or send a smaller file.",
    ),
    Problem(
        errors.TooManyRequests("This client sent more than 60 requests in 60 seconds.", limit=60, retry_after=7),
        "too-many-requests",
        429,
        "Rate limit exceeded",
        "This client sent more requests than allowed (`RESTORE_RATE_LIMIT`). Clients are counted by API key, or "
        "by address if the service has no keys.",
        "Wait for the seconds in `Retry-After`, then send the request again.",
    ),
    Problem(
        errors.JobConflict("The job is running and has no result yet.", value="running"),
        "job-conflict",
        409,
        "The state of the job does not allow this",
        "The job has no result because it is not finished or was cancelled. Or a request with the same "
        "`Idempotency-Key` is still in progress.",
        "`GET /jobs/{id}` shows the state of a job, and `GET /jobs/{id}/events` reports when it is finished. To "
        "wait for a request in progress, repeat it with `Prefer: wait=20`; to get its job, repeat it with "
        "`Prefer: respond-async`.",
    ),
    Problem(
        errors.IdempotencyMismatch(
            "This `Idempotency-Key` was used for a different request: path, `Accept`, options or pictures differ.",
            field="Idempotency-Key",
            value="order-17",
        ),
        "idempotency-mismatch",
        422,
        "The idempotency key belongs to another request",
        "An earlier request with this `Idempotency-Key` had a different path, `Accept` header, options or pictures.",
        "Use a new key for each new request, and the same key only to repeat a request unchanged.",
    ),
    Problem(
        errors.JobExpired("The result of this job was deleted. Send the request again."),
        "job-expired",
        410,
        "The job has expired",
        "The result of the job was deleted. Results are kept for `RESTORE_JOB_TTL_H` hours.",
        "Send the request again, and download the result before the time in `expires`.",
    ),
    Problem(
        errors.JobsFull("The job queue is full: 100 jobs are queued or running.", limit=100, retry_after=30),
        "jobs-full",
        503,
        "The job queue is full",
        "The number of queued and running jobs has reached the limit (`RESTORE_JOBS_MAX`).",
        "Wait for the seconds in `Retry-After`, then send the request again.",
    ),
    Problem(
        errors.StorageFull(
            "No disk space is left for the pictures and results of jobs. Delete old results, or try again later.",
            limit=4_294_967_296,
            retry_after=600,
        ),
        "storage-full",
        507,
        "No disk space left for jobs",
        "The pictures and results of jobs have reached the limit (`RESTORE_JOBS_DISK_MB`), or the disk is full.",
        "Delete results that are no longer needed (`DELETE /jobs/{id}`), or wait until old jobs expire.",
    ),
    Problem(
        errors.JobInterrupted("The service stopped too often while running this job."),
        "job-interrupted",
        500,
        "The job was interrupted too often",
        "The service stopped several times while it was running this job, and the job may be the cause. It is not "
        "started again.",
        "Send a smaller picture, or ask the operator of the service to check its log.",
    ),
    Problem(
        errors.Overloaded("The request would miss its deadline. Try again in 12 seconds.", retry_after=12),
        "overloaded",
        503,
        "The service is overloaded",
        "Too many requests are waiting, so this one was rejected, or it could not be finished before its deadline.",
        "Wait for the seconds in `Retry-After`, then send the request again.",
    ),
    Problem(
        errors.ModelUnavailable("The model denoise/photo@1 cannot be loaded.", value="denoise/photo@1"),
        "model-unavailable",
        503,
        "The model is unavailable",
        "The model could not be loaded, or it failed on this picture. Other models are not affected.",
        "Use another model, or ask the operator of the service to check its log.",
    ),
    Problem(
        errors.WeightsMissing(
            "`method=optimize` needs VGG19, which is not installed. The operator of the service can install it "
            "with `python -m training publish vgg19`.",
            field="method",
            value="optimize",
        ),
        "weights-missing",
        503,
        "Weights are not installed",
        "The request needs the weights of a network that is installed separately: `method=optimize` needs VGG19.",
        "Use `method=fast`, which works without them. The operator of the service can install the weights with "
        "the command in `detail`.",
    ),
    Problem(
        errors.ShuttingDown("The service is shutting down.", retry_after=5),
        "shutting-down",
        503,
        "The service is shutting down",
        "The service finishes the requests in progress and accepts no new ones.",
        "Wait for the seconds in `Retry-After`, then send the request again.",
    ),
    Problem(
        errors.DeadlineExceeded("The result was not ready after 20 seconds. Processing was cancelled."),
        "deadline-exceeded",
        504,
        "Deadline exceeded",
        "The result was not ready in the allowed time (`Cancel-After`, or `RESTORE_REQUEST_TIMEOUT_S`). "
        "Processing was cancelled, unless `detail` says that a job continues.",
        "Allow more time, send a smaller picture, or run the request as a job (`Prefer: respond-async`).",
    ),
    Problem(
        InternalError(INTERNAL_ERROR),
        "internal-error",
        500,
        "Internal error",
        "An unexpected error occurred in the service. Its log has the details under the request id in `instance`.",
        "Report the request id to the operator of the service.",
    ),
)

BY_SLUG = {problem.slug: problem for problem in TABLE}
_BY_ERROR = {problem.error: problem for problem in TABLE}
_INTERNAL = BY_SLUG["internal-error"]


def of(error: errors.ServiceError) -> Problem:
    """Return the row for the class of `error`, or for its nearest base class; `internal-error` if there is none."""
    for ancestor in type(error).__mro__:
        if ancestor in _BY_ERROR:
            return _BY_ERROR[ancestor]
    return _INTERNAL


def response(error: errors.ServiceError, request_id: str) -> JSONResponse:
    """Return `error` as a problem document. `retry_after` is rounded up to whole seconds, also for `Retry-After`."""
    body = describe(error, request_id)
    headers = {"Cache-Control": "no-store"}
    if "retry_after" in body:
        headers["Retry-After"] = str(body["retry_after"])
    if isinstance(error, errors.RequestTimeout):
        headers["Connection"] = "close"  # do not wait for the rest of the body
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


def example_document(problem: Problem) -> dict[str, Any]:
    """Return a problem document as a client may receive it, from the table's example."""
    return describe(problem.example, EXAMPLE_REQUEST_ID)


def render_markdown() -> str:
    """Return an explanation of every problem as Markdown: the text of `docs/errors.md`."""
    lines = [
        "# Problems",
        "",
        "Every error is an `application/problem+json` document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).",
        "Its members:",
        "",
        "* `type`: the path of a page that explains the problem, `/problems/{slug}`;",
        "* `title` and `status`: the problem in a few words, and the HTTP status;",
        "* `detail`: what is wrong with this request, with the value and the limit;",
        "* `instance`: the request id, also in `X-Request-Id` and in the log;",
        "* where they apply, `field`, `value`, `limit` and `retry_after` (seconds, also in `Retry-After`).",
        "",
        "`GET /problems` lists all problems. This page is generated: `python -m app.api.problems > docs/errors.md`.",
        "",
        "| slug | status | title |",
        "|---|---|---|",
    ]
    lines += [f"| [`{row.slug}`](#{row.slug}) | {row.status} | {row.title} |" for row in TABLE]
    for row in TABLE:
        lines += ["", f"## {row.slug}"]
        for paragraph in (f"**{row.status}. {row.title}.** {row.meaning}", row.remedy, "Example of `detail`:"):
            lines += ["", _fill(paragraph)]
        lines += ["", _fill(f"> {row.example.detail}", subsequent_indent="> ")]
    return "\n".join(lines) + "\n"


def _fill(text: str, subsequent_indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=subsequent_indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(render_markdown())
