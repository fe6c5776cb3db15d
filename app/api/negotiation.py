"""Parses request headers: `Prefer`, `Idempotency-Key`, `Cancel-After`, and `Accept` for tables."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from app import media_types
from app.errors import ConflictingFields, MalformedRequest, NotAcceptable

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Preference:
    """The supported preferences of the header `Prefer` (RFC 7240)."""

    respond_async: bool = False
    wait: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any supported preference."""
        return self.respond_async or self.wait is not None

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied`."""
        waited = [] if self.wait is None else [f"wait={self.wait:g}"]
        return ", ".join([*(["respond-async"] if self.respond_async else []), *waited])


def parse_prefer(headers: Headers, longest: float) -> Preference:
    """Return the preferences in `Prefer`: the first of each name, without invalid ones.

    `wait` is at most `longest` seconds.
    """
    found: dict[str, str] = {}
    for part in ",".join(headers.getlist("prefer")).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    seconds = min(float(wait), longest) if re.fullmatch("[0-9]{1,9}", wait) else None
    return Preference("respond-async" in found, seconds)


def parse_idempotency_key(headers: Headers) -> str | None:
    """Return the header `Idempotency-Key`, or None. Raises MalformedRequest if it is invalid."""
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        text = "The header `Idempotency-Key` must have 1 to 255 visible ASCII characters."
        raise MalformedRequest(text, field="Idempotency-Key", value=key)
    return key


def parse_cancel_after(value: str | None) -> float:
    """Return the seconds in the header `Cancel-After` (`20s`, `500ms`, `20`), or infinity if it is absent.

    Raises MalformedRequest.
    """
    if value is None:
        return math.inf
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|ms)?", value.strip(), re.ASCII)
    if not match or float(match[1]) == 0:
        raise MalformedRequest(
            "The header `Cancel-After` must be a time such as 20s or 500ms.", field="Cancel-After", value=value
        )
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def check_table(accept: str | None, format_name: str) -> None:
    """Raise ConflictingFields or NotAcceptable if the client does not accept a table."""
    if format_name != "auto":
        text = f"`output=json` returns a table, not a picture in {format_name}. Remove `format`."
        raise ConflictingFields(text, field="format", value=format_name)
    if not media_types.accepts_table(accept):
        text = f"`output=json` returns a table; possible here: application/json, {media_types.TABLE}."
        raise NotAcceptable(text, value=(accept or "")[:200])
