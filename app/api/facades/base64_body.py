"""Reads bodies whose pictures are texts in base64, as JSON or a URL-encoded form, with little memory.

A body is stored on disk beyond a size, as uploads of forms are. Its long texts are found there, and decoded piece by
piece into files of their own; only what is left is parsed.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import mmap
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_plus, unquote_to_bytes

from starlette.datastructures import Headers

from app.api.forms import MAX_PARTS, MAX_TEXT
from app.errors import InvalidField, MalformedRequest, MissingField, Overloaded
from app.pipeline import Upload

IN_MEMORY = 2**20
"""Bytes of a body or a picture beyond which it is on disk."""
LONG = 4096
"""Bytes of a text beyond which it is not parsed with the others."""
MAX_TEXTS = 4096
MAX_REST = 4 * MAX_TEXT
"""Bytes that may be left without the long texts."""
_PIECE = 2**20
_DATA_URL = re.compile(rb"\s*data(?::|%3A)[^,]{0,200}?(?:,|%2C)", re.IGNORECASE)

Data = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Base64Body:
    """The members of a JSON object, or the fields of a form, without its pictures; and its pictures."""

    members: dict[str, Any]
    pictures: dict[str, Upload]


@asynccontextmanager
async def read_base64(
    headers: Headers, body: AsyncGenerator[bytes, None], pictures: Sequence[str]
) -> AsyncIterator[Base64Body]:
    """Yield a body of whose members `pictures` are pictures in base64, or data URLs. The first is required.

    Their files are closed at the end of the block. Raises MalformedRequest, InvalidField, MissingField, Overloaded, and
    errors from reading `body`.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _PARSERS:
        raise MalformedRequest(f"The `Content-Type` must be application/json, not {kind[:60]!r}.")
    with ExitStack() as opened:
        try:
            stored = opened.enter_context(SpooledTemporaryFile(max_size=IN_MEMORY))
            async for chunk in body:
                await asyncio.to_thread(stored.write, chunk)
            content = await asyncio.to_thread(_parse, stored, kind, pictures, opened)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Overloaded("No disk space is left for uploads. Try again later.", retry_after=30) from None
        try:
            yield content
        finally:
            await asyncio.to_thread(opened.close)  # deleting a large file is slow


def _parse(stored: SpooledTemporaryFile[bytes], kind: str, pictures: Sequence[str], opened: ExitStack) -> Base64Body:
    data = _map(stored, opened)
    members, texts = _PARSERS[kind](data)
    found = {}
    for name in pictures:
        value = members.pop(name, None)
        if isinstance(value, str) and value:
            begin, end = texts.get(value, (0, 0))
            encoded = value.encode()
            source = (data, begin, end) if end else (encoded, 0, len(encoded))
            found[name] = _decode(*source, _ESCAPES[kind], name, opened)
        elif value:
            raise InvalidField(f"`{name}` must be a picture in base64.", field=name)
    if pictures[0] not in found:
        raise MissingField(f"`{pictures[0]}` is missing, or empty.", field=pictures[0])
    for name, value in members.items():
        if isinstance(value, str) and value in texts:
            raise InvalidField(f"The text `{name[:60]}` exceeds {LONG} bytes.", field=name[:60])
    return Base64Body(members, found)


def _parse_json(data: Data) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Return the members, with a marker for each long text, and the place of each by its marker."""
    rest, texts = _take_long_texts(data, secrets.token_hex(16))  # no text of the client can look like it
    try:
        members = json.loads(rest)
    except (ValueError, RecursionError):
        raise MalformedRequest("The body is not well-formed JSON.") from None
    if not isinstance(members, dict):
        raise MalformedRequest("The body must be a JSON object.")
    return members, texts


def _parse_form(data: Data) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Return the fields, with a marker for each long text, and the place of each by its marker."""
    marker = secrets.token_hex(16)
    members: dict[str, Any] = {}
    texts: dict[str, tuple[int, int]] = {}
    at = 0
    for _ in range(MAX_PARTS):
        end = data.find(b"&", at)
        end = len(data) if end < 0 else end
        equals = data.find(b"=", at, min(end, at + LONG))
        name = unquote_plus(data[at : max(equals, at)].decode("utf-8", "replace"))
        if end - equals > LONG:
            members[name] = f"{marker}{len(texts)}"
            texts[members[name]] = equals + 1, end
        else:
            members[name] = unquote_plus(data[equals + 1 : end].decode("utf-8", "replace"))
        at = end + 1
        if at >= len(data):
            return members, texts
    raise MalformedRequest(f"The form has more than {MAX_PARTS} fields.")


