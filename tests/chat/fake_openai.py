"""A small OpenAI-compatible server on this machine, which misbehaves by the name of the model that is asked for."""

# ruff: noqa: N802 (http.server names these methods)

import json
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from tests.local_server import LocalServer, QuietHandler, serving

WORDS = ["Hel", "lo ", "你", "好"]


class FakeOpenAI(LocalServer):
    """`bodies` and `keys` keep what came; `most` how many requests were under way at once."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.now = self.most = 0
        self.left = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.address}/v1"


def fake_openai() -> AbstractContextManager[FakeOpenAI]:
    return serving(FakeOpenAI())


class _Handler(QuietHandler):
    server: FakeOpenAI

    def do_GET(self) -> None:
        self.send(200, json.dumps({"object": "list", "data": [{"id": "good", "object": "model"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.now += 1
            self.counted = 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            self.answer(body)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()
        finally:
            self.leave()

    def leave(self) -> None:
        """Counted before the client sees the end, and so before it asks again."""
        with self.server.lock:
            self.server.now -= self.counted
            self.counted = 0

    def answer(self, body: dict[str, Any]) -> None:
        match body["model"]:
            case "html":
                self.send(200, "<html><h1>Log in</h1></html>", kind="text/html")
            case "json":
                self.send(200, "{}")
            case "bad gateway":
                self.send(502, "<html>" + "Bad Gateway " * 200 + "</html>", kind="text/html")
            case "busy":
                self.send(429, error("slow down"), {"Retry-After": "7"})
            case "no key":
                self.send(401, error(f"wrong key {self.headers.get('Authorization')}"))
            case "unknown":
                self.send(404, error("no such model"))
            case "picky":
                self.send(400, error("temperature must be 1"))
            case "late":
                time.sleep(0.5)
                self.send(500, error("late"))
            case _:
                self.stream(body)

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        match body["model"]:
            case "garbage":
                self.wfile.write(b"data: {oh\n\n")
            case "cut":
                self.say(content="half")
            case "reset":
                self.say(content="half")
                self.connection.close()
            case "stalls":
                self.say(content="half")
                time.sleep(0.5)
            case "error in the stream":
                self.say(content="half")
                self.event({"error": {"message": "out of memory"}})
            case "endless":
                while True:
                    self.say(content="x")
                    time.sleep(0.005)
            case "thinks":
                self.say(reasoning_content="7 less ")
                self.say(reasoning_content="3")
                self.say(content="4")
                self.end("stop")
            case "tools":
                self.say(tool_calls=[{"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}])
                self.say(tool_calls=[{"index": 0, "function": {"arguments": '{"at":'}}])
                self.say(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}])
                self.say(tool_calls=[{"index": 1, "id": "b", "function": {"name": "stop", "arguments": "{}"}}])
                self.end("tool_calls")
            case _:
                for word in WORDS:
                    time.sleep(0.002)
                    top = [{"token": word, "logprob": -0.1}, {"token": "?", "logprob": -3.0}]
                    scored = {"token": word, "logprob": -0.1, "bytes": None, "top_logprobs": top}
                    tells = body.get("logprobs") and body["model"] == "good"
                    self.say({"content": [scored]} if tells else None, content=word)
                self.end("stop")

    def say(self, logprobs: Any = None, **delta: Any) -> None:
        self.event({"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]})

    def end(self, reason: str) -> None:
        self.leave()
        self.event({"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}]})
        usage = {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
        }
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data: dict[str, Any]) -> None:
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "good-2026"}
        self.wfile.write(f"data: {json.dumps(data if 'error' in data else head | data)}\n\n".encode())
        self.wfile.flush()

    def send(
        self, status: int, text: str, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": kind, "Content-Length": str(len(text.encode()))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())


def error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}})
