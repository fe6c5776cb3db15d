from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from app.errors import RequestTimeout, UploadTooLarge
from app.limits.body import read_body


def chunks(*messages: dict[str, Any]) -> Any:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


def data(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(receive: Any, headers: dict[str, str] | None = None, patience: float = 30.0) -> bytes:
    body = read_body(receive, Headers(headers or {}), max_bytes=10, timeout_s=patience)
    return b"".join([chunk async for chunk in body])


def test_a_body_is_read_to_its_end() -> None:
    assert asyncio.run(read(chunks(data(b"12345"), data(b"67890", False)))) == b"1234567890"


def test_a_body_over_the_limit_is_not_read_on() -> None:
    with pytest.raises(UploadTooLarge):
        asyncio.run(read(chunks(data(b"12345"), data(b"678901"))))
    with pytest.raises(UploadTooLarge):
        asyncio.run(read(chunks(), {"content-length": "11"}))
    with pytest.raises(UploadTooLarge):
        asyncio.run(read(chunks(), {"content-length": "9" * 5000}))


def test_a_body_that_stops_or_breaks_off() -> None:
    with pytest.raises(RequestTimeout):
        asyncio.run(read(chunks(data(b"1")), patience=0.01))
    with pytest.raises(ClientDisconnect):
        asyncio.run(read(chunks(data(b"1"), {"type": "http.disconnect"})))
