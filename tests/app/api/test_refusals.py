"""Each problem that these endpoints can meet is provoked here, in its own form, and the next request works."""

from __future__ import annotations

import concurrent.futures
import errno
import http.client
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.datastructures import UploadFile
from structlog.testing import capture_logs

from app.api import problems
from tests.app.api import test_jobs
from tests.app.api.service import Service, file, gradient, hole, png, serving, wait_until
from tests.engines import Failing, Slow


def refused(answer: httpx.Response, slug: str, **members: Any) -> dict[str, Any]:
    """Check that `answer` is the problem `slug` with these members, and return its body."""
    row = problems.BY_SLUG[slug]
    assert answer.status_code == row.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"/problems/{slug}", body
    assert body["title"] == row.title
    assert body["status"] == row.status
    assert body["instance"] == answer.headers["x-request-id"]
    assert body["detail"].endswith((".", "?")), body["detail"]
    assert "/tmp" not in body["detail"]
    assert "0x" not in body["detail"]
    assert ("retry_after" in body) == ("retry-after" in answer.headers)
    assert {name: body.get(name) for name in members} == members
    return body


@pytest.fixture(autouse=True)
def next_request_works(service: Service) -> Iterator[None]:
    yield
    answer = service.denoise()
    assert answer.status_code == 200, answer.text


