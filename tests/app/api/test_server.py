"""The address of the service, idle connections, and shutdown."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import time
from contextlib import suppress

import httpx
import numpy as np
import pytest
import uvicorn

from app.api import responses, server
from app.api.lifecycle import Shutdown
from app.api.server import ListenError, Server, bind
from app.settings import Settings
from tests.app.api.service import Service, file, png, serving, wait_until
from tests.app.api.test_refusals import multipart, part, refused
from tests.engines import Slow


def connected(service: Service, sent: bytes = b"") -> socket.socket:
    """Return a connection on which so much was sent."""
    raw = socket.create_connection(("127.0.0.1", service.port), 20)
    raw.sendall(sent)
    return raw


def request(body: bytes, path: str = "/denoise") -> bytes:
    """Return a whole request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary=xyz\r\n\r\n".encode() + body


def test_a_connection_without_a_request_is_dropped_and_a_busy_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "QUIET_S", 1.5)
    with serving() as service, connected(service) as silent, connected(service, b"GET / HTTP/1.1\r\nX: ") as slow:
        local = set()
        for _ in range(50):
            try:
                slow.sendall(b"a")
            except OSError:
                break
            time.sleep(0.1)
            local.add(service.client.get("/livez").extensions["network_stream"].get_extra_info("client_addr"))
        else:
            pytest.fail("a head that comes byte by byte is waited for")
        assert len(local) == 1  # the one that asks again and again has its first connection still
        assert silent.recv(1) == b""


def test_who_sends_a_byte_at_a_time_is_told_so() -> None:
    with serving(body_timeout_s=1.0) as service:
        whole = request(multipart(part("image", png(), "a.png")))
        with connected(service, whole[:200]) as raw:
            raw.settimeout(0.1)
            answer = b""
            for at in range(200, len(whole)):
                raw.sendall(whole[at : at + 1])
                with suppress(TimeoutError):
                    answer = raw.recv(4096)
                    break
            assert answer.startswith(b"HTTP/1.1 408 ")
        assert service.concurrency.count == 0


@pytest.mark.integration
def test_who_never_reads_is_cut_off_and_nothing_of_his_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "QUIET_S", 0.5)
    monkeypatch.setattr(responses, "MIN_BYTES_PER_S", 2**30)  # what the system's own buffers take counts as taken
    noise = file(np.random.default_rng(1).integers(0, 256, (1600, 1600, 3), np.uint8))  # more than a socket holds
    with serving(body_timeout_s=1.0) as service, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", service.port))
        raw.sendall(request(multipart(part("model", b"identity"), part("image", noise, "a.png"))))
        state = service.server.server_state
        wait_until(lambda: service.concurrency.count == 1)
        wait_until(lambda: service.concurrency.count == 0)
        wait_until(lambda: not state.connections)
        assert not state.tasks
        assert service.denoise().status_code == 200


@pytest.mark.integration
def test_who_asks_for_pages_and_never_reads_them_is_cut_off_and_who_reads_slowly_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "QUIET_S", 2.0)
    pages = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 200  # more than the system's own buffers hold
    with serving(body_timeout_s=1.0) as service, socket.socket() as never, socket.socket() as slowly:
        for raw in (never, slowly):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.settimeout(20)
            raw.connect(("127.0.0.1", service.port))
            raw.sendall(pages)
        ports = {raw.getsockname()[1] for raw in (never, slowly)}

        def left() -> set[int]:
            peers = {connection.client[1] for connection in list(service.server.server_state.connections)}
            return ports & peers

        wait_until(lambda: left() == ports)
        begun = time.monotonic()
        while left() == ports:
            assert time.monotonic() < begun + 20
            assert slowly.recv(2**16)
            time.sleep(0.05)
        assert left() == {slowly.getsockname()[1]}


def test_what_is_not_done_when_the_end_comes_is_answered() -> None:
    slow = Slow()
    callers = 8
    with (
        serving({"slow": slow}, stop_timeout_s=0.5) as service,
        concurrent.futures.ThreadPoolExecutor(callers) as pool,
        httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client,
    ):
        whole = request(multipart(part("image", png(), "a.png")))
        with connected(service, whole[: len(whole) // 2]) as uploading:
            waiting = [pool.submit(service.denoise, model="slow") for _ in range(callers)]
            wait_until(lambda: service.concurrency.count == callers + 1)
            assert slow.entered.wait(20)
            service.server.should_exit = True
            for one in waiting:
                refused(one.result(20), "shutting-down", retry_after=5)
            assert uploading.recv(4096).startswith(b"HTTP/1.1 503 ")
            assert service.concurrency.count == 0
            with pytest.raises(httpx.ConnectError):
                client.get("/readyz")
            slow.gate.set()


def test_nothing_but_http_is_spoken_whatever_is_installed(service: Service) -> None:
    # Ray brings a library for WebSockets: a connection of its kind, in the server's list, ended the loop that looks.
    config = uvicorn.Config(service.app, ws=asyncio.Protocol, log_config=None)
    server.Server(config, service.shutdown, service.settings, lambda: None, lambda _: None)
    config.load()
    assert config.ws_protocol_class is None


async def never_called(scope: object, receive: object, send: object) -> None:
    raise AssertionError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_bound_address_does_not_listen_yet_and_is_refused_once_another_process_listens(host: str) -> None:
    (first, *others) = bind(host, 0)
    port = first.getsockname()[1]
    for other in others:
        other.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(first.getsockname()[:2], timeout=5)
    with socket.create_server(first.getsockname()[:2], family=first.family):
        with pytest.raises(ListenError, match=f"{port} is already in use.*RESTORE_PORT=.*PORT="):
            bind(host, port)
        config = uvicorn.Config(never_called, host=host, port=port, lifespan="off", log_config=None)
        server = Server(config, Shutdown(), Settings(), lambda: pytest.fail("it listens"), lambda _: None)
        with pytest.raises(ListenError, match=f"{port} is already in use"):
            server.run([first])
    first.close()


def test_small_answers_are_sent_at_once() -> None:
    async def has_no_delay() -> int:
        accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        (listener,) = bind("127.0.0.1", 0)
        async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            connection = (await accepted).get_extra_info("socket")
            client.close()
            (await accepted).close()
            return int(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    assert asyncio.run(has_no_delay())


def test_an_address_that_the_machine_does_not_have_is_named() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 203.0.113.1:8000: .*RESTORE_HOST"):
        bind("203.0.113.1", 8000)
