"""A server in a thread of the test, with models of random weights."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn

from dunwu.model.hub import save_model
from dunwu.serve.app import create_app
from dunwu.serve.models import EngineOptions, ModelSource, Shelf, load_served_model
from dunwu.serve.run import bind
from dunwu.serve.settings import ServeSettings
from tests.infer.tiny import tiny_model, tiny_tokenizer

OPTIONS = EngineOptions(cache_bytes=4 << 20, max_sequences=16, max_waiting=64)


@dataclass(frozen=True)
class Live:
    """A running server."""

    shelf: Shelf
    url: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"


def make_folder(folder: Path, *, context: int = 256, **facts: object) -> Path:
    """A model's folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder)
    save_model(tiny_model(tokenizer.vocab_size, context=context), folder)
    (folder / "dunwu.json").write_text(json.dumps(facts))
    return folder


@contextlib.contextmanager
def running(
    *sources: ModelSource, settings: ServeSettings | None = None, options: EngineOptions = OPTIONS
) -> Iterator[Live]:
    """Serve until the block ends."""
    settings = settings or ServeSettings(port=0)
    shelf = Shelf(sources, partial(load_served_model, options=options))
    listener = bind(settings)
    config = uvicorn.Config(create_app(shelf, settings), log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: shelf.state == "ready", "the model was not read")
        yield Live(shelf, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(true, complaint: str, *, timeout_s: float = 30.0) -> None:
    """Look again and again."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, complaint
        time.sleep(0.01)
