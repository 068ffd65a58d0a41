"""A server in a thread of the test, with models of random weights."""

import contextlib
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from dunwu.model.hub import save_model
from dunwu.serve.app import create_app
from dunwu.serve.deltas import Lookup
from dunwu.serve.logs import Log
from dunwu.serve.models import EngineOptions, ServedModel, Shelf, load_served_model
from dunwu.serve.run import bind, uvicorn_config
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource
from dunwu.serve.ways import ChainWay, StrategyShelf, Way
from tests.infer.tiny import tiny_model, tiny_tokenizer

CONTEXT = 2048
OPTIONS = EngineOptions(cache_bytes=4 << 20, max_sequences=16, max_waiting=64)


@dataclass(frozen=True)
class Live:
    """A running server."""

    shelf: Shelf
    url: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def wait(self) -> None:
        """Until the models are read."""
        wait_until(lambda: self.shelf.state == "ready", "the model was not read")


def make_folder(folder: Path, *, context: int = CONTEXT, **facts: object) -> Path:
    """A model's folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder)
    save_model(tiny_model(tokenizer.vocab_size, context=context), folder)
    (folder / "dunwu.json").write_text(json.dumps(facts))
    return folder


@contextlib.contextmanager
def running(
    *sources: ModelSource,
    settings: ServeSettings | None = None,
    options: EngineOptions = OPTIONS,
    load: Callable[[ModelSource], ServedModel] | None = None,
    deltas: Lookup | None = None,
    ways: Sequence[Way | ChainWay] = (),
    wait: bool = True,
) -> Iterator[Live]:
    """Serve until the block ends."""
    settings = settings or ServeSettings(port=0, drain_timeout_s=5)
    load = load or partial(load_served_model, options=options)
    shelf = StrategyShelf(sources, load, ways, deltas) if ways else Shelf(sources, load, deltas)
    listener = bind(settings)
    server = uvicorn.Server(uvicorn_config(create_app(shelf, settings, log=Log(io.StringIO())), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        live = Live(shelf, f"http://127.0.0.1:{listener.getsockname()[1]}")
        wait_until(lambda: server.started, "the server did not start")
        if wait:
            live.wait()
        yield live
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Reply(NamedTuple):
    """An answer as it came."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(
    url: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> Reply:
    """One request without any client's help; `body`: bytes as they are, or what becomes JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json"} | dict(headers or {})
    request = urllib.request.Request(url, data, given, method=method or ("GET" if data is None else "POST"))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return Reply(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def start(live: Live, path: str, body: Any) -> socket.socket:
    """Send a request by hand and do not read what comes."""
    host, port = live.url.removeprefix("http://").split(":")
    one = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    one.sendall(head.encode() + data)
    return one


def wait_until(true, complaint: str, *, timeout_s: float = 30.0) -> None:
    """Look again and again."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, complaint
        time.sleep(0.01)
