"""Answers of two versions of the service are compared by their facts and by their pixels."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from scripts import compare_answers
from scripts.compare_answers import Answer


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def answer(pixels: np.ndarray, **headers: str) -> Answer:
    return compare_answers.describe(
        httpx.Response(200, headers={"Content-Type": "image/png", **headers}, content=png(pixels))
    )


def test_the_largest_pixel_difference_is_named() -> None:
    before = np.full((4, 4, 3), 100, np.uint8)
    after = before.copy()
    after[0, 0, 0] = 103
    lines = list(compare_answers.differences({"a": answer(before)}, {"a": answer(after)}))
    assert "a: pixels: at most 3 apart, in 2.083% of the values" in lines


def test_equal_answers_have_no_difference() -> None:
    pixels = np.zeros((4, 4), np.uint16)
    assert not list(compare_answers.differences({"a": answer(pixels)}, {"a": answer(pixels)}))


def test_headers_json_and_missing_answers_are_compared() -> None:
    pixels = np.zeros((4, 4), np.uint8)
    table = [
        compare_answers.describe(httpx.Response(200, json={"classes": [{"pixels": count}], "timing": {"total": count}}))
        for count in (1, 2)
    ]
    before = {"a": answer(pixels, **{"X-Model": "one"}), "gone": answer(pixels), "table": table[0]}
    after = {"a": answer(pixels, **{"X-Model": "two"}), "table": table[1]}
    assert list(compare_answers.differences(before, after)) == [
        'a: headers.X-Model: "one" -> "two"',
        "gone: only in the first file",
        "table: json.classes[0].pixels: 1 -> 2",
    ]


def test_a_picture_in_an_envelope_counts_as_a_picture() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = compare_answers.describe(
        httpx.Response(200, json={"image": base64.b64encode(png(pixels)).decode(), "width": 4})
    )
    assert found.pixels is not None
    assert np.array_equal(found.pixels, pixels)
    assert found.facts["json"] == {"width": 4}


def test_answers_are_read_as_they_were_saved(tmp_path: Path) -> None:
    answers = {"a, b": answer(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)), "c": Answer({"status": 404})}
    compare_answers.save(answers, tmp_path / "answers.json")
    assert not list(compare_answers.differences(answers, compare_answers.read(tmp_path / "answers.json")))


@pytest.mark.parametrize("name", compare_answers.QUESTIONS)
def test_every_request_names_pictures_that_exist(name: str) -> None:
    question = compare_answers.QUESTIONS[name]
    for file in question.files.values():
        assert file in compare_answers.GENERATED or (compare_answers.IMAGES / file).exists()


def test_without_a_service_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Port 1 of this machine: nobody listens there.
    program = ["compare_answers", "ask", str(tmp_path / "answers.json"), "--url", "http://127.0.0.1:1"]
    monkeypatch.setattr(sys, "argv", program)
    with pytest.raises(SystemExit, match=r"cannot connect to http://127\.0\.0\.1:1") as ended:
        compare_answers.main()
    assert "\n" not in str(ended.value)
