"""A small hub of data sets on this machine: what `huggingface_hub` asks for when it fetches Parquet files."""

# ruff: noqa: N802 (http.server names these methods)

import hashlib
import json

from tests.local_server import LocalServer, QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class DataHub(LocalServer):
    """One data set, whose `files` are those of its Parquet revision."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        super().__init__(_Handler)
        self.name, self.files = name, files
        self.start()


class _Handler(QuietHandler):
    server: DataHub

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        path = self.path.partition("?")[0]
        name = self.server.name
        file = next(
            (one for one in self.server.files if path.startswith(f"/datasets/{name}/") and path.endswith(one)), None
        )
        if path.startswith(f"/api/datasets/{name}/revision/refs%2Fconvert%2Fparquet"):
            siblings = [{"rfilename": one} for one in self.server.files]
            self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {}, send=send)
        elif path.startswith(f"/api/datasets/{name}/tree/"):
            entries = [
                {"type": "file", "path": one, "size": len(data), "oid": "0"} for one, data in self.server.files.items()
            ]
            self._send(json.dumps(entries).encode(), {}, send=send)
        elif file is not None:
            data = self.server.files[file]
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
