"""How a server behaves: who may ask, how much, and for how long."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from dunwu.core.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """`api_keys`: a file of hashed keys, and `api_key` one more; without any, everyone is let in, which is why that needs a
    loopback address.

    `max_waiting`: requests in the queue before the next is told to come back later. `max_concurrency_per_key`,
    `requests_per_minute` and `tokens_per_minute` hold for each key, or for all who come without one; 0 is no limit.
    `request_timeout_s`: the longest that one answer may take; 0 is no limit. `log_prompts` writes what is asked and answered
    into the log. `drain_timeout_s`: how long what was begun may go on after SIGTERM. Of one request `max_completions`
    (prompts times `n`) are written at most. `allowed_hosts`: names of this server beside localhost; without any, one
    with keys answers to every name; `allowed_origins`: web pages elsewhere that may ask it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    max_body_bytes: int = 4 << 20
    max_waiting: int = 256
    max_concurrency_per_key: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    request_timeout_s: float = 600.0
    log_prompts: bool = False
    drain_timeout_s: float = 30.0
    max_completions: int = 256
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise RecipeError(f"port={self.port} must be 0 (any free one) to 65535; 8000 is the default")
        if not (self.is_loopback or self.asks_for_keys):
            raise RecipeError(
                f"host={self.host} can be reached by others, and no API key is asked for; "
                "make keys with `dunwu keys add NAME` and give --keys keys.json, or set DUNWU_API_KEY, or keep to 127.0.0.1"
            )
        for name in ("max_body_bytes", "max_waiting", "max_completions"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("max_concurrency_per_key", "requests_per_minute", "tokens_per_minute", "request_timeout_s"):
            if not getattr(self, name) >= 0:
                raise RecipeError(f"{name}={getattr(self, name)} must not be negative; use 0 for no limit")
        if not self.drain_timeout_s >= 0:
            raise RecipeError(f"drain_timeout_s={self.drain_timeout_s} must not be negative; use 0 to leave at once")

    @property
    def asks_for_keys(self) -> bool:
        """Whether only those with a key are answered."""
        return self.api_keys is not None or self.api_key is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
