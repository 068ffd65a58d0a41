"""What keeps other web pages out of a server on this machine, and the headers that every answer carries."""

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dunwu.serve.errors import ApiError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_SAFE_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
EXPOSED = ("x-request-id", "retry-after", "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens")


class SafeHeaders:
    """Adds to every answer what keeps a browser from making more of it than it is; what the answer says itself stays."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_ if scope["type"] == "http" else send)


class Doors:
    """Refuses requests by names that are not this server's, and by pages of other origins.

    A page anywhere may send a browser to `http://127.0.0.1:8000`, under that name or under one of its own that it lets point
    there (DNS rebinding). `hosts` None takes any name: right where the server is reached by names we cannot know, and keys
    keep strangers out. `origins`: pages that may ask nevertheless; "*" is every one.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str] | None, origins: Iterable[str] = ()) -> None:
        self.hosts = None if hosts is None else frozenset(name.lower().strip("[]") for name in hosts)
        self.origins = frozenset(origin.rstrip("/") for origin in origins)
        self.app = app
        self.asked_across: ASGIApp = app
        if self.origins:
            self.asked_across = CORSMiddleware(
                app,
                allow_origins=tuple(self.origins),
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED,
                max_age=600,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        named = "host" in headers or origin is not None  # no browser leaves both out: HTTP/1.0 of a monitor does
        if named and self.hosts is not None and host_name(host) not in self.hosts:
            await _wrong_host(host).response()(scope, receive, send)
        elif origin is None or self._is_own(origin, host):
            await self.app(scope, receive, send)
        elif "*" in self.origins or origin in self.origins:
            await self.asked_across(scope, receive, send)
        else:
            await _wrong_origin(origin).response()(scope, receive, send)

    def _is_own(self, origin: str, host: str) -> bool:
        try:
            return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


def host_name(host: str) -> str:
    """The name in a Host header, without its port; an address in its usual spelling, "" for what is neither."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _wrong_host(host: str) -> ApiError:
    text = f"this server is not called {host[:100]!r}; ask for localhost, or start it with --allow-host NAME"
    return ApiError(403, text, code="host_not_allowed")


def _wrong_origin(origin: str) -> ApiError:
    text = f"pages of {origin[:100]!r} may not ask this server; start it with --allow-origin ORIGIN to let them"
    return ApiError(403, text, code="origin_not_allowed")
