"""Asking a model many things, within a budget: what was answered before is taken from the journal, the rest is asked, some at a time.

What is asked, and what is not any more, depends on the answers alone and not on the order in which they come, so that a run which was
killed ends with the same rows as one that was not.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from dunwu.chat.ledger import Price
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat, completion_of
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.core.lineage import HASH_LENGTH, stable_hash
from dunwu.core.records import Completion, Message, TokenUsage
from dunwu.prompt.making.journal import Given, Journal
from dunwu.prompt.making.parsing import cleaned

MOST_FAILURES = 5  # in a row; then it is the partner, not the question
_BYTES_PER_TOKEN = 3  # of text whose tokens nobody counted
_TOKENS_PER_TURN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent, in all runs together; `seconds` in this one. None is no limit. No answer is asked for that could exceed tokens
    or cost: its prompt as others were counted, and all that it may write. Raises RecipeError for a budget of nothing."""

    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("tokens", self.tokens), ("cost", self.cost), ("time", self.seconds)):
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"a budget of {value} for {name} asks nothing; give more than 0, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the answers took that were used so far, whenever they were given."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to the model. `step`: what it is for; `prompt`: the name and hash of the wording."""

    step: str
    prompt: str
    text: str
    options: ChatOptions

    @property
    def messages(self) -> tuple[Message, ...]:
        return (Message(role="user", content=self.text),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back, without thoughts and fences. `finished`: not cut at the limit."""

    text: str
    finished: bool
    request: str
    prompt: str
    model: str


class BudgetSpent(Exception):  # noqa: N818  nothing went wrong
    """Nothing more may be asked. The message says of what there is no more."""


