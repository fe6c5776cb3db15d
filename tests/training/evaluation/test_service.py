"""The evaluation's client against a real server on the loopback."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from training.evaluation.service import Service, ServiceProblem


class Mirror(BaseHTTPRequestHandler):
    """Answers with the picture turned over, or with a problem for a strength of 1; keeps the fields it got."""

    seen: list[tuple[str, dict[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        parts: Any = message.get_payload()
        fields = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}
        self.seen.append((self.path, fields))
        if fields.get("strength") == b"0.5":
            self.close_connection = True  # as a service that ends: no answer at all
            return
        if fields.get("strength") == b"0.75":
            self._answer(200, b"<html>")
            return
        if fields.get("strength") == b"1.0":
            self._answer(400, b'{"detail": "Too strong."}')
            return
        file = io.BytesIO()
        turned = ImageOps.mirror(Image.open(io.BytesIO(fields.pop("image"))))
        if self.path == "/segment":
            turned = turned.getchannel("R")
            if fields["model"] != b"person":
                turned.putpalette(bytes(range(256)) * 3)
        turned.save(file, "png")
        self._answer(200, file.getvalue())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Service(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    thread.join()
    server.server_close()


def test_pictures_travel_exactly(service: Service) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(service.denoise(picture, "photo", 0.25), picture[:, ::-1])
    path, fields = Mirror.seen[-1]
    assert path == "/denoise"
    assert fields == {"model": b"photo", "strength": b"0.25", "format": b"png"}
    service.denoise(picture, "photo", None)
    assert Mirror.seen[-1][1]["strength"] == b"auto"
    service.superres(picture, "photo", 3)
    assert Mirror.seen[-1][0] == "/superres"
    assert Mirror.seen[-1][1]["scale"] == b"3"


def test_masks_are_ids(service: Service) -> None:
    picture = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (5, 7, 3))
    assert np.array_equal(service.segment(picture, "person"), picture[:, ::-1, 0] // 255)
    path, fields = Mirror.seen[-1]
    assert path == "/segment"
    assert fields == {"model": b"person", "output": b"mask", "format": b"png"}
    picture = np.random.default_rng(0).integers(0, 12, (5, 7, 3), np.uint8)
    assert np.array_equal(service.segment(picture, "street"), picture[:, ::-1, 0])


def test_a_hole_is_sent_as_a_mask(service: Service) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    missing = np.zeros((5, 7), bool)
    missing[2, 3:5] = True
    assert np.array_equal(service.inpaint(picture, missing, "ns"), picture[:, ::-1])
    path, fields = Mirror.seen[-1]
    assert path == "/inpaint"
    mask = np.asarray(Image.open(io.BytesIO(fields.pop("mask"))))
    assert np.array_equal(mask, missing * np.uint8(255))
    assert fields == {"method": b"ns", "model": b"", "format": b"png"}
    assert np.array_equal(service.inpaint(picture[..., 0], missing, "dcgan"), picture[:, ::-1, 0])


def test_a_problem_is_told_in_the_services_words(service: Service) -> None:
    with pytest.raises(ServiceProblem, match=r"returned 400: Too strong\."):
        service.denoise(np.zeros((2, 2, 3), np.uint8), "photo", 1.0)


def test_nobody_there() -> None:
    with pytest.raises(ServiceProblem, match="cannot connect"):
        Service("http://127.0.0.1:1").superres(np.zeros((2, 2, 3), np.uint8), "photo", 2)


@pytest.mark.parametrize("strength", [0.5, 0.75])
def test_an_answer_that_is_no_picture_is_a_problem(service: Service, strength: float) -> None:
    with pytest.raises(ServiceProblem, match="did not return a picture"):
        service.denoise(np.zeros((2, 2, 3), np.uint8), "photo", strength)


def test_what_is_no_address_is_a_problem() -> None:
    with pytest.raises(ServiceProblem, match="nonsense"):
        Service("nonsense").superres(np.zeros((2, 2, 3), np.uint8), "photo", 2)
