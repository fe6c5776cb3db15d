"""The soak test detects lost, swapped and different answers."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import httpx
import numpy as np
import pytest

from benchmarks.simulated_service import SimulatedLoader
from benchmarks.soak import (
    Pixels,
    Soak,
    SoakRequest,
    agree,
    check_answer,
    encode,
    make_large_request,
    make_small_request,
    open_picture,
)
from tests.app.api.service import serving
from tests.model_repository import manifest, photo_signatures

MAKE = partial(make_small_request, seed=3, style="any")


def answer(pixels: Pixels, form: str = "PNG") -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": f"image/{form.lower()}"}, content=encode(pixels, form))


def find_valid(number: int) -> SoakRequest:
    """Return the first request from this number on whose answer has the picture's colors."""
    return next(
        request
        for request in map(MAKE, range(number, number + 99))
        if request.keeps_colors and request.path == "/inpaint"
    )


def test_a_request_depends_only_on_its_number() -> None:
    for number in range(50):
        one, same = MAKE(number), MAKE(number)
        assert (one.path, one.fields, one.files) == (same.path, same.fields, same.files)
    kinds = [MAKE(number) for number in range(400)]
    assert {request.path for request in kinds} == {"/denoise", "/superres", "/segment", "/inpaint", "/stylize"}
    assert {request.disconnect for request in kinds} == {"", "sending", "waiting", "reading"}
    assert len({request.refusal for request in kinds}) == 6
    assert any(request.job for request in kinds)


def test_a_swapped_answer_is_detected() -> None:
    request = find_valid(0)
    assert check_answer(request, answer(request.pixels)) == ""
    assert check_answer(request, answer(request.pixels, "JPEG")) == ""
    assert "and not" in check_answer(request, answer(request.pixels[:-1]))
    others = [replace(find_valid(number), size=request.size).pixels for number in range(100, 1100, 100)]
    sized = [np.resize(other, request.pixels.shape) for other in others]
    assert all("colors of another" in check_answer(request, answer(other)) for other in sized)


def test_different_answers_are_detected() -> None:
    pixels = find_valid(0).pixels
    nearly = pixels.copy()
    nearly[0, 0] ^= 1
    assert agree(answer(pixels), answer(nearly))
    assert not agree(answer(pixels), answer(255 - pixels))
    assert not agree(answer(pixels), answer(pixels, "JPEG"))


@pytest.mark.integration
def test_a_small_soak_has_no_failures() -> None:
    photo = manifest(name="photo", signatures=photo_signatures(), default=True)
    model = SimulatedLoader(0.001, 0.01).load(manifest=photo, folder=None, device="CPU:0")  # type: ignore[arg-type]
    with serving({"photo": model}, models=(photo,)) as service:
        make = lambda number: shrink(make_large_request(number, seed=2))
        soak = Soak(f"http://127.0.0.1:{service.port}", os.getpid(), make, 60, 10)
        soak.run(4)
        assert soak.failures == []
        assert soak.counts["answered"] > 30
        assert soak.counts["refused"]
        assert soak.counts["disconnected"]
        assert soak.counts["identical"] == soak.counts["repeated"] >= 5


def shrink(request: SoakRequest) -> SoakRequest:
    """Return the request with every 20th pixel of its picture, unless it is meant to be refused."""
    if request.refusal:
        return request
    pixels = request.pixels[::20, ::20]
    return replace(request, pixels=pixels, size=pixels.shape[1::-1], files={"image": encode(pixels, "PNG")})


@pytest.mark.parametrize("number", range(3))
def test_a_large_picture_is_make_large_request(number: int) -> None:
    request = make_large_request(number, seed=0)
    assert request.pixels.shape[0] * request.pixels.shape[1] >= 1_000_000
    if not request.refusal:
        data = httpx.Response(200, headers={"Content-Type": "image/jpeg"}, content=request.files["image"])
        assert open_picture(data).shape == request.pixels.shape
