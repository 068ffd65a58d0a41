"""The server as a process: its socket, its signals, and how it ends."""

import asyncio
import contextlib
import ipaddress
import math
import os
import signal
import socket
import sys
from collections.abc import Generator, Sequence

import uvicorn
from fastapi import FastAPI

from dunwu.core.errors import RecipeError
from dunwu.serve.app import create_app
from dunwu.serve.connection import bounded_connection
from dunwu.serve.logs import Log
from dunwu.serve.models import Shelf, named
from dunwu.serve.settings import ServeSettings

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def serve(shelf: Shelf, settings: ServeSettings) -> None:
    """Answer until SIGTERM or Ctrl-C, then finish what was begun, `drain_timeout_s` at most. A second signal ends at once.

    Raises RecipeError for an address that is taken, ModelError or TokenizerError for a model that cannot be read.
    """
    listener = bind(settings)
    asyncio.run(_serve(shelf, settings, listener))


def bind(settings: ServeSettings) -> socket.socket:
    """Take the address. Raises RecipeError where it can't be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(
            f"cannot listen at {settings.host}:{settings.port}: {reason}; is another server running? try --port 0"
        ) from error
    return listener


def uvicorn_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How the application is run: our own log of requests, connections that do not wait for ever, no web sockets."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=bounded_connection(),
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=max(1, math.ceil(settings.drain_timeout_s)),
    )


class _Server(uvicorn.Server):
    """Uvicorn, but signals are ours: it would end with the signal's own exit code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def _serve(shelf: Shelf, settings: ServeSettings, listener: socket.socket) -> None:
    errors: list[Exception] = []

    def failed(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    log = Log(prompts=settings.log_prompts)
    server = _Server(uvicorn_config(create_app(shelf, settings, log=log, failed=failed), settings))
    log.take_over("uvicorn")
    log.take_over("asyncio")
    watch = asyncio.create_task(_say_when_ready(shelf, listener, keyed=settings.asks_for_keys))
    with _signals(shelf, server):
        await server.serve(sockets=[listener])
    watch.cancel()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _signals(shelf: Shelf, server: uvicorn.Server) -> Generator[None]:
    def stop(number: signal.Signals) -> None:
        if shelf.state == "draining":
            os._exit(128 + number)
        shelf.drain()
        server.should_exit = True
        _tell("closing: what was begun is finished first; once more to leave at once")

    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)


async def _say_when_ready(shelf: Shelf, listener: socket.socket, *, keyed: bool) -> None:
    while shelf.state == "loading":
        await asyncio.sleep(0.05)
    if shelf.state != "ready":
        return
    host, port = listener.getsockname()[:2]
    names = list(shelf.offered)
    first = next((model for model in shelf.loaded if model.id == names[0]), None)
    _tell(greeting(names, url_of(host, port), chats=first is None or first.chats, keyed=keyed))


def _tell(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read our output has left; what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens at `host`, an address."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def greeting(names: Sequence[str], url: str, *, chats: bool, keyed: bool) -> str:
    """What a user reads once the server is ready, with a call that works as it stands. `chats`: the first model can."""
    path, asked = "completions", '"prompt": "Once upon a time"'
    if chats:
        path, asked = "chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'
    key = ' -H "Authorization: Bearer $OPENAI_API_KEY"' if keyed else ""
    return (
        f"models:  {named(names)}\n"
        f"page:    {url}/\n"
        f"address: {url}/v1\n"
        f"try it:  curl {url}/v1/{path} -H 'Content-Type: application/json'{key} \\\n"
        f'           -d \'{{"model": "{names[0]}", {asked}}}\'\n'
        "Ctrl-C ends it."
    )
