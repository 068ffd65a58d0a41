"""A small application without a model behind the real guard, and a caller that speaks ASGI step by step."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dunwu.serve.guard import Guard
from dunwu.serve.limits import Gate
from dunwu.serve.logs import Log
from dunwu.serve.visit import visit_of


class Echo:
    """Answers with what it was sent. `/wait` waits until `release` is set, `/stream` sends a token, then waits likewise."""

    def __init__(self, **facts: Any) -> None:
        self.lines = io.StringIO()
        self.log = Log(self.lines, prompts=facts.pop("log_prompts", False))
        self.waiting, self.most_waiting = 0, 1000
        gate = Gate(lambda: self.waiting >= self.most_waiting, lambda: self.waiting)
        facts = {"gate": gate, "gated_paths": ("/wait", "/stream")} | facts
        self.guard = Guard(log=self.log, **facts)
        self.release = asyncio.Event()
        self.cancelled: list[str] = []
        routes = [
            ("/echo", self._echo),
            ("/health", self._echo),
            ("/metrics", self._metrics),
            ("/broken", self._broken),
        ]
        routes += [("/wait", self._wait), ("/stream", self._stream), ("/half", self._half)]
        self.app = Starlette(routes=[Route(path, do, methods=["GET", "POST"]) for path, do in routes])
        self.guard.stand_before(self.app)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log; the log ends with this."""
        self.log.close()
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]

    async def _echo(self, request: Request) -> Response:
        body = await request.body()
        visit_of(request.scope).read(len(body))
        visit_of(request.scope).wrote(2)
        return JSONResponse({"body": body.decode(), "key": visit_of(request.scope).key})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.guard.metrics.text())

    async def _broken(self, request: Request) -> Response:
        raise ValueError("my secret prompt")

    async def _wait(self, request: Request) -> Response:
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(visit_of(request.scope).id)
            raise
        finally:
            self.waiting -= 1
        return JSONResponse({"done": True})

    async def _stream(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "data: one\n\n"
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.append(visit_of(request.scope).id)
                raise
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _half(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "half"
            raise ValueError("my secret prompt")

        return StreamingResponse(parts())


class Call:
    """One request by hand: `parts` of its body are sent one by one; after them its caller waits, or leaves with `leave`."""

    def __init__(
        self,
        path: str,
        parts: list[bytes] | bytes = b"",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        hangs: bool = False,
    ) -> None:
        given = {"host": "localhost:8000", "content-type": "application/json"} | dict(headers or {})
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        self.parts = [parts] if isinstance(parts, bytes) else list(parts)
        self.hangs, self.taken = hangs, 0
        self.gone = asyncio.Event()
        self.started = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def leave(self) -> None:
        self.gone.set()

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.parts:
            self.taken += 1
            part = self.parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts) or self.hangs}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.started.set()

    async def to(self, echo: Echo) -> "Call":
        await echo.app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        return self

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose form is checked."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error
