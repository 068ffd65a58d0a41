"""One OpenAI-compatible endpoint, and what its failures mean to somebody who has never heard of the package `openai`."""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from dunwu.core.errors import MissingExtraError, PartnerError, RecipeError

TIMEOUT_S = 120.0
MOST_AT_A_TIME = 16
KEY_VARIABLE = "OPENAI_API_KEY"
_TRANSIENT = (408, 409, 425, 429)
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`url`: up to and with `/v1`. `key` None: that of the environment's `key_variable`; endpoints that want none get a blank one.
    Raises RecipeError for a URL that is none."""

    url: str
    model: str
    key: str | None = None
    key_variable: str = KEY_VARIABLE
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"url={self.url!r} must begin with http:// or https://, such as http://127.0.0.1:8000/v1")

    @property
    def shown_key(self) -> str:
        """What is sent as the key."""
        return self.key or os.environ.get(self.key_variable) or "none"

    def settings(self) -> dict[str, Any]:
        """What the package's clients are made with."""
        return {"base_url": self.url, "api_key": self.shown_key, "timeout": self.timeout_s, "max_retries": 0}

    def fail(self, error: Exception) -> NoReturn:
        """Raise what this error means to somebody who has never heard of the package."""
        openai = library()
        status, text = getattr(error, "status_code", None), _shown(error).replace(self.shown_key, "…")
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            raise PartnerError(
                f"{self.url} did not answer within {self.timeout_s:g} s; give it more time (timeout_s; `dunwu eval --timeout`), or ask for fewer tokens",
                transient=True,
            ) from error
        if isinstance(status, int):
            raise PartnerError(
                self._status_text(status, text),
                transient=status in _TRANSIENT or status >= 500,
                retry_after_s=_retry_after(getattr(error, "response", None)),
            ) from error
        if isinstance(error, openai.APIConnectionError) or type(error).__module__.split(".")[0].startswith("http"):
            cause = error.__cause__ or error
            raise PartnerError(
                f"{self.url} cannot be reached, or left in the middle of an answer ({_shown(cause)}); is the server running?",
                transient=True,
            ) from error
        if isinstance(error, openai.APIError):
            raise PartnerError(f"{self.url} failed while it answered: {text}", transient=True) from error
        raise PartnerError(
            f"{self.url} answered with what is no OpenAI-compatible stream ({type(error).__name__}: {text}); is the address "
            "right?",
            transient=False,
        ) from error

    def _status_text(self, status: int, text: str) -> str:
        match status:
            case 401 | 403:
                return f"{self.url} refuses the key ({status}: {text}); set {self.key_variable}, or give the right key"
            case 404:
                return f"{self.url} has no model {self.model!r}, or no such address ({text}); it mostly ends in /v1"
            case 429:
                return f"{self.url} takes no more requests now ({text}); ask later, or fewer at a time"
            case _ if status >= 500:
                return f"{self.url} failed ({status}: {text}); ask again"
            case _:
                return f"{self.url} refuses the request ({status}: {text}); mend what it names"


def _retry_after(response: Any) -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except (AttributeError, ValueError):
        return None  # none, or a date


def _shown(error: BaseException) -> str:
    """What an endpoint said, or a page of a proxy, in one short line."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, Mapping) else None
    text = " ".join(str(message or error).split()) or type(error).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def library() -> Any:
    """The package. Raises MissingExtraError."""
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise MissingExtraError("openai", "remote", "a model behind a URL") from error
