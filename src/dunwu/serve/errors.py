"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping
from typing import Literal

from fastapi.responses import JSONResponse
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
]
_TYPES: Mapping[int, ErrorType] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_AFTER_S = 2


class ErrorFacts(TypedDict):
    """What went wrong. `param`: the field of the request, with dots; `code`: a name for programs."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """What comes instead of an answer."""

    error: ErrorFacts


class ApiError(Exception):
    """A request that gets `status` instead of an answer. The message gives value, rule and remedy, as everywhere."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self.headers |= headers or {}

    @property
    def body(self) -> ErrorBody:
        """The error as it is sent."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an answer; usable as an ASGI application too."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def not_ready(what: str) -> ApiError:
    """For a server that is loading or closing."""
    return ApiError(503, f"{what}; ask again in a moment", code="not_ready", retry_after_s=RETRY_AFTER_S)