def multipart(*parts: bytes, boundary: bytes = b"xyz", end: bytes = b"--xyz--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'Content-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content


def post(service: Service, body: bytes, content_type: str = "multipart/form-data; boundary=xyz") -> httpx.Response:
    return service.client.post("/denoise", content=body, headers={"Content-Type": content_type})


# The form


def test_missing_picture(service: Service) -> None:
    refused(post(service, multipart(part("strength", b"auto"))), "missing-field", field="image")
    refused(post(service, multipart(part("image", b"", "a.png"))), "missing-field", field="image")
    refused(post(service, multipart(part("image", b"", ""))), "missing-field", field="image")
    refused(post(service, multipart(part("image", b""))), "missing-field", field="image")


@pytest.mark.parametrize(
    ("path", "sent", "meant"),
    [
        ("/denoise", "strenght", "strength"),
        ("/denoise", "Quality", "quality"),
        ("/denoise", "noise_level", "strength"),
        ("/denoise", "xyz", ""),
        ("/denoise", "factor", ""),  # a name for `scale`, which this endpoint does not have
        ("/superres", "upscale", "scale"),
        ("/superres", "outscale", "scale"),
        ("/segment", "bg-color", "background"),
        ("/inpaint", "mask_image", "mask"),
        ("/stylize", "iterations", "steps"),
    ],
)
def test_unknown_field_names_the_nearest(service: Service, path: str, sent: str, meant: str) -> None:
    body = refused(service.send(path, **{sent: "1"}), "unknown-field", field=sent)
    assert body["detail"].startswith(f"Unknown field `{sent}`.")
    assert (f"Did you mean `{meant}`?" if meant else "The fields are image, model") in body["detail"]


@pytest.mark.parametrize(
    "sent", ["file", "img", "Photo", "picture", "upload", "input", "image_file", "images[]", "imgae"]
)
def test_a_picture_in_a_field_of_another_name(service: Service, sent: str) -> None:
    answer = service.client.post("/denoise", files={sent: ("a.png", png())})
    body = refused(answer, "unknown-field", field=sent)
    assert body["detail"] == f"Unknown field `{sent}`. Did you mean `image`?"


@pytest.mark.parametrize(
    ("path", "field", "value", "told"),
    [
        ("/denoise", "strength", "loud", "auto or a number from 0 to 1"),
        ("/denoise", "strength", "1.01", "auto or a number from 0 to 1"),
        ("/denoise", "strength", "nan", "auto or a number from 0 to 1"),
        ("/denoise", "preserve", "-0.1", "a number from 0 to 1"),
        ("/denoise", "preserve", "1e999", "a number from 0 to 1"),
        ("/denoise", "quality", "0", "a whole number from 1 to 100"),
        ("/denoise", "quality", "9" * 5000, "a whole number from 1 to 100"),
        ("/denoise", "quality", "50.5", "a whole number from 1 to 100"),
        ("/denoise", "lossless", "perhaps", "true or false"),
        ("/denoise", "format", "gif", "auto, png, jpeg, webp, tiff or avif"),
        ("/denoise", "metadata", "all", "keep, color or strip"),
        ("/denoise", "model", "m" * 141, "a text of at most 140 characters"),
        ("/superres", "scale", "5", "2, 3 or 4"),
        ("/superres", "scale", "two", "2, 3 or 4"),
        ("/superres", "scale", "4", "Scales: 2, 3"),
        ("/superres", "scale", "٣", "2, 3 or 4"),
        ("/segment", "output", "masks", "mask, cutout, overlay or json"),
        ("/segment", "background", "red", "transparent or a color as #rrggbb"),
        ("/segment", "opacity", "2", "a number from 0 to 1"),
        ("/segment", "threshold", "half", "a number from 0 to 1"),
        ("/inpaint", "method", "magic", "auto, exemplar, neural, dcgan, telea, ns or biharmonic"),
        ("/inpaint", "radius", "0", "a whole number from 1 to 64"),
        ("/inpaint", "feather", "65", "a whole number from 0 to 64"),
        ("/inpaint", "mask_from", "picture", "file or alpha"),
        ("/stylize", "method", "slow", "fast or optimize"),
        ("/stylize", "strength", "1.1", "a number from 0 to 1"),
        ("/stylize", "steps", "9", "a whole number from 10 to 2000"),
        ("/stylize", "preserve_color", "maybe", "true or false"),
    ],
)
def test_invalid_values_say_what_is_allowed(service: Service, path: str, field: str, value: str, told: str) -> None:
    body = refused(service.send(path, **{field: value}), "invalid-field", field=field)
    assert told in body["detail"]
    assert len(body["detail"]) < 300


def test_a_field_that_came_twice(service: Service) -> None:
    picture = part("image", png(), "a.png")
    twice = multipart(picture, part("strength", b"1"), part("strength", b"1"))
    refused(post(service, twice), "invalid-field", field="strength")
    refused(post(service, multipart(picture, picture)), "invalid-field", field="image")


def test_files_and_texts_in_each_others_place(service: Service) -> None:
    refused(post(service, multipart(part("image", b"hello"))), "invalid-field", field="image")
    swapped = multipart(part("image", png(), "a.png"), part("strength", b"auto", "s.txt"))
    refused(post(service, swapped), "invalid-field", field="strength")


def test_result_in_a_format_that_cannot_carry_it(service: Service) -> None:
    see_through = file(np.zeros((8, 8, 4), np.uint8))
    refused(service.denoise(see_through, format="jpeg"), "invalid-field", field="format")


def test_cutout_in_a_format_without_transparency(service: Service) -> None:
    refused(service.send("/segment", output="cutout", format="jpeg"), "invalid-field", field="format")
    assert service.send("/segment", output="cutout", format="jpeg", background="#00ff00").status_code == 200


def test_mask_of_classes_in_a_format_that_changes_ids(service: Service) -> None:
    for form in ("jpeg", "webp", "avif"):
        body = refused(service.send("/segment", model="lights", format=form), "invalid-field", field="format")
        assert "holds class ids" in body["detail"]


def test_unknown_class_names_the_nearest(service: Service) -> None:
    body = refused(service.send("/segment", classes="lihgt"), "unknown-class", field="classes")
    assert "Did you mean `light`?" in body["detail"]


def test_fields_that_exclude_each_other(service: Service) -> None:
    refused(service.send("/segment", background="#000000"), "conflicting-fields", field="background")
    refused(service.send("/segment", output="json", format="png"), "conflicting-fields", field="format")
    files = {"image": ("a.png", png()), "background_image": ("b.png", png())}
    texts = {"output": "cutout", "background": "#000000"}
    refused(service.client.post("/segment", files=files, data=texts), "conflicting-fields", field="background")


def test_the_other_picture_of_a_form_is_named(service: Service) -> None:
    broken = {"image": ("a.png", png()), "background_image": ("b.png", png()[:60])}
    answer = service.client.post("/segment", files=broken, data={"output": "cutout"})
    refused(answer, "broken-image", field="background_image")
    text = multipart(part("image", png(), "a.png"), part("background_image", b"blue"))
    answer = service.client.post(
        "/segment", content=text, headers={"Content-Type": "multipart/form-data; boundary=xyz"}
    )
    refused(answer, "invalid-field", field="background_image")


def test_masks_that_cannot_be(service: Service) -> None:
    refused(service.send("/inpaint"), "missing-field", field="mask")
    refused(service.send("/inpaint", mask=b""), "missing-field", field="mask")
    refused(service.send("/inpaint", mask=png()[:60]), "broken-image", field="mask")
    refused(service.send("/inpaint", mask=hole(40, 24)), "mask-size", field="mask", value="24×40", limit="40×24")
    refused(service.send("/inpaint", mask=file(np.zeros((24, 40, 1), np.uint8))), "mask-empty", field="mask")
    refused(service.send("/inpaint", mask=file(np.ones((24, 40, 1), np.uint8))), "mask-full", field="mask")
    see_through = file(np.zeros((24, 40, 4), np.uint8))
    refused(service.send("/inpaint", see_through, mask_from="alpha"), "mask-full", field="mask_from")


def test_fields_of_inpaint_that_exclude_each_other(service: Service) -> None:
    def conflict(field: str, **fields: Any) -> None:
        refused(service.send("/inpaint", **fields), "conflicting-fields", field=field)

    conflict("mask_from", mask_from="alpha", mask=hole())
    conflict("mask_from", mask_from="alpha")  # the picture is opaque
    conflict("radius", method="biharmonic", radius=4, mask=hole())
    conflict("model", model="photo", method="telea", mask=hole())
    for method in ("neural", "biharmonic"):  # Swagger UI sends every field, with its default
        assert service.send("/inpaint", method=method, radius=3, mask=hole()).status_code == 200


def test_styles_that_cannot_be(service: Service) -> None:
    refused(service.send("/stylize"), "missing-field", field="style")
    refused(service.send("/stylize", style_image=png()[:60]), "broken-image", field="style_image")
    refused(service.send("/stylize", style_image=png(), style="starry-night"), "conflicting-fields", field="style")
    refused(service.send("/stylize", style="starry-night", steps=20), "conflicting-fields", field="steps")
    refused(service.send("/stylize", style="starry-night", method="optimize"), "conflicting-fields", field="method")
    body = refused(service.send("/stylize", style="stary-night"), "unknown-style", field="style")
    assert "Did you mean `starry-night`? Styles: starry-night, green-field." in body["detail"]
    body = refused(service.send("/stylize", style_image=png(), method="optimize"), "weights-missing", field="method")
    assert "`python -m training publish vgg19`" in body["detail"]


def test_too_large_a_hole_for_a_method(service: Service) -> None:
    large = np.zeros((700, 700, 1), np.uint8)
    large[100:600, 100:600] = 255
    picture, mask = png(700, 700), file(large)
    body = refused(service.send("/inpaint", picture, mask=mask, method="ns", radius=64), "work-too-large")
    assert body["limit"] == 250_000_000
    body = refused(service.send("/inpaint", picture, mask=mask, method="biharmonic"), "work-too-large", field="method")
    assert body["limit"] == 160_000


def test_table_for_a_caller_that_takes_pictures_only(service: Service) -> None:
    answer = service.send("/segment", output="json", headers={"Accept": "image/png"})
    refused(answer, "not-acceptable")


def test_result_that_grows_out_of_its_format_is_refused_before_the_work() -> None:
    slow = Slow()
    with serving({"nearest": slow}, settled=False) as service:
        assert slow.entered.wait(20)  # its warm-up: the device is taken until the end
        try:
            long = file(np.zeros((2, 9000, 3), np.uint8))
            refused(service.send("/superres", long, scale=2, format="webp"), "invalid-field", field="format")
            refused(service.send("/superres", long, scale=2, headers={"Accept": "image/webp"}), "not-acceptable")
        finally:
            slow.gate.set()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", multipart(part("image", b"x", "a.png"))),
        ("multipart/form-data; boundary=", multipart(part("image", b"x", "a.png"))),
        ("multipart/form-data; boundary=xyz", b""),
        ("multipart/form-data; boundary=xyz", b"--xyz"),
        ("multipart/form-data; boundary=xyz", b"not a form at all"),
        ("multipart/form-data; boundary=xyz", multipart(part("image", b"x", "a.png"), end=b"")),
        ("multipart/form-data; boundary=xyz", multipart(part("image", b"x" * 1000, "a.png"))[:-400]),
        ("multipart/form-data; boundary=xyz", multipart(b"Content-Type: image/png\r\n\r\nx")),
        ("multipart/form-data; boundary=xyz", multipart(part("strength", b"1" * 70_000))),
        ("multipart/form-data; boundary=xyz", multipart(*[part(f"f{i}", b"1") for i in range(40)])),
        ("multipart/form-data; boundary=xyz", multipart(*[part("image", b"1", "a") for i in range(40)])),
        ("multipart/form-data; boundary=xyz", multipart(b"X: " + b"y" * 100_000 + b"\r\n\r\nx")),
        ("multipart/form-data; boundary=xyz; charset=utf-7", multipart(part("strength", b"1"))),
        ("multipart/form-data; boundary=xyz; charset=punycode", multipart(part("strength", b"\xff"))),
        ("application/json", b"{}"),
        ("image/png", png()),
        ("application/x-www-form-urlencoded", b"image=x"),
        ("", b""),
    ],
)
def test_malformed_requests(service: Service, content_type: str, body: bytes) -> None:
    refused(post(service, body, content_type), "malformed-request")


