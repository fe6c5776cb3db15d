"""Responses with results: a picture with headers, JSON with the picture in base64, or a table; sent in pieces."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import media_types
from app.limits.body import MIN_BYTES_PER_S
from app.pipeline import Encoded, ImageRequest

PIECE = 3 * 2**16  # bytes; a multiple of three, so that pieces in base64 make one text
_SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/tiff": "tiff",
    "image/avif": "avif",
}


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""Headers of pages: no external resources. Swagger UI uses inline styles, and shows pictures from blobs."""


async def build(encoded: Encoded, request: ImageRequest) -> StreamedResponse:
    """Return the response to a request: the picture, JSON with the picture in base64, or a table."""
    media_type, extra = encoded.media_type, {}
    if encoded.table is not None:
        body = json.dumps({**encoded.table, **_facts(encoded)}).encode()
    elif request.wants_json:
        body, media_type = await asyncio.to_thread(_envelope, encoded), media_types.RESULT
    else:
        body = encoded.body
        name = result_name(encoded.filename, request.task.name, media_type)
        extra = {"Content-Disposition": _disposition(name)}
    return StreamedResponse(body, 200, {**result_headers(encoded), **extra}, media_type)


def result_headers(encoded: Encoded) -> dict[str, str]:
    """Return the headers of a response: model, model card, decisions and the duration of each stage."""
    model = encoded.model.partition("@")[0]
    decided = [*(f"{key}={value}" for key, value in encoded.decisions.items()), *encoded.losses]
    headers = {
        "X-Model": encoded.model,
        "Link": model and f'</models/{model}>; rel="describedby"',
        "X-Applied": _to_latin1(";".join(decided)),
        "Server-Timing": ", ".join(f"{stage};dur={taken * 1000:.1f}" for stage, taken in encoded.seconds.items()),
        "Cache-Control": "private, no-store",
        "Vary": "Accept",
    }
    return {key: value for key, value in headers.items() if value}


def _facts(encoded: Encoded) -> dict[str, Any]:
    """Return the fields of a JSON response other than its content."""
    # What decoding and encoding lost does not matter to a table.
    losses = () if encoded.table is not None else encoded.losses
    return {
        "width": encoded.width,
        "height": encoded.height,
        "model": encoded.model,
        "applied": {**encoded.decisions, **dict(_split_warning(loss) for loss in losses)},
        "warnings": list(encoded.warnings),
        "timing": {stage: round(taken * 1000, 1) for stage, taken in encoded.seconds.items()},
    }


def _envelope(encoded: Encoded) -> bytes:
    """Return a JSON object with the picture in base64. Slow for large pictures: call it on a thread."""
    content = {"content_type": encoded.media_type, **_facts(encoded)}
    return embed_base64({"image": "", **content}, encoded.body)


def embed_base64(content: Mapping[str, Any], body: bytes) -> bytes:
    """Return `content` as JSON, with `body` in base64 in its first empty text. Slow for a large body."""
    before, _, after = json.dumps(content).encode().partition(b'""')
    # In pieces, because encoding holds the interpreter lock, which blocks all other threads.
    pieces = [base64.b64encode(body[begin : begin + PIECE]) for begin in range(0, len(body), PIECE)]
    return b"".join([before, b'"', *pieces, b'"', after])


class StreamedResponse(Response):
    """A body that is sent in pieces, as fast as the client receives it: one large write would block the event loop.

    Sending may take `timeout_s` seconds, plus one second for each 16 KiB; then the connection is closed. `on_sent` is
    called at the end, also after an error.
    """

    timeout_s = math.inf
    on_sent: Callable[[], None] | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body piece by piece."""
        for begin in range(0, len(self.body), PIECE):
            yield bytes(self.body[begin : begin + PIECE])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response. Raises ClientDisconnect."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            started = time.monotonic()
            taken = 0
            async for piece in self.pieces():
                left = started + self.timeout_s + taken / MIN_BYTES_PER_S - time.monotonic()
                async with asyncio.timeout(max(left, 0) if math.isfinite(left) else None):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                taken += len(piece)
                await asyncio.sleep(0)  # for a fast client, sending never waits: let other tasks run
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            if self.on_sent:
                self.on_sent()


class FileResponse(StreamedResponse):
    """A body that is read from the open file `file` while it is sent. Closes the file."""

    def __init__(self, file: BinaryIO, size: int, headers: Mapping[str, str], content_type: str) -> None:
        super().__init__(b"", 200, {**headers, "Content-Length": str(size)}, content_type)
        self._file = file

    async def pieces(self) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.to_thread(self._file.close)


def revalidate(asked: Headers, response: Response) -> Response:
    """Return `response` with an `ETag`, or 304 without a body if `If-None-Match` has this tag."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    kept = {"ETag": tag, "Cache-Control": "no-cache"}
    if is_known(asked, tag):
        return Response(status_code=304, headers=kept)
    response.headers.update(kept)
    return response


def is_known(asked: Headers, tag: str) -> bool:
    """Return whether `If-None-Match` has the tag."""
    given = [one.strip().removeprefix("W/") for one in asked.get("if-none-match", "").split(",")]
    return tag in given or "*" in given


def result_name(filename: str, task: str, content_type: str) -> str:
    """Return a name for the result: `holiday-denoise.jpg` for `holiday.png`."""
    last = unicodedata.normalize("NFC", filename).replace("\\", "/").rpartition("/")[2]
    # Letters, digits, and combining marks, which many scripts need.
    kept = "".join(
        c if c in "._-" or unicodedata.category(c)[0] in "LMN" else " " for c in last.rpartition(".")[0] or last
    )
    stem = re.sub(r" +", "_", kept).strip("._")[:80] or "picture"
    return f"{stem}-{task}.{_SUFFIXES.get(content_type, 'bin')}"


def _split_warning(warning: str) -> tuple[str, str]:
    key, _, value = warning.partition("=")
    return key, value or "yes"


def _disposition(name: str) -> str:
    plain = name.encode("ascii", "replace").decode("ascii").replace("?", "_")
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name)}"
    return f'inline; filename="{plain}"{exact}'


def _to_latin1(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text).encode("latin-1", "replace").decode("latin-1")
