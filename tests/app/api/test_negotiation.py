"""What the headers of a request ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.negotiation import Preference, parse_cancel_after, parse_prefer
from app.errors import MalformedRequest


@pytest.mark.parametrize(
    ("text", "seconds"), [("20s", 20), ("20", 20), ("500ms", 0.5), (" 1.5s ", 1.5), (None, float("inf"))]
)
def test_cancel_after(text: str | None, seconds: float) -> None:
    assert parse_cancel_after(text) == seconds


@given(st.text(max_size=12))
def test_cancel_after_takes_times_only(text: str) -> None:
    try:
        seconds = parse_cancel_after(text)
    except MalformedRequest:
        return
    assert 0 < seconds < 1e6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), Preference()),
        (("respond-async",), Preference(True)),
        (("Respond-Async; x=1",), Preference(True)),
        (("wait=5",), Preference(False, 5)),
        (('respond-async, WAIT = "7"',), Preference(True, 7)),
        (("wait=5", "wait=9, respond-async"), Preference(True, 5)),
        (("wait=999999999",), Preference(False, 60)),
        (("wait=-1",), Preference()),
        (("wait=1.5",), Preference()),
        (("wait=",), Preference()),
        (("wait",), Preference()),
        (("wait=1e3, handling=lenient, =, ;;, \x00",), Preference()),
        (("return=minimal",), Preference()),
    ],
)
def test_preferences(given: tuple[str, ...], expected: Preference) -> None:
    headers = Headers(raw=[(b"prefer", value.encode("latin-1")) for value in given])
    assert parse_prefer(headers, 60) == expected
