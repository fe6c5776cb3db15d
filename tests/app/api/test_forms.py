from __future__ import annotations

import io

from app.api.forms import Upload


def mark(data: bytes) -> tuple[int, int]:
    return Upload(io.BytesIO(data), len(data), "picture.jpg").mark()


def test_a_file_has_one_mark_and_another_of_its_size_has_another() -> None:
    for size in (3, 200_000):  # shorter than what is summed up, and longer
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert mark(data) == mark(bytes(data))
        assert mark(data)[0] == size
        assert mark(data) != mark(data[:-1] + b"x")
        assert mark(data) != mark(data[:-1])


def test_marks_leave_the_file_to_be_read() -> None:
    upload = Upload(io.BytesIO(b"picture"), 7, "picture.jpg")
    upload.mark()
    assert upload.read() == b"picture"
