"""What partners take: tokens, time and money, counted for each of them and kept to budgets."""

import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Unpack

from dunwu.chat.options import ChatOptions, OptionChanges, Payer, settled
from dunwu.chat.protocol import AsyncChat, Finish, Piece
from dunwu.core.errors import BudgetError, RecipeError
from dunwu.core.files import read_json, write_json
from dunwu.core.records import Message, TokenUsage

Clock = Callable[[], float]
Period = Literal["total", "month", "day"]
_BYTES_PER_TOKEN = 3  # of a prompt whose tokens nobody counted; most texts have more


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """In one currency for all partners, for a million tokens. `cached` None: as `prompt`."""

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), ("completion", self.completion), ("cached", self.cached or 0.0)):
            if not 0 <= value < math.inf:
                raise RecipeError(f"a price of {value} for {name} tokens; use 0 or more, for a million tokens")

    def of(self, usage: TokenUsage) -> float:
        """What these tokens cost."""
        cached = self.prompt if self.cached is None else self.cached
        read = usage.prompt_tokens - usage.cached_tokens
        return (read * self.prompt + usage.cached_tokens * cached + usage.completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one partner took so far. `failed` and `left` answers are among `asked`; `first_s` and `whole_s` are sums of seconds,
    until the first piece and until the end, over those that were answered."""

    asked: int = 0
    failed: int = 0
    left: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    first_s: float = 0.0
    whole_s: float = 0.0

    @property
    def answered(self) -> int:
        return self.asked - self.failed - self.left


class Ledger:
    """Tallies by partner. For any thread."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._lock = threading.Lock()

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """As they stand now."""
        with self._lock:
            return dict(self._tallies)

    def add(self, name: str, more: Tally) -> None:
        """Add to a partner's tally."""
        with self._lock:
            old = self._tallies.get(name, Tally())
            self._tallies[name] = Tally(
                **{field: getattr(old, field) + getattr(more, field) for field in Tally.__dataclass_fields__}
            )


class Counted(AsyncChat):
    """Counts a partner in a ledger under `name`, and charges whoever pays. An answer that was left or that broke off is paid for
    by an estimate of its tokens. `price` None: nobody knows what it costs."""

    def __init__(
        self, chat: AsyncChat, name: str, ledger: Ledger, *, price: Price | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.chat, self.name, self.ledger, self.price, self._clock = chat, name, ledger, price, clock

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        started = self._clock()
        first_s: float | None = None
        end: Finish | None = None
        said, failed = 0, False
        try:
            async with aclosing(self.chat.pieces(messages, options)) as pieces:
                async for piece in pieces:
                    first_s = self._clock() - started if first_s is None else first_s
                    if isinstance(piece, Finish):
                        usage = piece.usage or _estimate(messages, said)
                        end = replace(piece, cost=self._cost(usage) if piece.cost is None else piece.cost)
                        yield end
                    else:
                        said += max(1, len(piece.ids))
                        yield piece
        except Exception:
            failed = True
            raise
        finally:
            self._close(messages, options, end, said, failed, first_s, self._clock() - started)

    def _close(
        self,
        messages: Sequence[Message],
        options: ChatOptions,
        end: Finish | None,
        said: int,
        failed: bool,
        first_s: float | None,
        whole_s: float,
    ) -> None:
        if end is not None:
            usage, cost = end.usage or _estimate(messages, said), end.cost
        else:
            usage = TokenUsage() if failed and not said else _estimate(messages, said)
            cost = self._cost(usage)
        answered = end is not None
        self.ledger.add(
            self.name,
            Tally(
                asked=1,
                failed=int(failed and not answered),
                left=int(not failed and not answered),
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                cost=cost or 0.0,
                first_s=first_s or 0.0 if answered else 0.0,
                whole_s=whole_s if answered else 0.0,
            ),
        )
        if options.payer is not None and cost:
            options.payer.charge(cost)

    def _cost(self, usage: TokenUsage) -> float | None:
        return None if self.price is None else self.price.of(usage)


def _estimate(messages: Sequence[Message], said: int) -> TokenUsage:
    size = sum(
        len(message.content.encode(errors="replace")) + sum(len(call.arguments) for call in message.tool_calls)
        for message in messages
    )
    return TokenUsage(prompt_tokens=math.ceil(size / _BYTES_PER_TOKEN) + 4 * len(messages), completion_tokens=said)


class Budget(Payer):
    """So much money for a period; the next day or month (UTC) begins anew. For any thread.

    Who asks while there is anything left is answered: answers under way at that moment may exceed the limit. With `path` what is
    spent outlives the process. `today` gives the date, for tests.
    """

    def __init__(
        self,
        name: str,
        limit: float,
        *,
        period: Period = "total",
        path: Path | None = None,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not 0 <= limit < math.inf:
            raise RecipeError(f"the budget of {name} is {limit}; use 0 or more")
        self.name, self.limit, self.period = name, limit, period
        self._path, self._today, self._lock = path, today, threading.Lock()
        self._span, self._spent = self._now(), 0.0
        if path is not None and path.exists():
            kept = read_json(path)
            if kept.get("span") == self._span:
                self._spent = float(kept.get("spent", 0.0))

    @property
    def spent(self) -> float:
        """In this period."""
        with self._lock:
            self._turn()
            return self._spent

    def charge(self, cost: float) -> None:
        with self._lock:
            self._turn()
            self._spent += cost
            if self._path is not None:
                write_json(self._path, {"budget": self.name, "span": self._span, "spent": self._spent})

    def require_open(self) -> None:
        """Raises BudgetError when all is spent."""
        spent = self.spent
        if spent >= self.limit:
            when = {"total": "", "month": "; the next month begins anew", "day": "; the next day (UTC) begins anew"}
            raise BudgetError(
                f"the budget of {self.name} is spent: {spent:.4f} of {self.limit:g}{when[self.period]}; raise its limit to go on"
            )

    def _turn(self) -> None:
        if (now := self._now()) != self._span:
            self._span, self._spent = now, 0.0

    def _now(self) -> str:
        return {"total": "", "month": f"{self._today():%Y-%m}", "day": f"{self._today():%Y-%m-%d}"}[self.period]


class Budgeted(AsyncChat):
    """Refuses with BudgetError when the budget is spent, and charges it with what partners below cost (`Counted` with a price)."""

    def __init__(self, chat: AsyncChat, budget: Budget) -> None:
        self.chat, self.budget = chat, budget

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        self.budget.require_open()
        payers = [one for one in (self.budget, options.payer) if one is not None]
        async with aclosing(self.chat.pieces(messages, replace(options, payer=_All(payers)))) as pieces:
            async for piece in pieces:
                yield piece


class _All(Payer):
    def __init__(self, payers: Sequence[Payer]) -> None:
        self._payers = payers

    def charge(self, cost: float) -> None:
        for payer in self._payers:
            payer.charge(cost)
