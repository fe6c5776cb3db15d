"""The one parser of `Accept`."""

from __future__ import annotations

import pytest

from app import media_types
from app.media_types import MediaRange, accepts_table, parse_accept, prefers_json


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", True),
        ("application/*", True),
        ("application/json, */*", False),  # what many clients send unasked
        ("application/json, image/*;q=0.5", True),
        ("application/json;q=0.1, image/png", False),
        ("Application/JSON; q=0.3, */*;q=0.1", True),
        ("application/json;q=0", False),
        ("application/json;q=high", False),  # what cannot be read is left out
        (media_types.RESULT, True),
        ("application/problem+json", False),
        ("text/html", False),
    ],
)
def test_json_is_preferred_only_where_it_has_the_higher_weight(accept: str | None, expected: bool) -> None:
    assert prefers_json(accept) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, True),
        ("", True),
        ("*/*", True),
        ("application/json", True),
        (media_types.TABLE, True),
        ("application/*;q=0.1, image/png", True),
        ("application/json;q=0", False),
        ("image/png", False),
        ("text/html, image/*", False),
    ],
)
def test_a_table_is_accepted_where_json_is_named_or_anything_is(accept: str | None, expected: bool) -> None:
    assert accepts_table(accept) is expected


def test_ranges_come_in_their_order_with_their_weights_and_what_is_none_is_left_out() -> None:
    found = parse_accept("Image/PNG; q=0.5, */*;q=0, nonsense, ;;, image/webp;q=abc, image/avif;q=2, image/tiff")
    assert found == [MediaRange("image/png", 0.5), MediaRange("*/*", 0.0), MediaRange("image/tiff", 1.0)]