@pytest.mark.parametrize("value", ["soon", "-1s", "0", "1h", "1e3", "", "9" * 400])
def test_malformed_cancel_after(service: Service, value: str) -> None:
    refused(service.denoise(headers={"Cancel-After": value}), "malformed-request", field="Cancel-After")


# The picture


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7", b"8BPS" + b"\0" * 20, bytes(100), b"<svg/>"])
def test_unsupported_image(service: Service, data: bytes) -> None:
    refused(service.denoise(data), "unsupported-image", field="image")


def test_broken_image(service: Service) -> None:
    whole = png(200, 200)
    refused(service.denoise(whole[: len(whole) // 2]), "broken-image", field="image")
    refused(service.denoise(whole[:30]), "broken-image", field="image")


def test_animated_image(service: Service) -> None:
    frames = [Image.fromarray(gradient()), Image.fromarray(gradient()[::-1])]
    animation = file(gradient(), "webp", save_all=True, append_images=frames)
    refused(service.denoise(animation), "animated-image", field="image")


def test_wrong_size(service: Service) -> None:
    body = refused(service.denoise(model="digits"), "wrong-size", field="image")
    assert "28×28" in body["detail"]


def test_too_many_pixels_from_the_header_alone(service: Service) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = refused(service.denoise(bomb + bytes(100)), "too-many-pixels", field="image", limit=1_000_000)
    assert body["value"] == 2_500_000_000


def test_result_too_large(service: Service) -> None:
    refused(service.send("/superres", png(400, 400), scale=3), "result-too-large", value=1_440_000, limit=1_000_000)


def test_unknown_model_names_the_nearest(service: Service) -> None:
    assert "Did you mean `photo`?" in refused(service.denoise(model="photos"), "unknown-model", field="model")["detail"]
    refused(service.denoise(model="photo@7"), "unknown-model", field="model")
    refused(service.denoise(model="../../etc/passwd"), "unknown-model", field="model")
    refused(service.denoise(model="nearest"), "unknown-model", field="model")


def test_not_acceptable(service: Service) -> None:
    refused(service.denoise(headers={"Accept": "image/gif"}), "not-acceptable")
    refused(service.denoise(headers={"Accept": "text/html"}), "not-acceptable")
    see_through = file(np.zeros((8, 8, 4), np.uint8))
    refused(service.denoise(see_through, headers={"Accept": "image/jpeg"}), "not-acceptable")


# The address


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/denoise/",
        "/docs/x.js",
        "/docs/..%2f..%2fmain.py",
        "/models/a/b/c",
        "/models/denoise/none",
        "/models/denoise/photo@9",
        "/models/denoise/photo%00",
        "/problems/none",
    ],
)
def test_not_found(service: Service, path: str) -> None:
    refused(service.client.get(path), "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/denoise", "POST"),
        ("DELETE", "/models", "GET, HEAD"),
        ("PATCH", "/livez", "GET, HEAD"),
        ("PUT", "/jobs/1", "DELETE, GET, HEAD"),
    ],
)
def test_method_not_allowed(service: Service, method: str, path: str, allowed: str) -> None:
    answer = service.client.request(method, path)
    refused(answer, "method-not-allowed")
    assert answer.headers["allow"] == allowed


