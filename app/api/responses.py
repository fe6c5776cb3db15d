"""What a finished picture looks like over the wire: bytes with headers, or the JSON envelope."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from starlette.responses import Response

from app.tasks.answer import Answer

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
        if kind == "application/json":
            qualities[kind] = max(qualities[kind], quality)
        elif kind == "*/*" or kind.startswith("image/"):
            qualities["image"] = max(qualities["image"], quality)
    return qualities["application/json"] > qualities["image"]


def headers(answer: Answer, notes: Sequence[str], timing: Mapping[str, float], name: str) -> dict[str, str]:
    """Return the headers of `answer`: model, card, what was decided, seconds by stage, and the file's name."""
    model = answer.model.partition("@")[0]
    decided = [f"{key}={value}" for key, value in answer.applied.items()] + list(notes)
    told = {
        "X-Model": answer.model,
        "Link": f'</models/{model}>; rel="describedby"',
        "X-Applied": _latin(";".join(decided)),
        "Server-Timing": ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in timing.items()),
        "Content-Disposition": _disposition(name),
        "Cache-Control": "private, no-store",
        "Vary": "Accept",
    }
    return {key: value for key, value in told.items() if value}


def picture(body: bytes, content_type: str, told: Mapping[str, str]) -> Response:
    """Return the picture as the body."""
    return Response(body, 200, dict(told), content_type)


def envelope(
    answer: Answer,
    notes: Sequence[str],
    body: bytes,
    content_type: str,
    timing: Mapping[str, float],
    told: Mapping[str, str],
) -> Response:
    """Return the picture in base64 inside a JSON object. Takes a while for a large one: call it on a thread."""
    content = {
        "image": base64.b64encode(body).decode("ascii"),
        "content_type": content_type,
        "width": answer.picture.width,
        "height": answer.picture.height,
        "model": answer.model,
        "applied": {**answer.applied, **dict(_pair(note) for note in notes)},
        "timing": {stage: round(seconds * 1000, 1) for stage, seconds in timing.items()},
    }
    kept = {key: value for key, value in told.items() if key != "Content-Disposition"}
    return Response(json.dumps(content), 200, kept, "application/json")


def result_name(filename: str, task: str, content_type: str) -> str:
    """Return a name for the result: `holiday-denoise.jpg` for `holiday.png`."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    stem = re.sub(r"[^\w.-]+", "_", last.rpartition(".")[0] or last).strip("._")[:80] or "picture"
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