def _map(stored: SpooledTemporaryFile[bytes], opened: ExitStack) -> Data:
    """Return the bytes of a file: a mapping of it if it is on disk."""
    stored.seek(0)
    if not getattr(stored, "_rolled", True):
        return stored.read()
    stored.flush()
    return opened.enter_context(mmap.mmap(stored.fileno(), 0, access=mmap.ACCESS_READ))


def _take_long_texts(data: Data, marker: str) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the JSON with a marker for each long text, and the place of each by its marker.

    Raises MalformedRequest.
    """
    rest: list[bytes] = []
    size = at = 0
    texts: dict[str, tuple[int, int]] = {}
    for begin, end in _find_texts(data):
        if end - begin <= LONG:
            continue
        name = f"{marker}{len(texts)}"
        texts[name] = begin, end
        size += begin - at
        if size > MAX_REST:
            break
        rest += [data[at:begin], name.encode()]
        at = end
    if size + len(data) - at > MAX_REST:
        raise MalformedRequest(f"The body has more than {MAX_REST // 1024} KiB besides its pictures.")
    return b"".join([*rest, data[at:]]), texts


def _find_texts(data: Data) -> Iterator[tuple[int, int]]:
    """Yield where the content of each text begins and ends. Raises MalformedRequest."""
    at = 0
    for _ in range(MAX_TEXTS):
        begin = data.find(b'"', at) + 1
        if not begin:
            return
        end = data.find(b'"', begin)
        while end > 0 and _is_escaped(data, begin, end):
            end = data.find(b'"', end + 1)
        if end < 0:
            raise MalformedRequest("The body is not well-formed JSON: a text has no end.")
        yield begin, end
        at = end + 1
    raise MalformedRequest(f"The body has more than {MAX_TEXTS} texts.")


def _is_escaped(data: Data, begin: int, quote: int) -> bool:
    """Return whether an odd number of backslashes stands before a quote."""
    at = quote
    while at > begin and data[at - 1] == ord("\\"):
        at -= 1
        if quote - at > LONG:
            raise MalformedRequest("The body is not well-formed JSON.")
    return (quote - at) % 2 == 1


def _decode(data: Data, begin: int, end: int, escape: bytes, name: str, opened: ExitStack) -> Upload:
    """Return the picture whose base64 is the text `data[begin:end]`, with escapes that begin with `escape`.

    Raises InvalidField.
    """
    target = cast("BinaryIO", opened.enter_context(SpooledTemporaryFile(max_size=IN_MEMORY)))  # noqa: SIM115
    prefix = _DATA_URL.match(data, begin, min(end, begin + 256))
    at, left = prefix.end() if prefix else begin, b""
    try:
        while at < end:
            piece = data[at : min(end, at + _PIECE)]
            cut = piece.rfind(escape, max(0, len(piece) - 6))
            if at + len(piece) < end and cut >= 0:  # the end of the escape may be in the next piece
                piece = piece[:cut]
            at += len(piece)
            left += _unescape(piece, escape).translate(None, b" \r\n\t")
            whole = len(left) // 4 * 4 if at < end else len(left)
            target.write(base64.b64decode(left[:whole] + b"=" * (-whole % 4), validate=True))
            left = left[whole:]
    except ValueError:
        text = f"`{name}` must be a picture in base64. The service fetches no URLs."
        raise InvalidField(text, field=name) from None
    return Upload(target, target.tell(), "")


def _unescape(piece: bytes, escape: bytes) -> bytes:
    """Return a part of a text without its escapes: `\\/` and `\\u002B` of JSON, `%2B` of forms."""
    if escape not in piece:
        return piece
    return unquote_to_bytes(piece) if escape == b"%" else bytes(json.loads(b'"' + piece + b'"').encode())


_PARSERS = {"application/json": _parse_json, "application/x-www-form-urlencoded": _parse_form}
_ESCAPES = {"application/json": b"\\", "application/x-www-form-urlencoded": b"%"}
