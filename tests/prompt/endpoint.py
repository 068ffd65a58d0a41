"""An OpenAI-compatible server whose models are scripts."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dunwu.chat.scripted import Answer, Script, ScriptedChat
from dunwu.core.errors import PartnerError
from dunwu.core.records import Message


class Endpoint(ThreadingHTTPServer):
    """`asked` counts requests. A script that raises PartnerError answers 400 or, where it is transient, 502."""

    daemon_threads = True

    def __init__(self, scripts: Mapping[str, Script], *, schemas: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scripts, self.schemas = scripts, schemas
        self.asked, self.keys, self.lock = 0, set[str](), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextlib.contextmanager
def endpoint(*, schemas: bool = False, **scripts: Script) -> Iterator[Endpoint]:
    server = Endpoint(scripts, schemas=schemas)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked += 1
            self.server.keys.add(str(self.headers.get("Authorization")))
        messages = [Message(role=one["role"], content=one["content"]) for one in body["messages"]]
        if "response_format" in body and not self.server.schemas:
            return self.refuse(400, "response_format is not supported")
        if "response_format" in body and '{"n": 7}' in messages[-1].content:
            return self.stream(body, Answer(text='{"n": 7}'))
        script = self.server.scripts[body["model"]]
        line = script(messages) if callable(script) else script[0]
        if isinstance(line, PartnerError):
            return self.refuse(502 if line.transient else 400, str(line))
        return self.stream(body, line)

    def stream(self, body, line) -> None:
        messages = [Message(role=one["role"], content=one["content"]) for one in body["messages"]]
        answer = ScriptedChat([line]).reply(messages, max_tokens=body["max_tokens"])
        usage = {"prompt_tokens": answer.usage.prompt_tokens, "completion_tokens": answer.usage.completion_tokens}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.event(choices=[{"index": 0, "delta": {"content": answer.text}, "finish_reason": None}])
        self.event(choices=[{"index": 0, "delta": {}, "finish_reason": answer.finish_reason}])
        self.event(choices=[], usage={**usage, "total_tokens": sum(usage.values())})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, **data: object) -> None:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
        self.wfile.write(f"data: {json.dumps(head | data)}\n\n".encode())

    def refuse(self, status: int, why: str) -> None:
        text = json.dumps({"error": {"message": why, "type": "x", "param": None, "code": None}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