# Size and time


def test_upload_too_large_when_announced(service: Service) -> None:
    refused(service.denoise(bytes(5 * 2**20)), "upload-too-large", limit=4 * 2**20)


def test_upload_too_large_when_chunked_without_end(service: Service) -> None:
    def endless() -> Iterator[bytes]:
        yield multipart(part("image", b"", "a.png"), end=b"")[:-2]
        for _ in range(1000):
            yield bytes(2**16)

    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    answer = service.client.post("/denoise", content=endless(), headers=headers)
    refused(answer, "upload-too-large", limit=4 * 2**20)


def test_request_timeout_for_a_body_that_stops() -> None:
    with serving(body_timeout_s=2.0) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
        connection.putrequest("POST", "/denoise")
        connection.putheader("Content-Type", "multipart/form-data; boundary=xyz")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"--xyz\r\n")
        told = connection.getresponse()
        refused(httpx.Response(told.status, headers=told.getheaders(), content=told.read()), "request-timeout")
        assert told.getheader("Connection") == "close"
        connection.close()
        assert service.denoise().status_code == 200


def test_deadline_exceeded_by_cancel_after_and_by_the_setting() -> None:
    slow = Slow()
    with serving({"slow": slow}, request_timeout_s=1.0) as service:
        answer = service.denoise(model="slow", headers={"Cancel-After": "100ms"})
        refused(answer, "deadline-exceeded")
        refused(service.denoise(model="slow"), "deadline-exceeded")
        assert service.pipeline.engine.schedulers["CPU:0"].depth == 0
        slow.gate.set()
        assert service.denoise().status_code == 200


