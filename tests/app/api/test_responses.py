from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from app import media_types
from app.api.responses import PIECE, StreamedResponse, build, result_name
from app.imaging.codec import Output
from app.pipeline import Encoded, ImageRequest
from app.tasks import TASKS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("holiday.png", "holiday-denoise.jpg"),
        ("C:\\pictures\\me.PNG", "me-denoise.jpg"),
        ("../../etc/passwd", "passwd-denoise.jpg"),
        ("", "picture-denoise.jpg"),
        (".png", "png-denoise.jpg"),
        ('a"b\r\nX: y.png', "a_b_X_y-denoise.jpg"),
        ("x" * 500 + ".png", "x" * 80 + "-denoise.jpg"),
        ("Grüße.png", "Grüße-denoise.jpg"),
        ("e\u0301te\u0301.png", "\u00e9t\u00e9-denoise.jpg"),
        ("नमस्ते दुनिया.png", "नमस्ते_दुनिया-denoise.jpg"),
        ("ที่บ้าน.png", "ที่บ้าน-denoise.jpg"),
    ],
)
def test_result_name(given: str, expected: str) -> None:
    assert result_name(given, "denoise", "image/jpeg") == expected


async def nothing() -> dict[str, Any]:
    raise AssertionError("an answer reads nothing")


@pytest.mark.parametrize("size", [0, 1, PIECE, 3 * PIECE + 7])
def test_a_large_answer_goes_in_pieces(size: int) -> None:
    body = np.random.default_rng(1).bytes(size)
    response = StreamedResponse(body, 200, {"X-Model": "a"}, "image/png")
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(response({"type": "http"}, nothing, send))
    start, *pieces = messages
    assert start["status"] == 200
    assert (b"content-length", str(size).encode()) in start["headers"]
    assert b"".join(piece["body"] for piece in pieces) == body
    assert max(len(piece["body"]) for piece in pieces) <= PIECE
    assert [bool(piece.get("more_body")) for piece in pieces] == [True] * (len(pieces) - 1) + [False]


def test_who_does_not_take_its_answer_is_cut_off() -> None:
    response = StreamedResponse(bytes(3 * PIECE))
    response.timeout_s = 0.01
    told: list[str] = []
    response.on_sent = lambda: told.append("sent")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    with pytest.raises(ClientDisconnect):
        asyncio.run(response({"type": "http"}, nothing, send))
    assert told == ["sent"]


@pytest.mark.parametrize("size", [1, PIECE - 1, 2 * PIECE, 2 * PIECE + 2])
def test_base64_made_in_pieces_is_one_text(size: int) -> None:
    body = np.random.default_rng(2).bytes(size)
    encoded = Encoded(
        body=body,
        media_type="image/png",
        filename="a.png",
        width=3,
        height=2,
        model="denoise/photo@1",
        decisions={"strength": "0.10"},
        losses=("depth=8", "odd"),
        warnings=("Nothing was found.",),
        seconds={"model": 0.5},
    )
    request = ImageRequest(TASKS[0], TASKS[0].options(), Output("auto"), {}, "application/json")
    response = asyncio.run(build(encoded, request))
    assert response.headers["content-type"] == media_types.RESULT
    content = json.loads(bytes(response.body))
    assert base64.b64decode(content.pop("image")) == body
    assert content == {
        "content_type": "image/png",
        "width": 3,
        "height": 2,
        "model": "denoise/photo@1",
        "applied": {"strength": "0.10", "depth": "8", "odd": "yes"},
        "warnings": ["Nothing was found."],
        "timing": {"model": 500.0},
    }
