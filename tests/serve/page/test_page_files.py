"""The files as they are sent, and that the committed bundle is what its sources build."""

import re
import shutil
import subprocess

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dunwu.serve.page import mount_page

from .conftest import PAGE


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    mount_page(app)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/style.css", "/page/none.js"])
def test_every_answer_carries_the_policy(client, path):
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_types_caching_and_compression(client):
    script = client.get("/page/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["content-encoding"] == "gzip"
    assert int(script.headers["content-length"]) < 160_000
    assert script.headers["cache-control"] == "no-cache"
    again = client.get("/page/app.js", headers={"If-None-Match": f'W/"other", {script.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    plain = client.get("/page/app.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == script.content
    font = re.search(r"fonts/[\w-]+\.woff2", client.get("/page/style.css").text)
    assert font is not None
    assert "immutable" in client.get(f"/page/{font.group()}").headers["cache-control"]
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/../mount.py", "/page/%2e%2e/mount.py", "/page//etc/passwd", "/page/", "/page/fonts"]
)
def test_only_the_page_s_own_files_are_served(client, path):
    assert client.get(path).status_code == 404


def test_no_file_names_another_host():
    """Links in licences and namespaces of the libraries apart: nothing that a browser would fetch."""
    for path in (PAGE / "static").rglob("*"):
        if path.suffix in {".css", ".html", ".svg"}:
            assert re.findall(r"(?:url\(|src=|href=)[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")) == []


def test_the_bundle_is_what_the_sources_build():
    if shutil.which("node") is None or not (PAGE / "node_modules").exists():
        pytest.skip("the bundle is compared where node is and `npm ci` was run in the page's folder")
    done = subprocess.run(["node", "build.mjs", "--check"], cwd=PAGE, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lock_names_no_registry():
    lock = (PAGE / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
