"""`/v1/completions` on this machine, which misbehaves by the name of the model that is asked for. Its tokens are characters."""

# ruff: noqa: N802 (http.server names these methods)

import json
import time
from contextlib import AbstractContextManager
from typing import Any

from tests.local_server import LocalServer, QuietHandler, serving


def logprob(text: str, place: int) -> float:
    """Of the character there: whether it is even like the one before it."""
    return -0.25 if (ord(text[place]) - ord(text[place - 1])) % 2 == 0 else -2.0


class FakeCompletions(LocalServer):
    def __init__(self) -> None:
        super().__init__(_Handler)
        self.bodies: list[dict[str, Any]] = []
        self.failures = 0

    @property
    def url(self) -> str:
        return f"{self.address}/v1"


def fake_completions() -> AbstractContextManager[FakeCompletions]:
    return serving(FakeCompletions())


class _Handler(QuietHandler):
    server: FakeCompletions

    def do_GET(self) -> None:
        self.send(200, json.dumps({"object": "list", "data": [{"id": "offsets", "object": "model"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize" and body["model"] == "vllm":
            self.send(200, json.dumps({"tokens": [ord(character) for character in body["prompt"]]}))
            return
        if self.path != "/v1/completions":
            self.send(404, json.dumps({"error": {"message": "no such address"}}))
            return
        self.server.bodies.append(body)
        match body["model"]:
            case "late":
                time.sleep(0.5)
                self.send(500, "{}")
            case "broken":
                self.send(500, json.dumps({"error": {"message": "out of memory"}}))
            case "html":
                self.send(200, "<html>Log in</html>", kind="text/html")
            case "cut":
                self.send(200, '{"choices": [{"index": 0, "te', length=400)
            case "flaky" if self.server.failures < 2:
                self.server.failures += 1
                self.send(503, json.dumps({"error": {"message": "loading"}}))
            case _:
                self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        texts = [one if isinstance(one, str) else "".join(map(chr, one)) for one in prompts]
        choices = [self.choice(body, prompt) | {"index": at} for at, prompt in enumerate(texts)]
        self.send(200, json.dumps({"id": "x", "object": "text_completion", "model": "m", "choices": choices[::-1]}))

    def choice(self, body: dict[str, Any], prompt: str) -> dict[str, Any]:
        own: dict[str, Any] = {"text": "a|b", "finish_reason": "length", "logprobs": None}
        numbers = [None, *(logprob(prompt, at) for at in range(1, len(prompt)))]
        if body["model"] in ("vllm", "no places") and body.get("prompt_logprobs"):
            rank = [
                None,
                *(
                    {str(ord(c)): {"logprob": n, "rank": 1 if n > -1 else 2}}
                    for c, n in zip(prompt[1:], numbers[1:], strict=True)
                ),
            ]
            own["prompt_logprobs"] = rank
        if body["model"] in ("offsets", "flaky", "starts") and body.get("echo"):
            mark = ["<s>"] if body["model"] == "starts" else []
            if mark:
                numbers = [None, -0.5, *numbers[1:]]
            shift = 3 * len(mark)
            own["text"] = prompt + "a"
            own["logprobs"] = {
                "tokens": [*mark, *prompt, "a"],
                "token_logprobs": [*numbers, -1.0],
                "top_logprobs": [n and {"t": max(n, -1.5)} for n in (*numbers, -1.0)],
                "text_offset": [0] * len(mark) + [shift + at for at in range(len(prompt) + 1)],
            }
        return own

    def send(self, status: int, text: str, *, kind: str = "application/json", length: int | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)
        if length:
            self.close_connection = True
