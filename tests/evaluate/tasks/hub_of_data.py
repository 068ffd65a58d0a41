"""A small hub of data sets on this machine: what `huggingface_hub` asks for when it fetches Parquet files."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class DataHub:
    """One data set, whose `files` are those of its Parquet revision."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name, self.files = name, files
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *parts: _Handler(self, *parts))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: DataHub, *parts: Any) -> None:
        self.hub = hub
        super().__init__(*parts)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        path = self.path.partition("?")[0]
        name = self.hub.name
        file = next(
            (one for one in self.hub.files if path.startswith(f"/datasets/{name}/") and path.endswith(one)), None
        )
        if path.startswith(f"/api/datasets/{name}/revision/refs%2Fconvert%2Fparquet"):
            siblings = [{"rfilename": one} for one in self.hub.files]
            self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {}, send=send)
        elif path.startswith(f"/api/datasets/{name}/tree/"):
            entries = [
                {"type": "file", "path": one, "size": len(data), "oid": "0"} for one, data in self.hub.files.items()
            ]
            self._send(json.dumps(entries).encode(), {}, send=send)
        elif file is not None:
            data = self.hub.files[file]
            self._send(data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, send=send)
        else:
            self._send(b'{"error": "no such data set"}', {"X-Error-Code": "RepoNotFound"}, status=404, send=send)

    def _send(self, body: bytes, headers: dict[str, str], *, send: bool, status: int = 200) -> None:
        self.send_response(status)
        for key, text in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(key, text)
        self.end_headers()
        if send:
            self.wfile.write(body)
