"""Against a real socket: what only shows there."""

import asyncio
import json
import socket
import threading
import time

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from dunwu.serve.connection import bounded_connection

from .guarded import Echo


class Live:
    """The echo of `guarded.py` behind uvicorn in a thread, with a stream that never ends at /flood."""

    def __init__(self):
        self.echo = Echo(body_timeout_s=0.3, most_body_bytes=100_000)
        self.sent = 0
        self.flood_ended = threading.Event()
        app: Starlette = self.echo.app
        app.router.routes.append(Route("/flood", self._flood))
        config = uvicorn.Config(
            app,
            port=0,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=1,
            http=bounded_connection(header_timeout_s=0.3, stall_timeout_s=0.3),
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    async def _flood(self, request):
        async def parts():
            try:
                while True:
                    self.sent += 1
                    yield b"x" * 10_000
                    await asyncio.sleep(0)
            finally:
                self.flood_ended.set()

        return StreamingResponse(parts())

    def connect(self, buffer=None):
        one = socket.socket()
        if buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        one.settimeout(10)
        one.connect(("127.0.0.1", self.port))
        return one


@pytest.fixture(scope="module")
def live():
    one = Live()
    yield one
    one.server.should_exit = True
    one.thread.join(10)


def read_all(one):
    """Until the other side closes."""
    parts = []
    while True:
        try:
            part = one.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def post(length, *extra):
    lines = [
        "POST /echo HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def assert_answers(live):
    with live.connect() as one:
        one.sendall(post(3, "Connection: close") + b'"a"')
        assert b" 200 OK" in read_all(one)


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\nHost: loc", post(3, "Connection: keep-alive") + b'"a"' + b"GE"]
)
def test_a_request_that_never_comes_whole_is_hung_up_on(live, start):
    with live.connect() as one:
        one.sendall(start)
        answer = read_all(one)  # and does not wait for ever
    assert (b" 200 OK" in answer) is start.startswith(b"POST")
    assert_answers(live)


def test_a_body_that_stops_gets_408_and_the_connection_ends(live):
    with live.connect() as one:
        one.sendall(post(100) + b'"a')
        assert b" 408 " in read_all(one)
    assert_answers(live)


def test_an_answered_caller_may_not_go_on_for_ever_sending(live):
    with live.connect() as one:
        one.sendall(post(100, "Transfer-Encoding: chunked").replace(b"Content-Length: 100\r\n", b""))
        for _ in range(30):
            one.sendall(b"1388\r\n" + b"x" * 5000 + b"\r\n")
        answer = read_all(one)
    assert b" 413 " in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
    assert_answers(live)


def test_ten_megabytes_are_413_also_for_a_caller_that_sends_all_before_it_listens(live):
    with live.connect() as one:
        body = b'"' + b"x" * 500_000 + b'"'
        one.sendall(post(len(body)) + body)
        assert b" 413 " in read_all(one)


def test_a_reader_who_stopped_reading_is_cut_off_and_what_waits_for_it_stays_small(live):
    with live.connect(buffer=4096) as one:
        one.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert live.flood_ended.wait(10)
    assert live.sent * 10_000 < 20 << 20  # the sockets' own buffers
    assert_answers(live)


def test_a_slow_reader_who_keeps_reading_gets_everything(live):
    with live.connect(buffer=4096) as one:
        body = json.dumps("x" * 90_000).encode()
        one.sendall(post(len(body), "Connection: close") + body)
        answer = b""
        while part := one.recv(8192):
            answer += part
            time.sleep(0.02)
    assert len(answer) > 90_000
