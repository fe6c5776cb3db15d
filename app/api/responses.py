"""What a finished picture looks like over the wire: bytes with headers, or the JSON envelope."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.limits import SLOWEST_BODY
from app.errors import ConflictingFields, NotAcceptable
from app.tasks.answer import Answer

PIECE = 3 * 2**16  # bytes; a multiple of three, so that pieces in base64 make one text
_SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/tiff": "tiff",
    "image/avif": "avif",
}


def wants_envelope(accept: str | None) -> bool:
    """Return whether `accept` prefers `application/json` to every kind of picture. A tie is a picture."""
    qualities = {"application/json": 0.0, "image": 0.0}
    for part in (accept or "").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((_quality(piece) for piece in parameters if piece.startswith("q=")), 1.0)
        if kind in ("application/json", "application/*"):
            qualities["application/json"] = max(qualities["application/json"], quality)
        elif kind == "*/*" or kind.startswith("image/"):
            qualities["image"] = max(qualities["image"], quality)
    return qualities["application/json"] > qualities["image"]


def headers(answer: Answer, notes: Sequence[str], timing: Mapping[str, float], name: str) -> dict[str, str]:
    """Return the headers of `answer`: model, card, what was decided, seconds by stage, and the file's name."""
    model = answer.model.partition("@")[0]
    decided = [f"{key}={value}" for key, value in answer.applied.items()] + list(notes)
    told = {
        "X-Model": answer.model,
        "Link": model and f'</models/{model}>; rel="describedby"',
        "X-Applied": _latin(";".join(decided)),
        "Server-Timing": ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in timing.items()),
        "Content-Disposition": _disposition(name),
        "Cache-Control": "private, no-store",
        "Vary": "Accept",
    }
    return {key: value for key, value in told.items() if value}


class Parcel(Response):
    """A body that is sent in pieces, no faster than it is taken: one large write would hold up the event loop.

    A caller that takes it more slowly than `timeout_s` seconds and one more for each 16 KiB is cut off. `sent` is
    called at the end, however it came.
    """

    timeout_s = math.inf
    sent: Callable[[], None] | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body piece by piece."""
        for begin in range(0, len(self.body), PIECE):
            yield bytes(self.body[begin : begin + PIECE])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the answer. Raises ClientDisconnect."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            started = time.monotonic()
            taken = 0
            async for piece in self.pieces():
                left = started + self.timeout_s + taken / SLOWEST_BODY - time.monotonic()
                async with asyncio.timeout(max(left, 0) if math.isfinite(left) else None):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                taken += len(piece)
                await asyncio.sleep(0)  # a fast reader takes all of it without ever letting others have their turn
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            if self.sent:
                self.sent()


class FileParcel(Parcel):
    """A body that is read from `file`, which is open and gets closed, piece by piece while it is sent."""

    def __init__(self, file: BinaryIO, size: int, told: Mapping[str, str], content_type: str) -> None:
        super().__init__(b"", 200, {**told, "Content-Length": str(size)}, content_type)
        self._file = file

    async def pieces(self) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.to_thread(self._file.close)


def picture(body: bytes, content_type: str, told: Mapping[str, str]) -> Parcel:
    """Return the picture as the body."""
    return Parcel(body, 200, dict(told), content_type)


def envelope(
    answer: Answer,
    notes: Sequence[str],
    body: bytes,
    content_type: str,
    timing: Mapping[str, float],
    told: Mapping[str, str],
) -> Parcel:
    """Return the picture in base64 inside a JSON object. Takes a while for a large one: call it on a thread."""
    content = {
        "content_type": content_type,
        "width": answer.picture.width,
        "height": answer.picture.height,
        "model": answer.model,
        "applied": {**answer.applied, **dict(_pair(note) for note in notes)},
        "timing": {stage: round(seconds * 1000, 1) for stage, seconds in timing.items()},
    }
    kept = {key: value for key, value in told.items() if key != "Content-Disposition"}
    # In pieces, because the interpreter's lock is held while one is made: even on a thread, all others would wait.
    encoded = [base64.b64encode(body[begin : begin + PIECE]) for begin in range(0, len(body), PIECE)]
    whole = b"".join([b'{"image": "', *encoded, b'", ', json.dumps(content).encode()[1:]])
    return Parcel(whole, 200, kept, "application/json")


def check_table(accept: str | None, form: str) -> None:
    """Raise NotAcceptable or ConflictingFields where a table cannot be the answer."""
    if form != "auto":
        text = f"output=json answers a table, which is no picture in {form}: leave format out."
        raise ConflictingFields(text, field="format", value=form)
    ranges = [part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    if not {"application/json", "application/*", "*/*"} & set(ranges):
        text = "output=json answers a table; possible here: application/json."
        raise NotAcceptable(text, value=(accept or "")[:200])


def table(answer: Answer, timing: Mapping[str, float], told: Mapping[str, str]) -> Parcel:
    """Return the answer's table as JSON, with what the headers say beside it."""
    content = {
        **(answer.table or {}),
        "model": answer.model,
        "applied": answer.applied,
        "timing": {stage: round(seconds * 1000, 1) for stage, seconds in timing.items()},
    }
    kept = {key: value for key, value in told.items() if key != "Content-Disposition"}
    return Parcel(json.dumps(content).encode(), 200, kept, "application/json")


def revalidated(asked: Headers, response: Response) -> Response:
    """Return `response` with an `ETag`, or 304 without a body where `If-None-Match` has it already."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    kept = {"ETag": tag, "Cache-Control": "no-cache"}
    if is_known(asked, tag):
        return Response(status_code=304, headers=kept)
    response.headers.update(kept)
    return response


def is_known(asked: Headers, tag: str) -> bool:
    """Return whether `If-None-Match` names the tag."""
    given = [one.strip().removeprefix("W/") for one in asked.get("if-none-match", "").split(",")]
    return tag in given or "*" in given


def result_name(filename: str, task: str, content_type: str) -> str:
    """Return a name for the result: `holiday-denoise.jpg` for `holiday.png`."""
    last = unicodedata.normalize("NFC", filename).replace("\\", "/").rpartition("/")[2]
    # Letters, digits, and marks: what many scripts write vowels with.
    kept = "".join(
        c if c in "._-" or unicodedata.category(c)[0] in "LMN" else " " for c in last.rpartition(".")[0] or last
    )
    stem = re.sub(r" +", "_", kept).strip("._")[:80] or "picture"
    return f"{stem}-{task}.{_SUFFIXES.get(content_type, 'bin')}"


def _pair(note: str) -> tuple[str, str]:
    key, _, value = note.partition("=")
    return key, value or "yes"


def _disposition(name: str) -> str:
    plain = name.encode("ascii", "replace").decode("ascii").replace("?", "_")
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name)}"
    return f'inline; filename="{plain}"{exact}'


def _latin(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text).encode("latin-1", "replace").decode("latin-1")


def _quality(piece: str) -> float:
    try:
        return min(max(float(piece[2:]), 0.0), 1.0)
    except ValueError:
        return 1.0