class Asker:
    """Answers requests in their order.

    `model`: who is asked; `price`: of a million tokens, where it is known. `stopping`: asked before each request; where it says yes,
    `BudgetSpent` is raised. `told` is called with what was spent after each answer. Any number of `at_a_time` gives the same rows.
    """

    def __init__(
        self,
        chat: Chat,
        journal: Journal,
        *,
        model: str,
        seed: int,
        budget: Budget | None = None,
        price: Price | None = None,
        at_a_time: int = 1,
        stopping: Callable[[], bool] = lambda: False,
        told: Callable[[Spent], None] = lambda spent: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if at_a_time < 1:
            raise RecipeError(f"at_a_time={at_a_time}; ask at least 1 at a time")
        self.spent, self.unanswered = Spent(), Counter[str]()
        self._chat, self._journal, self._model, self._seed = chat, journal, model, seed
        self._budget, self._price, self._at_a_time = budget or Budget(), price, at_a_time
        self._stopping, self._told, self._clock = stopping, told, clock
        self._began_s, self._answers_before = clock(), len(journal)
        self._failed_in_a_row = 0
        self._times: Counter[str] = Counter()
        self._rate: float | None = None  # tokens of a byte of a prompt, as this partner counts
        self._over: tuple[str, TokenUsage] | None = None  # what is used up, and what the next request may take

    def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """A reply to each, in their order; None where none came: the partner failed at it, or `over` says what is used up.

        Raises BudgetSpent where a signal or the time ends the work, and what the partner raises when it does not answer at all.
        """
        seeded = [self._seeded(request) for request in requests]
        # Nobody knows yet how this partner counts: the first answer tells.
        first = 1 if self._rate is None and self._budget != Budget() else len(seeded)
        return self._ask(seeded[:first]) + self._ask(seeded[first:])

    @property
    def over(self) -> str:
        """Of what there was too little for a request; nothing while there was enough."""
        if self._over is None:
            return ""
        what, worst = self._over
        cost = f" at a cost of {self.spent.cost:.4f}" if self.spent.cost else ""
        return (
            f"{what}: {self.spent.tokens:,} tokens are spent{cost}, and the next request may take "
            f"{worst.prompt_tokens + worst.completion_tokens:,}"
        )

    def _ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """Those that the budget surely allows; then, as most take less than they may, those that it allows now; and so on."""
        replies: list[Reply | None] = []
        while rest := requests[len(replies) :]:
            count, why = self._allowed(rest)
            if count == 0:
                self._over = why
                break
            replies += self._replies(rest[:count])
        return replies + [None] * (len(requests) - len(replies))

    def _replies(self, allowed: Sequence[Request]) -> list[Reply | None]:
        replies: list[Reply | None] = []
        for request, (key, answer) in zip(allowed, self._answers(allowed), strict=True):
            if isinstance(answer, Exception):
                self._note_failure(answer)
                replies.append(None)
                continue
            self._failed_in_a_row = 0
            self._charge(request, answer)
            replies.append(
                Reply(
                    text=cleaned(answer.text),
                    finished=answer.reason == "stop",
                    request=key[:HASH_LENGTH],
                    prompt=request.prompt,
                    model=answer.model,
                )
            )
        return replies

    @property
    def asked(self) -> int:
        """Answers that were not in the journal when this run began."""
        return len(self._journal) - self._answers_before

    def _seeded(self, request: Request) -> Request:
        """A seed that depends on what is asked, and on how many times it was asked before: the same in every run."""
        self._times[request.text] += 1
        drawn = stable_hash([self._seed, request.step, request.text, self._times[request.text]])
        return replace(request, options=replace(request.options, seed=int(drawn[:7], 16)))

    def _allowed(self, requests: Sequence[Request]) -> tuple[int, tuple[str, TokenUsage] | None]:
        """How many of these, from the first on, the budget surely allows; and why not the others: what it is, and the worst case."""
        tokens, cost = self.spent.tokens, self.spent.cost
        for place, request in enumerate(requests):
            worst = self._worst(request)
            tokens += worst.prompt_tokens + worst.completion_tokens
            cost += self._price.of(worst) if self._price else 0.0
            if self._budget.tokens is not None and tokens > self._budget.tokens:
                return place, (f"the budget of {self._budget.tokens:,} tokens", worst)
            if self._budget.cost is not None and cost > self._budget.cost:
                return place, (f"the budget of {self._budget.cost:g}", worst)
        return len(requests), None

    def _worst(self, request: Request) -> TokenUsage:
        """The most that a request may take: its prompt by what others took, and all that it may write."""
        size = len(request.text.encode("utf-8", "replace")) * max(self._rate or 0.0, 1 / _BYTES_PER_TOKEN)
        return TokenUsage(
            prompt_tokens=math.ceil(size) + _TOKENS_PER_TURN, completion_tokens=request.options.max_tokens or 0
        )

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[str, Given | Exception]]:
        """The answers, or why there is none. All that come are in the journal when an error leaves here."""
        if self._at_a_time == 1:
            for request in requests:
                yield self._answer(request)
            return
        with ThreadPoolExecutor(self._at_a_time, thread_name_prefix="making") as pool:
            waiting = [pool.submit(self._answer, request) for request in requests]
            try:
                for one in waiting:
                    yield one.result()
            finally:
                for one in waiting:
                    one.cancel()

    def _answer(self, request: Request) -> tuple[str, Given | Exception]:
        key = request_key(request, self._model)
        if (given := self._journal.get(key)) is not None:
            return key, given
        if self._stopping():
            raise BudgetSpent("the signal to stop")
        started = self._clock()
        if self._budget.seconds is not None and started - self._began_s >= self._budget.seconds:
            raise BudgetSpent(f"the budget of {self._budget.seconds:g} s")
        try:
            # Piece by piece: threads that share an engine then write side by side.
            answer = completion_of(self._chat.pieces(request.messages, request.options))
        except (PartnerError, DataError) as error:
            return key, error
        usage = answer.usage or _estimate(request, answer)
        given = Given(
            request=key,
            step=request.step,
            text=answer.text,
            reason=answer.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost=answer.cost if answer.cost is not None else self._price.of(usage) if self._price else 0.0,
            model=answer.model or self._model,
            seconds=round(self._clock() - started, 3),
        )
        self._journal.add(given)
        return key, given

    def _charge(self, request: Request, answer: Given) -> None:
        size = max(1, len(request.text.encode("utf-8", "replace")))
        self._rate = max(self._rate or 0.0, (answer.prompt_tokens - _TOKENS_PER_TURN) / size)
        self.spent = replace(
            self.spent,
            answers=self.spent.answers + 1,
            prompt_tokens=self.spent.prompt_tokens + answer.prompt_tokens,
            completion_tokens=self.spent.completion_tokens + answer.completion_tokens,
            cost=self.spent.cost + answer.cost,
        )
        self._told(self.spent)

    def _note_failure(self, error: Exception) -> None:
        """Raises it where the partner does not answer at all: a wrong key fails every question, a long passage only its own."""
        self._failed_in_a_row += 1
        hopeless = isinstance(error, PartnerError) and not error.transient and not len(self._journal)
        if hopeless or self._failed_in_a_row >= MOST_FAILURES:
            raise error
        self.unanswered[str(error)] += 1


def request_key(request: Request, model: str) -> str:
    """The hash of all that shapes an answer."""
    options: Mapping[str, Any] = {
        name: getattr(request.options, name)
        for name in (
            "max_tokens",
            "temperature",
            "top_p",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "stop",
            "schema",
        )
    }
    return stable_hash({"model": model, "text": request.text, **options})


def _estimate(request: Request, answer: Completion) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=_tokens(request.text) + _TOKENS_PER_TURN,
        completion_tokens=len(answer.ids) or _tokens(answer.text),
    )


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)
