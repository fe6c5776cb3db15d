"""Reads the request body, with limits on its size and on the time that it takes to arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import RequestTimeout, UploadTooLarge

MIN_BYTES_PER_S = 16 * 1024
"""A body may take one second more for each so many bytes."""


async def read_body(
    receive: Receive, headers: Headers, *, max_bytes: int, timeout_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of the body.

    Raises UploadTooLarge if `Content-Length` or the body exceeds `max_bytes`; RequestTimeout if it takes more than
    `timeout_s` seconds, plus one second for each 16 KiB; ClientDisconnect.
    """
    limit = f"{max_bytes / 2**20:g} MiB"
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise UploadTooLarge(
            f"The upload of {int(announced[:20])} bytes exceeds the limit of {limit}.",
            value=announced[:20],
            limit=max_bytes,
        )
    started = time.monotonic()
    seen = 0
    more = True
    while more:
        wait = started + timeout_s + seen / MIN_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(max(wait, 0)):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout(
                f"Received only {seen} bytes of the body in {time.monotonic() - started:.0f} seconds.", value=seen
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        seen += len(chunk)
        if seen > max_bytes:
            raise UploadTooLarge(f"The upload exceeds the limit of {limit}.", limit=max_bytes)
        yield chunk
        more = message.get("more_body", False)
