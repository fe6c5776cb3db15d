"""Bodies with pictures in base64: escapes, hostile ones, and the memory that a large one takes."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from starlette.datastructures import Headers

from app.api.facades.base64_body import LONG, MAX_TEXTS, read_base64
from app.errors import InvalidField, MalformedRequest, MissingField, ServiceError

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
SIZES = [0, 1, 2, 3, LONG // 4 * 3, LONG, 3 * 2**19, 2**20 + 1, 3 * 2**20 + 5]


def data(size: int) -> bytes:
    """Return bytes whose base64 has many of `+` and `/`."""
    return (np.random.default_rng(size).integers(0, 4, size, np.uint8) + 62 * 4).astype(np.uint8).tobytes()


def read(body: bytes, kind: str = JSON, chunk: int = 2**16) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the members and the pictures of a body that arrives in chunks."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        for begin in range(0, len(body), chunk):
            yield body[begin : begin + chunk]

    async def run() -> tuple[dict[str, Any], dict[str, bytes]]:
        async with read_base64(Headers({"content-type": kind}), chunks(), ("image", "mask")) as content:
            return content.members, {name: one.read() for name, one in content.pictures.items()}

    return asyncio.run(run())


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_pictures_come_out_as_they_went_in(size: int, prefix: str) -> None:
    text = prefix + base64.b64encode(data(size)).decode()
    sent = {"image": text, "mask": text.rstrip("="), "note": 'a "quoted" \\ text', "n": [1, None]}
    expected = {"image": data(size), "mask": data(size)}
    members = {"note": sent["note"], "n": [1, None]}
    assert read(json.dumps(sent).encode()) == (members, expected)
    # As PHP (`\/`) and .NET (`\u002B`) write it, and with line breaks every 76 characters.
    escaped = json.dumps(sent).replace("/", "\\/").replace("+", "\\u002B")
    assert read(escaped.encode()) == (members, expected)
    broken = prefix + base64.encodebytes(data(size)).decode()
    assert read(json.dumps({"image": broken}).encode())[1] == {"image": data(size)}
    form = urlencode({"image": text, "mask": text, "note": "a b&c"}).encode()
    assert read(form, FORM) == ({"note": "a b&c"}, expected)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", MalformedRequest),
        (b"[]", MalformedRequest),
        (b'{"image": ', MalformedRequest),
        (b'{"image": "' + 9999 * b"a", MalformedRequest),
        (b'{"image": "' + 99999 * b"\\", MalformedRequest),
        (b"[" * 100_000, MalformedRequest),
        (b"{" + b'"a": "",' * MAX_TEXTS, MalformedRequest),
        (b'{"image": 1' + b" " * 2**20 + b"}", MalformedRequest),
        (b'{"\xff": 1}', MalformedRequest),
        (b"{}", MissingField),
        (b'{"image": null}', MissingField),
        (b'{"image": ["QQ=="]}', InvalidField),
        (b'{"image": "not base64!"}', InvalidField),
        (b'{"image": "' + 99999 * b"?" + b'"}', InvalidField),
        (b'{"image": "QQ==QQ=="}', InvalidField),
        (b'{"image": "\\u00"}', MalformedRequest),
        (b'{"image": "' + LONG * b"QUFB" + b'\\u00zz"}', InvalidField),
        (b'{"image": "QQ==", "prompt": "' + 9999 * b"a" + b'"}', InvalidField),
    ],
)
def test_hostile_bodies_are_refused(body: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read(body)


def test_other_content_types_are_refused() -> None:
    with pytest.raises(MalformedRequest, match="application/json"):
        read(b"{}", "text/plain")


def test_a_large_body_takes_little_memory() -> None:
    body = json.dumps({"image": base64.b64encode(bytes(48 * 2**20)).decode()}).encode()

    async def chunks() -> AsyncGenerator[bytes, None]:
        view = memoryview(body)
        for begin in range(0, len(view), 2**16):
            yield bytes(view[begin : begin + 2**16])

    async def run() -> int:
        tracemalloc.start()
        try:
            async with read_base64(Headers({"content-type": JSON}), chunks(), ("image",)) as content:
                assert content.pictures["image"].size == 48 * 2**20
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert asyncio.run(run()) < 16 * 2**20
