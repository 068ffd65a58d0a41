"""The body of a request, taken in whole before anybody looks at it, within bounds of bytes, time and depth.

Also who waits for it: the request's work ends when its caller goes away, or when its time is over.
"""

import asyncio
import contextlib
import json
import re
from collections import deque
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dunwu.serve.errors import ApiError
from dunwu.serve.visit import visit_of

BODY_TIMEOUT_S = 30.0
MOST_DEPTH = 64
_LINGER_S = 2.0
_LINGER_FACTOR = 8
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_CONSTANT = re.compile(rb"NaN|Infinity")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_CLOSE = {"connection": "close"}


@dataclass(frozen=True, slots=True)
class _TooLarge:
    still_sending: bool


class BodyRead:
    """Reads the body, and gives it to the application in one piece.

    More than `most_bytes` is 413, whatever the header says; slower than `timeout_s` is 408; a body that is not UTF-8, is not
    JSON where it says so, or is nested deeper than `most_depth` is 400, and one that is no JSON at all is 415.
    """

    def __init__(
        self, app: ASGIApp, *, most_bytes: int, timeout_s: float = BODY_TIMEOUT_S, most_depth: int = MOST_DEPTH
    ) -> None:
        self.app, self.most_bytes, self.timeout_s, self.most_depth = app, most_bytes, timeout_s, most_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._read(scope, receive)
        except TimeoutError:
            await self._too_slow().response()(scope, receive, send)
            return
        if body is None:
            return  # gone before it had asked
        if isinstance(body, _TooLarge):
            if body.still_sending:
                await self._discard(receive)
            await self._too_large().response()(scope, receive, send)
            return
        fault = self._fault(scope, body)
        if fault is not None:
            await fault.response()(scope, receive, send)
            return
        visit_of(scope).body = body
        messages: deque[Message] = deque([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return messages.popleft() if messages else await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> "bytes | _TooLarge | None":
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        announced = int(declared) if declared.isdecimal() and declared.isascii() and len(declared) < 20 else 0
        if announced > self.most_bytes and "expect" in headers:
            return _TooLarge(still_sending=False)  # it waits for our word before it sends
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if max(size, announced) > self.most_bytes:
                return _TooLarge(still_sending=message.get("more_body", False))
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _discard(self, receive: Receive) -> None:
        """Take the rest in for a moment: one who is still sending when the connection closes never sees the answer."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while size < _LINGER_FACTOR * self.most_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    def _fault(self, scope: Scope, body: bytes) -> ApiError | None:
        if not body or scope["method"] not in ("POST", "PUT", "PATCH"):
            return None
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            shown = f"content-type {kind[:80]!r}" if kind else "a body without content-type"
            return ApiError(415, f"{shown} must be application/json", code="unsupported_media_type", headers=_CLOSE)
        problem = json_problem(body, self.most_depth)
        return None if problem is None else ApiError(400, problem, code="invalid_json")

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than the {self.most_bytes} bytes that this server takes; send less",
            code="request_too_large",
            headers=_CLOSE,
        )

    def _too_slow(self) -> ApiError:
        return ApiError(
            408,
            f"the body did not come whole within {self.timeout_s:g} s; send it again, faster or smaller",
            code="request_timeout",
            headers=_CLOSE,
        )


def json_problem(body: bytes, most_depth: int = MOST_DEPTH) -> str | None:
    """What stands in the way of reading this as JSON that is safe to read; None where nothing was found.

    Linear in the bytes, without recursion. What it lets pass may still be wrong JSON: the reader says so.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8: byte {body[error.start]:#04x} at {error.start}; encode it as UTF-8"
    if body.count(b"[") + body.count(b"{") > most_depth or _NO_CONSTANT.search(body):
        problem = _shape_problem(body, most_depth)
        if problem is not None:
            return problem
    return _half_a_character(body) if _SURROGATE.search(body) else None


def _shape_problem(body: bytes, most_depth: int) -> str | None:
    bare = _STRING.sub(b"", body)
    constant = _NO_CONSTANT.search(bare)
    if constant:
        return f"the body is not JSON: {constant.group().decode()} is no number; leave it out, or give one"
    brackets = np.frombuffer(bare.translate(None, _NOT_BRACKETS), dtype=np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    depth = int(np.cumsum(steps, dtype=np.int64).max(initial=0))
    if depth > most_depth:
        return f"the body is nested {depth} deep, and {most_depth} is the most; make it flatter"
    return None


def _half_a_character(body: bytes) -> str | None:
    """JSON can write half of a surrogate pair, which is no text: it cannot be encoded again."""
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        return f"the body holds {half}, which is half of a character; leave it out, or send both halves"
    except (ValueError, RecursionError):
        return None  # whoever reads it says what is wrong
    return None


class Attended:
    """Lets the application work for as long as somebody waits, and no longer than `timeout_s` (None: as long as it takes).

    Cancelled work is cancelled as asyncio does it, so that a request in the engine goes too.
    """

    def __init__(self, app: ASGIApp, *, timeout_s: float | None) -> None:
        self.app, self.timeout_s = app, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        first = await receive()
        given, left = asyncio.Event(), asyncio.Event()
        answer = _Answer(send)

        async def receive_() -> Message:
            if not given.is_set():
                given.set()
                return first
            await left.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        work = asyncio.ensure_future(self.app(scope, receive_, answer.send))
        watching = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({work, watching}, timeout=self.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done() or answer.finished:
                await work
                return
            await _cancel(work)
            if not watching.done():
                await answer.end_late(scope, receive, self.timeout_s or 0)
        finally:
            await _cancel(watching)
            await _cancel(work)


async def _cancel(task: "asyncio.Future[None]") -> None:
    """End a task of ours and wait until it is over; what it says to that is nobody's concern."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await asyncio.wait({task})
    if task.done() and not task.cancelled():
        task.exception()


class _Answer:
    """What was sent so far, so that an answer that takes too long ends in a form that its reader understands."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = self._streams = self.finished = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self._streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
        elif not message.get("more_body", False):
            self.finished = True
        await self._send(message)

    async def end_late(self, scope: Scope, receive: Receive, timeout_s: float) -> None:
        text = f"the answer took longer than the {timeout_s:g} s of this server; ask for fewer tokens"
        # A second try would take as long: OpenAI's clients heed x-should-retry.
        late = ApiError(504, text, code="timeout", headers={"x-should-retry": "false"})
        if not self._started:
            await late.response()(scope, receive, self._send)
        elif self._streams and not self.finished:
            event = f"data: {json.dumps(late.body)}\n\n".encode()
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
        elif not self.finished:
            raise TimeoutError(text)
