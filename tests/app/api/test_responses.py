from __future__ import annotations

import pytest

from app.api.responses import result_name, wants_envelope


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", True),
        ("application/json, */*", False),  # what many clients send unasked
        ("application/json, image/*;q=0.5", True),
        ("application/json;q=0.1, image/png", False),
        ("Application/JSON; q=0.3, */*;q=0.1", True),
        ("application/json;q=0", False),
        ("application/json;q=high", True),
        ("text/html", False),
    ],
)
def test_wants_envelope(accept: str | None, expected: bool) -> None:
    assert wants_envelope(accept) is expected


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
    ],
)
def test_result_name(given: str, expected: str) -> None:
    assert result_name(given, "denoise", "image/jpeg") == expected
