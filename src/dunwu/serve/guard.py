"""What stands between the network and the application, in one order: everything here works without a model."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.applications import Starlette

from dunwu.serve.body import BODY_TIMEOUT_S, MOST_DEPTH, Attended, BodyRead
from dunwu.serve.doors import LOOPBACK_NAMES, Doors, SafeHeaders
from dunwu.serve.keys import Keyed, Keyring
from dunwu.serve.limits import Gate, Limited, Limits
from dunwu.serve.logs import Log
from dunwu.serve.metrics import Metrics
from dunwu.serve.visit import Visited

GATED_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")

OPEN_PATHS = ("/", "/page/*", "/health", "/ready")
"""The page is open: it holds nothing, and asks for the key itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The parts, and their bounds. `request_timeout_s` None: as long as an answer takes. `hosts` None: any name."""

    log: Log
    gate: Gate
    metrics: Metrics = field(default_factory=Metrics)
    keyring: Keyring = field(default_factory=Keyring)
    limits: Limits = field(default_factory=Limits)
    open_paths: tuple[str, ...] = OPEN_PATHS
    gated_paths: tuple[str, ...] = GATED_PATHS
    hosts: Iterable[str] | None = LOOPBACK_NAMES
    origins: tuple[str, ...] = ()
    most_body_bytes: int = 4 << 20
    most_json_depth: int = MOST_DEPTH
    body_timeout_s: float = BODY_TIMEOUT_S
    request_timeout_s: float | None = 600.0

    def stand_before(self, app: Starlette) -> None:
        """Add what guards `app`. Starlette runs what was added last first."""
        app.add_middleware(Attended, timeout_s=self.request_timeout_s)
        app.add_middleware(Limited, limits=self.limits, gate=self.gate, gated_paths=self.gated_paths)
        app.add_middleware(
            BodyRead, most_bytes=self.most_body_bytes, timeout_s=self.body_timeout_s, most_depth=self.most_json_depth
        )
        app.add_middleware(Keyed, keyring=self.keyring, open_paths=self.open_paths)
        app.add_middleware(Doors, hosts=self.hosts, origins=self.origins)
        app.add_middleware(Visited, watchers=(self.metrics, self.log))
        app.add_middleware(SafeHeaders)
