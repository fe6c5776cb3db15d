"""The soak test finds what it is there to find."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import httpx
import numpy as np
import pytest

from benchmarks.costed import SimulatedLoader
from benchmarks.soak import Ask, Pixels, Soak, alike, compared, large, opened, small, written
from tests.app.api.service import serving
from tests.model_repository import manifest, photo_signatures

MAKE = partial(small, seed=3, style="any")


def answer(pixels: Pixels, form: str = "PNG") -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": f"image/{form.lower()}"}, content=written(pixels, form))


def good(number: int) -> Ask:
    """Return the request of this number or the next whose answer has its colors."""
    return next(ask for ask in map(MAKE, range(number, number + 99)) if ask.keeps and ask.path == "/inpaint")


def test_all_of_a_request_follows_from_its_number() -> None:
    for number in range(50):
        one, same = MAKE(number), MAKE(number)
        assert (one.path, one.fields, one.files) == (same.path, same.fields, same.files)
    kinds = [MAKE(number) for number in range(400)]
    assert {ask.path for ask in kinds} == {"/denoise", "/superres", "/segment", "/inpaint", "/stylize"}
    assert {ask.death for ask in kinds} == {"", "sending", "waiting", "reading"}
    assert len({ask.refusal for ask in kinds}) == 6
    assert any(ask.job for ask in kinds)


def test_the_answer_of_another_is_seen() -> None:
    ask = good(0)
    assert compared(ask, answer(ask.pixels)) == ""
    assert compared(ask, answer(ask.pixels, "JPEG")) == ""
    assert "and not" in compared(ask, answer(ask.pixels[:-1]))
    others = [replace(good(number), size=ask.size).pixels for number in range(100, 1100, 100)]
    sized = [np.resize(other, ask.pixels.shape) for other in others]
    assert all("colors of another" in compared(ask, answer(other)) for other in sized)


def test_two_answers_that_differ_are_seen() -> None:
    pixels = good(0).pixels
    nearly = pixels.copy()
    nearly[0, 0] ^= 1
    assert alike(answer(pixels), answer(nearly))
    assert not alike(answer(pixels), answer(255 - pixels))
    assert not alike(answer(pixels), answer(pixels, "JPEG"))


def test_a_small_soak_over_a_model_of_known_cost_finds_nothing() -> None:
    photo = manifest(name="photo", signatures=photo_signatures(), default=True)
    model = SimulatedLoader(0.001, 0.01).load(manifest=photo, folder=None, device="CPU:0")  # type: ignore[arg-type]
    with serving({"photo": model}, models=(photo,)) as service:
        make = lambda number: reduced(large(number, seed=2))
        soak = Soak(f"http://127.0.0.1:{service.port}", os.getpid(), make, 60, 10)
        soak.run(4)
        assert soak.wrong == []
        assert soak.counts["answered"] > 30
        assert soak.counts["refused"]
        assert soak.counts["died"]
        assert soak.counts["byte for byte"] == soak.counts["sent again"] >= 5


def reduced(ask: Ask) -> Ask:
    """Return the request with a twentieth of its picture, unless it is meant to be broken."""
    if ask.refusal:
        return ask
    pixels = ask.pixels[::20, ::20]
    return replace(ask, pixels=pixels, size=pixels.shape[1::-1], files={"image": written(pixels, "PNG")})


@pytest.mark.parametrize("number", range(3))
def test_a_large_picture_is_large(number: int) -> None:
    ask = large(number, seed=0)
    assert ask.pixels.shape[0] * ask.pixels.shape[1] >= 1_000_000
    if not ask.refusal:
        data = httpx.Response(200, headers={"Content-Type": "image/jpeg"}, content=ask.files["image"])
        assert opened(data).shape == ask.pixels.shape
