"""Which format an answer is given in."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import InvalidField, NotAcceptable
from app.imaging.codec import choose_format
from app.imaging.picture import Picture


def picture(name: str = "jpeg", alpha: bool = False, deep: bool = False, size: tuple[int, int] = (2, 3)) -> Picture:
    dtype = np.uint16 if deep else np.uint8
    return Picture(np.zeros((*size, 3), dtype), np.zeros(size, dtype) if alpha else None, format=name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (picture("jpeg"), "jpeg"),
        (picture("png"), "png"),
        (picture("webp"), "webp"),
        (picture("tiff"), "tiff"),
        (picture("avif"), "avif"),
        (picture("bmp"), "png"),
        (picture("tiff", deep=True), "tiff"),
        (picture("png", deep=True), "png"),
        (picture("jpeg", deep=True), "png"),
        (picture("jpeg", alpha=True), "png"),
        (picture("webp", alpha=True), "webp"),
        (picture("webp", size=(1, 16384)), "png"),
        (picture("jpeg", size=(65501, 1)), "png"),
        (picture("avif", size=(1, 20000)), "png"),
    ],
)
def test_auto_is_the_pictures_own_format_where_it_can_carry_it(given: Picture, expected: str) -> None:
    assert choose_format(given, "auto", None) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "jpeg"),
        ("*/*", "jpeg"),
        ("image/*", "jpeg"),
        ("image/webp", "webp"),
        ("IMAGE/WebP ; q=0.5", "webp"),
        ("image/webp;q=0.5, image/png;q=0.9", "png"),
        ("image/webp, image/jpeg", "jpeg"),
        ("image/avif, image/webp", "avif"),
        ("image/webp, image/avif", "webp"),
        ("image/png, */*", "png"),
        ("image/png;q=0.2, */*", "jpeg"),
        ("image/jpeg;q=0, image/*", "png"),
        ("image/*;q=0, image/tiff", "tiff"),
        ("text/html, image/avif, image/webp, */*;q=0.8", "avif"),
        ("application/json, text/plain, */*", "jpeg"),
        ("application/json", "jpeg"),
        ("application/json, image/png", "png"),
        ("application/problem+json", "jpeg"),
        ("nonsense, ;;, image/png;q=abc", "jpeg"),
    ],
)
def test_accept_says_the_same_as_the_field(accept: str, expected: str) -> None:
    assert choose_format(picture("jpeg"), "auto", accept) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "*/*;q=0", "video/*, image/heic"])
def test_an_impossible_accept(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="image/png"):
        choose_format(picture(), "auto", accept)


def test_accept_passes_over_what_cannot_carry_the_picture() -> None:
    transparent = picture("png", alpha=True)
    assert choose_format(transparent, "auto", "image/jpeg, image/webp;q=0.3") == "webp"
    with pytest.raises(NotAcceptable):
        choose_format(transparent, "auto", "image/jpeg")


def test_the_field_wins_over_accept() -> None:
    assert choose_format(picture(), "webp", "image/png") == "webp"
    assert choose_format(picture(deep=True), "jpeg", None) == "jpeg"


def test_an_impossible_field() -> None:
    with pytest.raises(InvalidField, match="Did you mean `jpeg`") as caught:
        choose_format(picture(), "jpg", None)
    assert caught.value.field == "format"
    with pytest.raises(InvalidField, match="transparency"):
        choose_format(picture(alpha=True), "jpeg", None)
    with pytest.raises(InvalidField, match="16383 px of webp"):
        choose_format(picture(size=(1, 16384)), "webp", None)
