"""One request as it passes through the server: what logs, metrics and limits know of it. Never its text, unless asked."""

import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dunwu.serve.errors import ApiError

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499  # nginx's number: nobody was left to answer
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_SCOPE_KEY = "dunwu.visit"


def _no_charge(_tokens: int) -> None: ...


@dataclass(slots=True, kw_only=True)
class Visit:
    """Times are of `time.monotonic`, in seconds. `key`: the name of the caller's key, "" where none is needed.
    `charge`: takes the tokens from what the key may still use."""

    id: str
    method: str
    path: str
    client: str
    began: float = field(default_factory=time.monotonic)
    key: str = ""
    route: str = "other"
    status: int = 0
    model: str | None = None
    streams: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    gone: bool = False
    refusal: str | None = None
    fault: BaseException | None = None
    body: bytes | None = None
    charge: Callable[[int], None] = _no_charge

    def read(self, prompt_tokens: int, *, model: str | None = None, cached_tokens: int = 0) -> None:
        """The prompt was taken in."""
        self.model = model or self.model
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.charge(prompt_tokens)

    def wrote(self, tokens: int = 1) -> None:
        """So many tokens more were written."""
        self.last_token = time.monotonic()
        if self.first_token is None:
            self.first_token = self.last_token
        self.completion_tokens += tokens
        self.charge(tokens)

    @property
    def seconds(self) -> float:
        """From the first byte of the request to the last of the answer."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def seconds_per_token(self) -> float | None:
        """Between two tokens, on average; None where fewer than two were written."""
        if self.first_token is None or self.last_token is None or self.completion_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.completion_tokens - 1)


def visit_of(scope: Scope) -> Visit:
    """The visit that this request is; a new one where the guard is not there (a test of a single part)."""
    if _SCOPE_KEY not in scope:
        scope[_SCOPE_KEY] = _new_visit(scope)
    return scope[_SCOPE_KEY]


class Watcher(Protocol):
    """Who is told of visits: logs, metrics."""

    def begins(self, visit: Visit) -> None: ...

    def ends(self, visit: Visit) -> None: ...


class Visited:
    """Outermost: numbers the requests, tells the watchers, and turns what nobody caught into OpenAI's form of a 500."""

    def __init__(self, app: ASGIApp, watchers: Iterable[Watcher] = ()) -> None:
        self.app, self.watchers = app, tuple(watchers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = visit_of(scope)
        finished = False

        async def receive_(event: Message | None = None) -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not finished:
                visit.gone = True
            return message

        async def send_(message: Message) -> None:
            nonlocal finished
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", visit.id.encode())]}
            elif not message.get("more_body", False):
                finished = True
            await send(message)

        for watcher in self.watchers:
            watcher.begins(visit)
        try:
            await self.app(scope, receive_, send_)
        except Exception as error:
            visit.fault = error
            if visit.status:  # half an answer is out: the connection closes. What was wrong may quote a prompt
                raise ConnectionAbortedError(f"request {visit.id} ended in the middle of its answer") from None
            await ApiError(500, _FAULT.format(visit.id), code="internal_error").response()(scope, receive, send_)
        finally:
            self._end(scope, visit)

    def _end(self, scope: Scope, visit: Visit) -> None:
        visit.ended = time.monotonic()
        visit.route = getattr(scope.get("route"), "path", "other")
        if visit.gone or not visit.status:
            visit.gone, visit.status = True, CLIENT_GONE
        for watcher in self.watchers:
            watcher.ends(visit)


_FAULT = "a mistake of the server's own; its log says more, under the request id {}"


def _new_visit(scope: Scope) -> Visit:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    client: Any = scope.get("client")
    return Visit(
        id=given.decode() if _SANE_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}",
        method=scope["method"] if scope["method"] in METHODS else "other",
        path=scope["path"],
        client=client[0] if client else "",
    )