# Other callers, and the service itself


def test_unauthorized() -> None:
    with serving(api_keys=("right", "other")) as service:
        wrong = {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}
        for headers in ({}, *wrong):
            answer = service.denoise(headers=headers)
            refused(answer, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        refused(service.client.get("/models"), "unauthorized")
        refused(service.client.get("/metrics"), "unauthorized")
        refused(service.client.get("/nothing"), "unauthorized")
        for headers in ({"X-API-Key": "right"}, {"Authorization": "Bearer other"}, {"Authorization": "bearer right"}):
            assert service.denoise(headers=headers).status_code == 200
        for path in ("/livez", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/problems/unauthorized"):
            assert service.client.get(path).status_code == 200
        assert service.client.get("/readyz").status_code in (200, 503)


def test_too_many_requests() -> None:
    with serving(rate_limit="2/hour", cors_origins=("https://example.org",)) as service:
        answers = [service.denoise(), service.denoise(nonsense="1"), service.client.get("/models")]
        assert [answer.status_code for answer in answers] == [200, 422, 429]
        for answer, remaining in zip(answers, (1, 0, 0), strict=True):
            assert answer.headers["ratelimit-policy"] == '"default";q=2;w=3600'
            rate = re.fullmatch(r'"default";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
            assert rate
            assert int(rate[1]) == remaining
            assert 1700 < int(rate[2]) <= 1800
        body = refused(answers[2], "too-many-requests", limit=2)
        assert body["retry_after"] == int(answers[2].headers["retry-after"])
        assert answers[2].headers["ratelimit"] == f'"default";r=0;t={body["retry_after"]}'
        free = service.client.get("/livez", headers={"Origin": "https://example.org"})
        assert free.status_code == 200
        assert not {"ratelimit", "ratelimit-policy"} & set(free.headers)
        exposed = set(free.headers["access-control-expose-headers"].split(", "))
        assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= exposed


def test_without_a_rate_limit_no_header_speaks_of_one(service: Service) -> None:
    assert not {"ratelimit", "ratelimit-policy"} & set(service.client.get("/models").headers)


def test_overloaded_when_too_many_are_here() -> None:
    slow = Slow()
    with (
        serving({"slow": slow}, decoded_megapixels=0.0001, max_requests=2) as service,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(service.denoise, model="slow")
        assert slow.entered.wait(20)
        others = [pool.submit(service.denoise, model="slow") for _ in range(2)]
        done, _ = concurrent.futures.wait(others, 20, concurrent.futures.FIRST_COMPLETED)
        body = refused(done.pop().result(), "overloaded", limit=2)
        assert body["retry_after"] >= 1
        slow.gate.set()
        assert first.result().status_code == 200
        assert sorted(other.result().status_code for other in others) == [200, 503]
        assert service.denoise().status_code == 200


def test_one_caller_leaves_room_for_others() -> None:
    slow = Slow()
    with (
        serving({"slow": slow}, max_requests=8, api_keys=("greedy", "polite")) as service,
        concurrent.futures.ThreadPoolExecutor(20) as pool,
    ):
        greedy, polite = ({"X-API-Key": key} for key in ("greedy", "polite"))
        asked = [pool.submit(service.denoise, model="slow", headers=greedy) for _ in range(12)]
        wait_until(lambda: sum(one.done() for one in asked) == 6)
        assert service.concurrency.count == 6
        refused(service.denoise(model="slow", headers=greedy), "overloaded", limit=8)
        other = pool.submit(service.denoise, model="slow", headers=polite)
        wait_until(lambda: service.concurrency.count == 7)
        slow.gate.set()
        assert other.result().status_code == 200
        assert sorted(one.result().status_code for one in asked) == [200] * 6 + [503] * 6


@pytest.mark.integration
def test_an_answer_that_is_not_taken_counts_as_a_picture_that_is_here() -> None:
    noise = file(np.random.default_rng(1).integers(0, 256, (1600, 1600, 3), np.uint8))  # more than a socket holds
    with serving(max_requests=1) as service, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", service.port))
        body = multipart(part("model", b"identity"), part("image", noise, "a.png"))
        head = f"POST /denoise HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
        raw.sendall(f"{head}Content-Type: multipart/form-data; boundary=xyz\r\n\r\n".encode() + body)
        assert raw.recv(12) == b"HTTP/1.1 200"
        refused(service.denoise(), "overloaded", limit=1)
        raw.close()
        statuses = {service.denoise().status_code for _ in range(50)}
        assert 200 in statuses


def test_overloaded_when_the_disk_is_full(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(UploadFile, "write", full)
        refused(service.denoise(), "overloaded")


def test_model_unavailable(service: Service) -> None:
    refused(service.denoise(model="lost"), "model-unavailable")
    with serving({"failing": Failing()}) as other:
        refused(other.denoise(model="failing"), "model-unavailable")
        assert other.denoise().status_code == 200


def test_shutting_down(service: Service) -> None:
    with serving() as other:
        other.shutdown.closing = True
        refused(other.denoise(), "shutting-down")
        assert other.client.get("/readyz").status_code == 503
        other.shutdown.closing = False
        assert other.denoise().status_code == 200


def test_internal_error_tells_nothing_but_the_request_id(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any) -> None:
        raise RuntimeError("secret at 0x7f00")

    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(service.pipeline.engine, "find", explode)
            answer = service.denoise()
        refused(answer, "internal-error")
    assert "secret" not in answer.text
    [entry] = [entry for entry in logs if entry["event"] == "internal error"]
    assert entry["request_id"] == answer.headers["x-request-id"]


def test_a_caller_that_goes_away_has_its_work_taken_off_the_queue() -> None:
    slow = Slow()
    with serving({"slow": slow}) as service:
        scheduler = service.pipeline.engine.schedulers["CPU:0"]
        picture = png(200, 200)  # more tiles than go to the device at once
        body = multipart(part("model", b"slow"), part("image", picture, "a.png"))
        raw = socket.create_connection(("127.0.0.1", service.port), 20)
        head = f"POST /denoise HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
        raw.sendall(f"{head}Content-Type: multipart/form-data; boundary=xyz\r\n\r\n".encode() + body)
        assert slow.entered.wait(20)
        raw.close()
        for _ in range(200):  # each look is a round trip to the service
            if service.client.get("/livez").status_code == 200 and scheduler.depth == 0:
                break
        assert scheduler.depth == 0
        slow.gate.set()
        assert service.denoise().status_code == 200
        assert service.pipeline.budget.used == 0


def test_every_documented_problem_is_provoked_here(service: Service) -> None:
    documented = set(re.findall(r"/problems/([a-z-]+)", service.client.get("/openapi.json").text))
    source = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__), Path(test_jobs.__file__)))
    assert len(documented) > 15
    assert [slug for slug in documented if f', "{slug}"' not in source] == []
