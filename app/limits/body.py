"""The body of a request: its size and the time in which it has to arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import RequestTimeout, UploadTooLarge

MIN_BYTES_PER_S = 16 * 1024
"""Each so many bytes add a second to the time in which a body must be transferred."""


async def read_body(
    receive: Receive, headers: Headers, *, max_bytes: int, timeout_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes.

    Raises UploadTooLarge as soon as it is announced or seen to exceed `max_bytes`; RequestTimeout when it needs more
    than `timeout_s` seconds and one more for each 16 KiB; ClientDisconnect.
    """
    limit = f"{max_bytes / 2**20:g} MiB"
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise UploadTooLarge(
            f"The upload of {int(announced[:20])} bytes is larger than {limit}.", value=announced[:20], limit=max_bytes
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
                f"Only {seen} bytes of the body came within {time.monotonic() - started:.0f} seconds.", value=seen
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        seen += len(chunk)
        if seen > max_bytes:
            raise UploadTooLarge(f"The upload is larger than {limit}.", limit=max_bytes)
        yield chunk
        more = message.get("more_body", False)
