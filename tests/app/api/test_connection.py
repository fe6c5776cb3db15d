"""What is not well-formed HTTP/1.1 gets a problem document, and nobody can hide a second request in a first."""

from __future__ import annotations

import json
import re
import socket
import struct
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.api import problems
from app.api.connection import MAX_HEAD_BYTES
from tests.app.api.service import Service, png
from tests.app.api.test_refusals import multipart, part

HOST = b"Host: a\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"


def talk(service: Service, *pieces: bytes) -> bytes:
    """Send these pieces on one connection, and return all that comes back until the service closes it."""
    received = b""
    with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
        for piece in pieces:
            raw.sendall(piece)
        while piece := raw.recv(2**16):
            received += piece
    return received


def split(answer: bytes) -> tuple[str, dict[str, str], Any]:
    """Return the status with its phrase, the headers and the JSON of one response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(body) == int(headers["content-length"])
    return first.removeprefix("HTTP/1.1 "), headers, json.loads(body)


def count(service: Service, slug: str = "malformed-request") -> float:
    text = service.client.get("/metrics").text
    found = re.search(rf'^restore_problems_total{{slug="{slug}"}} (\S+)$', text, re.MULTILINE)
    assert found
    return float(found[1])


BAD = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "a space before the colon": b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A : b\r\n\r\n",
    "a byte that no header holds": b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: \0\r\n\r\n",
    "a long head": b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * MAX_HEAD_BYTES,
    "two lengths": b"POST /denoise HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length below zero": b"POST /denoise HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "another transfer coding": b"POST /denoise HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "a chunk without a size": (
        b"POST /denoise HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: multipart/form-data; boundary=xyz\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_gets_a_problem_and_is_counted(service: Service, name: str) -> None:
    before = count(service)
    with capture_logs() as logs:
        status, headers, body = split(talk(service, BAD[name]))
    assert (status, body["type"]) == ("400 Bad Request", "/problems/malformed-request")
    assert headers["content-type"] == problems.MEDIA_TYPE
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert body["instance"] == headers["x-request-id"]
    assert re.fullmatch(r"The request[^\\{}]+\.", body["detail"]), body["detail"]
    assert count(service) == before + 1
    (entry,) = [entry for entry in logs if entry["event"] == "malformed request"]
    assert (entry["request_id"], entry["detail"]) == (body["instance"], body["detail"])
    assert service.client.get("/livez").status_code == 200


def test_the_details_say_what_to_change(service: Service) -> None:
    assert "HTTP/2 is not supported here; use HTTP/1.1" in split(talk(service, BAD["HTTP/2"]))[2]["detail"]
    assert "exceed 16 KiB" in split(talk(service, BAD["a long head"]))[2]["detail"]
    assert "conflicting Content-Length headers" in split(talk(service, BAD["two lengths"]))[2]["detail"]


def test_a_client_that_is_still_sending_can_read_the_answer(service: Service) -> None:
    assert split(talk(service, BAD["a long head"], *[b"a" * 2**16] * 50))[0] == "400 Bad Request"


def test_a_bad_second_request_is_answered_after_the_first(service: Service) -> None:
    received = talk(service, LIVEZ + b"nonsense\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"400"]


def test_a_bad_chunk_after_the_response_closes_the_connection(service: Service) -> None:
    before = count(service)
    with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
        raw.sendall(b"POST /nothing HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):
            received += raw.recv(2**16)
        assert received.startswith(b"HTTP/1.1 404 ")
        raw.sendall(b"ZZ\r\n")
        assert raw.recv(2**16) == b""
    assert count(service) == before


def test_a_connection_reset_while_it_is_refused_does_no_harm(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(BAD["no HTTP"])
    assert service.client.get("/livez").status_code == 200


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "names", [(b"Content-Length", b"Transfer-Encoding"), (b"transfer-encoding", b"content-length")]
)
def test_a_length_beside_a_transfer_coding_closes_the_connection(service: Service, names: tuple[bytes, bytes]) -> None:
    body = chunked(multipart(part("image", png(), "a.png")))
    values = {b"content-length": b"%d" % (len(body) + len(LIVEZ)), b"transfer-encoding": b"chunked"}
    head = b"".join(b"%s: %s\r\n" % (name, values[name.lower()]) for name in names)
    form = b"Content-Type: multipart/form-data; boundary=xyz\r\n"
    received = talk(service, b"POST /denoise HTTP/1.1\r\n" + HOST + form + head + b"\r\n" + body + LIVEZ)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in received


def test_a_transfer_coding_alone_keeps_it_open(service: Service) -> None:
    body = chunked(multipart(part("image", png(), "a.png")))
    form = b"Content-Type: multipart/form-data; boundary=xyz\r\nTransfer-Encoding: chunked\r\n"
    last = LIVEZ.replace(HOST, HOST + b"Connection: close\r\n")
    received = talk(service, b"POST /denoise HTTP/1.1\r\n" + HOST + form + b"\r\n" + body + last)
    assert received.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/livez", "/readyz", "/metrics", "/models", "/docs", "/docs/swagger-ui.css")),
        *(("GET", path) for path in ("/openapi.json", "/problems", "/problems/not-found", "/nothing", "/jobs/1")),
        ("POST", "/denoise"),
        ("PUT", "/denoise"),
        ("HEAD", "/styles"),
        ("OPTIONS", "/denoise"),
    ],
)
def test_no_response_is_to_be_sniffed(service: Service, method: str, path: str) -> None:
    answer = service.client.request(method, path)
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


def test_pictures_and_304_are_not_to_be_sniffed_either(service: Service) -> None:
    assert service.denoise().headers["x-content-type-options"] == "nosniff"
    tag = service.client.get("/models").headers["etag"]
    answer = service.client.get("/models", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (304, "nosniff")
