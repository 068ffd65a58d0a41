"""How much may be asked: requests and tokens a minute, requests at once, and how many may queue.

Buckets that fill at an even rate (token buckets): a key that was quiet may use a minute's worth at once, and no more.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dunwu.serve.errors import ApiError
from dunwu.serve.keys import Key
from dunwu.serve.visit import visit_of

Clock = Callable[[], float]
MOST_RETRY_S = 300
UNKNOWN_RETRY_S = 5
_RECENT_S = 60.0


class Bucket:
    """Holds up to `per_minute`, and fills by as much in a minute. May be overdrawn: that much must come in first."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level, self._stamp = float(per_minute), clock()

    @property
    def level(self) -> float:
        """What is there now."""
        now = self._clock()
        gained = (now - self._stamp) * self.per_minute / 60
        self._level, self._stamp = min(self._level + gained, float(self.per_minute)), now
        return self._level

    def take(self, amount: float) -> None:
        """Take it, whether it is there or not."""
        self._level = self.level - amount

    def seconds_until(self, amount: float) -> float:
        """Until so much is there; 0 where it is."""
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one key, or of all who come without one. None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    def of(self, key: Key | None) -> "Limits":
        """These, where the key has none of its own."""
        if key is None:
            return self
        return Limits(
            requests_per_minute=key.requests_per_minute or self.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute or self.tokens_per_minute,
            concurrent_requests=key.concurrent_requests or self.concurrent_requests,
        )


class Account:
    """What one key has used."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.running = 0
        self.change(limits, clock)

    def change(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        """Begin anew with other limits; what runs goes on."""
        self.limits = limits
        self.requests = None if limits.requests_per_minute is None else Bucket(limits.requests_per_minute, clock)
        self.tokens = None if limits.tokens_per_minute is None else Bucket(limits.tokens_per_minute, clock)

    def refusal(self) -> ApiError | None:
        """Why the next request may not begin; None takes it."""
        if self.requests is not None and self.requests.level < 1:
            what, wait_s = f"{self.limits.requests_per_minute} requests a minute", self.requests.seconds_until(1)
        elif self.tokens is not None and self.tokens.level < 1:
            what, wait_s = f"{self.limits.tokens_per_minute} tokens a minute", self.tokens.seconds_until(1)
        elif self.limits.concurrent_requests is not None and self.running >= self.limits.concurrent_requests:
            what, wait_s = f"{self.limits.concurrent_requests} requests at a time", 1.0
        else:
            return None
        after = _retry_after(wait_s)
        return ApiError(
            429,
            f"this key may make {what}, and has; try again in {after} s",
            code="rate_limit_exceeded",
            retry_after_s=after,
            headers=self.headers(),
        )

    def charge(self, tokens: int) -> None:
        """Count tokens against the minute."""
        if self.tokens is not None:
            self.tokens.take(tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`."""
        found: dict[str, str] = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                found[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.per_minute):.3f}s"
        return found


class Gate:
    """Turns requests away where the queue is full, and tells them when to come back.

    `full` and `waiting`: whether the engine takes no more, and how many wait there.
    """

    def __init__(self, full: Callable[[], bool], waiting: Callable[[], int], clock: Clock = time.monotonic) -> None:
        self._full, self._waiting, self._clock = full, waiting, clock
        self._left: deque[float] = deque(maxlen=1024)

    def refusal(self) -> ApiError | None:
        """Why nobody may come in now; None where there is a place."""
        if not self._full():
            return None
        after = self.retry_after_s()
        message = f"{self._waiting()} requests wait, as many as this server queues; try again in {after} s"
        return ApiError(429, message, code="queue_full", retry_after_s=after)

    def retry_after_s(self) -> int:
        """What half of the queue takes at the pace of the last minute: whoever comes back then finds room."""
        now = self._clock()
        recent = [stamp for stamp in self._left if now - stamp < _RECENT_S]
        if len(recent) < 2 or now <= recent[0]:
            return _retry_after(UNKNOWN_RETRY_S)
        return _retry_after(0.5 * self._waiting() * (now - recent[0]) / len(recent))

    def leave(self) -> None:
        """A request was answered."""
        self._left.append(self._clock())


def _retry_after(seconds: float) -> int:
    return min(max(math.ceil(seconds), 1), MOST_RETRY_S)


class Limited:
    """Holds the limits where work is asked for (`POST`); the gate stands before `gated_paths` alone."""

    def __init__(self, app: ASGIApp, *, limits: Limits, gate: Gate, gated_paths: Iterable[str]) -> None:
        self.app, self.limits, self.gate, self.gated_paths = app, limits, gate, frozenset(gated_paths)
        self._accounts: dict[str, Account] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        visit, account = visit_of(scope), self._account(scope.get("dunwu.key"))
        gated = scope["path"] in self.gated_paths
        refusal = account.refusal() or (self.gate.refusal() if gated else None)
        if refusal is not None:
            visit.refusal = refusal.code
            await refusal.response()(scope, receive, send)
            return
        if account.requests is not None:
            account.requests.take(1)
        visit.charge = account.charge

        async def send_(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in account.headers().items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        account.running += 1
        try:
            await self.app(scope, receive, send_)
        finally:
            account.running -= 1
            if gated and visit.refusal is None:
                self.gate.leave()

    def _account(self, key: Key | None) -> Account:
        name, limits = "" if key is None else key.name, self.limits.of(key)
        account = self._accounts.setdefault(name, Account(limits))
        if account.limits != limits:
            account.change(limits)
        return account
