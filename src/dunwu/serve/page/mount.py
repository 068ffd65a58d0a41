"""The page's files over HTTP: few, read once, each with the headers that keep what a model says from doing anything."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response

STATIC = Path(__file__).parent / "static"

# Nothing is allowed but what this origin serves; no inline script or style, and no string becomes script or markup but
# through DOMPurify's own policy. KaTeX sets its styles through the object model, which needs no exception.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
TYPES = {".js": "text/javascript", ".woff2": "font/woff2"}  # what a machine's own table may have wrong


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file as it is sent. `gzipped` None: it does not shrink."""

    content: bytes
    gzipped: bytes | None
    media_type: str
    etag: str
    cache_control: str

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        content = path.read_bytes()
        gzipped = gzip.compress(content, mtime=0)
        media_type = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(
            content=content,
            gzipped=gzipped if len(gzipped) < 0.9 * len(content) else None,
            media_type=media_type,
            etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            # A font's name holds its hash; everything else is asked for again, and answered with 304 where unchanged.
            cache_control="public, max-age=31536000, immutable" if path.parent.name == "fonts" else "no-cache",
        )

    def answer(self, request: Request) -> Response:
        headers = HEADERS | {"ETag": self.etag, "Cache-Control": self.cache_control}
        if self.gzipped is not None:
            headers["Vary"] = "Accept-Encoding"
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        if self.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.gzipped, media_type=self.media_type, headers=headers | {"Content-Encoding": "gzip"})
        return Response(self.content, media_type=self.media_type, headers=headers)


def mount_page(app: FastAPI) -> None:
    """Serves the page at `/` and what belongs to it below `/page/`; neither needs a key: they tell nothing."""
    files = {path.relative_to(STATIC).as_posix(): PageFile.read(path) for path in STATIC.rglob("*") if path.is_file()}

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    @app.api_route("/page/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page_file(name: str, request: Request) -> Response:
        file = files.get(name)
        if file is None:
            raise HTTPException(404, headers=HEADERS)
        return file.answer(request)
