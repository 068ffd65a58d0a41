"""A server of OpenAI's form that says what a test tells it to, token by token, with probabilities; the page is mounted on it."""

import asyncio
import json
import re
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from dunwu.serve.page import mount_page

CUT = re.compile(r"\s?[A-Za-z]+|\s?[0-9]+|\n+|\s+|.", re.DOTALL)
CHANCES = (0.97, 0.74, 0.45, 0.2, 0.06)
CONTINUATION = " and on it goes."


@dataclass(kw_only=True)
class Reply:
    """What comes; with `halves` each character beyond ASCII in two tokens. After `hold_after` tokens it waits until the test lets it go on; after `break_after` the line goes dead."""

    text: str = "Yes."
    hold_after: int | None = None
    break_after: int | None = None
    finish: str = "stop"
    pause_s: float = 0.0
    halves: bool = False
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    retry_after_s: int | None = None


@dataclass(kw_only=True)
class Fake:
    """`replies`: by the last question. `asked`: path and body of each request. `left`: streams that the client dropped."""

    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    key: str | None = None
    models: tuple[str, ...] = ("tiny-chat", "tiny-chat:sft", "tiny-base")
    left: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        self.__init__()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]


def cut(text: str) -> list[str]:
    return CUT.findall(text)


def logprob(token: str, place: int) -> float:
    return log(CHANCES[zlib.crc32(f"{place}{token}".encode()) % len(CHANCES)])


def alternatives(token: str, place: int, n: int) -> list[tuple[str, float]]:
    own = logprob(token, place)
    rest = 1 - 2.718281828459045**own
    others = [(f" other{k}", log(rest * 0.5**k)) for k in range(1, n + 1)]
    return sorted([(token, own), *others], key=lambda pair: -pair[1])[:n]


def _pieces(reply: Reply) -> list[tuple[str, bytes]]:
    """What each token adds to the text, and its bytes."""
    pieces = []
    for token in cut(reply.text):
        raw = token.encode()
        if reply.halves and not token.isascii():
            pieces += [("", raw[:1]), (token, raw[1:])]
        else:
            pieces.append((token, raw))
    return pieces


def _name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _described(token: str, lp: float, raw: bytes) -> dict[str, Any]:
    return {"token": token, "logprob": lp, "bytes": list(raw)}


def _chat_delta(text: str, raw: bytes, place: int, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    token = _name(raw)
    if body.get("logprobs"):
        top = [
            _described(name, lp, raw if name == token else name.encode())
            for name, lp in alternatives(token, place, body.get("top_logprobs") or 0)
        ]
        choice["logprobs"] = {"content": [_described(token, logprob(token, place), raw) | {"top_logprobs": top}]}
    return choice


def _text_delta(text: str, raw: bytes, place: int, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
    token = _name(raw)
    if body.get("logprobs"):
        choice["logprobs"] = {
            "tokens": [token],
            "token_logprobs": [logprob(token, place)],
            "top_logprobs": [dict(alternatives(token, place, body["logprobs"]))],
        }
    return choice


def make_app(fake: Fake) -> FastAPI:
    app = FastAPI(openapi_url=None)
    mount_page(app)

    @app.middleware("http")
    async def keys(request: Request, call_next: Any) -> Any:
        api = request.url.path.startswith(("/v1", "/tokenize"))
        if api and fake.key and request.headers.get("authorization") != f"Bearer {fake.key}":
            return _refused(401, {"message": "no such key", "type": "authentication_error"})
        return await call_next(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0} for name in fake.models]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        fake.asked.append(("chat", body))
        if body["model"] == "tiny-base":
            message = f"the model {body['model']!r} has no chat template: it only continues text; use /v1/completions"
            return _refused(400, {"message": message, "code": "no_chat_template", "param": "messages"})
        question = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        reply = fake.replies.get(f"{body['model']}|{question}") or fake.replies.get(question)
        if body["messages"][-1]["role"] == "assistant":
            reply = fake.replies.get("continue") or Reply(text=CONTINUATION)
        return _answer(fake, reply or Reply(text=f"You said: {question}"), body, _chat_delta, request)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Any:
        body = await request.json()
        fake.asked.append(("text", body))
        return _answer(fake, fake.replies.get("text") or Reply(text=CONTINUATION), body, _text_delta, request)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        body = await request.json()
        fake.asked.append(("tokenize", body))
        pieces = cut(body["prompt"])
        ids = [zlib.crc32(piece.encode()) % 50000 for piece in pieces]
        return {"tokens": ids, "count": len(ids), "token_strs": pieces, "max_model_len": 2048}

    return app


def _refused(status: int, error: dict[str, Any], retry_after_s: int | None = None) -> JSONResponse:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def _answer(fake: Fake, reply: Reply, body: dict[str, Any], delta: Any, request: Request) -> Any:
    if reply.status != 200:
        return _refused(reply.status, reply.error, reply.retry_after_s)
    return StreamingResponse(_stream(fake, reply, body, delta), media_type="text/event-stream")


async def _stream(fake: Fake, reply: Reply, body: dict[str, Any], delta: Any) -> AsyncIterator[str]:
    def event(choices: list[Any], **more: Any) -> str:
        return f"data: {json.dumps({'object': 'chunk', 'model': body['model'], 'choices': choices, **more})}\n\n"

    tokens = _pieces(reply)
    try:
        for place, (text, raw) in enumerate(tokens):
            if place == reply.break_after:
                raise ConnectionResetError("the line goes dead, as the test wants")
            if place == reply.hold_after:
                while not fake.released.is_set():
                    await asyncio.sleep(0.01)
            if reply.pause_s:
                await asyncio.sleep(reply.pause_s)
            yield event([delta(text, raw, place, body)])
    except asyncio.CancelledError:
        fake.left += 1
        raise
    end = {"index": 0, "finish_reason": reply.finish}
    yield event([end | ({"delta": {}} if delta is _chat_delta else {"text": ""})])
    usage = {"prompt_tokens": 7, "completion_tokens": len(tokens), "total_tokens": 7 + len(tokens)}
    yield event([], usage=usage)
    yield "data: [DONE]\n\n"


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        pass


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of the app, served from a thread."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(5)
