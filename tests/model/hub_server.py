"""A small hub on this machine: the few answers that `huggingface_hub` asks for when it downloads a model."""

# ruff: noqa: N802 (http.server names these methods)

import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.local_server import LocalServer, QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "someone/gated"
LARGE = (".safetensors", ".bin")  # kept as large files, known by their SHA-256


@dataclass
class Hub:
    """One repository and how its server behaves.

    `stall_after`: bytes of a file after which the next download of more than that hangs until `release`. `drop_after`: bytes
    after which the next such download is cut off. `ranges`: what was asked for with Range; `fetched`: names of files sent.
    """

    name: str
    files: dict[str, bytes]
    stall_after: int | None = None
    drop_after: int | None = None
    damage: bool = False
    ranges: list[str] = field(default_factory=list[str])
    fetched: list[str] = field(default_factory=list[str])
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._server = LocalServer(lambda *parts: _Handler(self, *parts))
        self._server.start()

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return self._server.address

    def close(self) -> None:
        """Stop serving."""
        self.release.set()
        self._server.close()


class _Handler(QuietHandler):
    def __init__(self, hub: Hub, *parts: Any) -> None:
        self.hub = hub
        super().__init__(*parts)

    def do_HEAD(self) -> None:
        self._file(send=False)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api = f"/api/models/{self.hub.name}"
        if path.startswith(f"/api/models/{GATED}"):
            self._json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        elif path in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._json({"id": self.hub.name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif path.startswith(f"{api}/revision/"):
            self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"{api}/tree/"):
            self._json([self._entry(name, data) for name, data in self.hub.files.items()])
        elif path.startswith(f"/{self.hub.name}/resolve/"):
            self._file(send=True)
        else:
            self._json({"error": "no such model"}, 404, {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {**(headers or {}), "Content-Type": "application/json", "Content-Length": len(body)}.items():
            self.send_header(key, str(text))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, *, send: bool) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        data = self.hub.files[name]
        asked = self.headers.get("Range")
        start = 0
        if asked and send:
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if asked else 200)
        checksum = hashlib.sha256(data) if name.endswith(LARGE) else hashlib.sha1(data)
        self.send_header("ETag", f'"{checksum.hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if send:
            self._send(name, data[start:])

    def _send(self, name: str, data: bytes) -> None:
        self.hub.fetched.append(name)
        if self.hub.damage and name.endswith(LARGE):
            self.hub.damage = False
            data = bytes(len(data))
        for limit in ("stall_after", "drop_after"):
            after = getattr(self.hub, limit)
            if after is None or len(data) <= after:
                continue
            setattr(self.hub, limit, None)
            self.wfile.write(data[:after])
            self.wfile.flush()
            self.close_connection = True
            if limit == "stall_after":
                self.hub.stalled.set()
                self.hub.release.wait(30)
            self.connection.close()
            return
        self.wfile.write(data)
