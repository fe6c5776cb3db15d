"""Parses the `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from dataclasses import dataclass

RESULT = "application/vnd.restore.result+json"
"""The picture in base64 inside a JSON object."""
TABLE = "application/vnd.restore.table+json"
"""The table of `/segment`."""
_JSON = ("application/json", "application/*")
_MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One part of `Accept`: `image/png`, `image/*` or `*/*` with its weight, 0 (not acceptable) to 1."""

    name: str
    weight: float


def parse_accept(header: str | None) -> list[MediaRange]:
    """Return the media ranges of an `Accept` header, in its order, without those that cannot be parsed."""
    ranges = []
    for part in (header or "")[:_MAX_LENGTH].lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = _parse_weight(value)
        if name.count("/") == 1 and 0 <= weight <= 1:
            ranges.append(MediaRange(name, weight))
    return ranges


def is_json(media_type: str) -> bool:
    """Return whether a media type or range is JSON of any kind: `application/json`, `application/…+json`."""
    return media_type.startswith("application/") and media_type.endswith("json")


def prefers_json(header: str | None, alternative: str = "image/") -> bool:
    """Return whether `Accept` gives JSON a higher weight than all media types that start with `alternative`."""
    ranges = parse_accept(header)
    json = max((one.weight for one in ranges if one.name in (*_JSON, RESULT)), default=0.0)
    others = (one.weight for one in ranges if one.name == "*/*" or one.name.startswith(alternative))
    return json > max(others, default=0.0)


def names_html(header: str | None) -> bool:
    """Return whether `Accept` names HTML, with no lower weight than JSON, as browsers do; `*/*` does not name it."""
    html = max((one.weight for one in parse_accept(header) if one.name in ("text/html", "text/*")), default=0.0)
    return html > 0 and not prefers_json(header, alternative="text/html")


def accepts_table(header: str | None) -> bool:
    """Return whether `Accept` allows a table: it has JSON or `*/*`, or there is no header."""
    names = (*_JSON, TABLE, "*/*")
    return not header or any(one.name in names and one.weight > 0 for one in parse_accept(header))


def _parse_weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
