"""Partners made of partners: asked again, one after the other, the small one before the large.

Each is an `AsyncChat` around others, so that they nest; `bridge.py` makes them of, and to, partners that block, and `ledger.py`
counts what they take.
"""

import asyncio
import inspect
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, Unpack

from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Finish, Piece, completion_of
from dunwu.core.errors import BudgetError, PartnerError, RecipeError
from dunwu.core.records import Completion, Message

Sleep = Callable[[float], Awaitable[object]]
Verdict = Callable[[Sequence[Message], Completion], bool | Awaitable[bool]]


class Retrying(AsyncChat):
    """Asks again, `attempts` times in all, when no answer came and another may: after `first_wait_s`, then twice as long, each
    time a random share of it between a half and the whole, or as long as the endpoint asks for; `most_wait_s` at most. An answer
    that breaks off after its first words is not begun again."""

    def __init__(
        self,
        chat: AsyncChat,
        *,
        attempts: int = 4,
        first_wait_s: float = 0.5,
        most_wait_s: float = 30.0,
        sleep: Sleep = asyncio.sleep,
        chance: random.Random | None = None,
    ) -> None:
        _require_count("attempts", attempts)
        self.chat, self.attempts = chat, attempts
        self._first_wait_s, self._most_wait_s, self._sleep = first_wait_s, most_wait_s, sleep
        self._chance = chance or random.Random()

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        for attempt in range(1, self.attempts + 1):
            said = False
            try:
                async with aclosing(self.chat.pieces(messages, options)) as pieces:
                    async for piece in pieces:
                        said = True
                        yield piece
                return
            except PartnerError as error:
                if said or not error.transient or attempt == self.attempts:
                    raise
                wait_s = self._wait_s(attempt, error.retry_after_s)
            await self._sleep(wait_s)

    def _wait_s(self, attempt: int, asked_s: float | None) -> float:
        wait_s = self._first_wait_s * 2 ** (attempt - 1) * self._chance.uniform(0.5, 1.0)
        return min(max(wait_s, asked_s or 0.0), self._most_wait_s)


class Fallback(AsyncChat):
    """Asks the next partner when one does not answer. One that broke off after its first words is not followed by another.
    What no partner could answer (a bad schema, an empty conversation) is raised at once."""

    def __init__(self, chats: Sequence[AsyncChat]) -> None:
        _require_count("the number of partners", len(chats))
        self.chats = tuple(chats)

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        failed: list[str] = []
        for chat in self.chats:
            said = False
            try:
                async with aclosing(chat.pieces(messages, options)) as pieces:
                    async for piece in pieces:
                        said = True
                        yield piece
                return
            except (PartnerError, BudgetError) as error:
                if said or len(self.chats) == 1:
                    raise
                failed.append(str(error))
        raise PartnerError(f"none of {len(self.chats)} partners answered: " + "; ".join(failed), transient=True)


class Judge(Protocol):
    """Says whether an answer will do. `how` changes the options so that it can be judged."""

    def how(self, options: ChatOptions) -> ChatOptions: ...

    async def sure(
        self, chat: AsyncChat, messages: Sequence[Message], options: ChatOptions, answer: Completion
    ) -> bool: ...


class MeanLogprob(Judge):
    """Sure when the mean log-probability of the answer's tokens, nats, is `at_least` so much: -0.1 is a probability of 0.9 a token."""

    def __init__(self, at_least: float = -0.3) -> None:
        if not at_least <= 0:
            raise RecipeError(f"at_least={at_least} is the logarithm of a probability; use 0 or less, such as -0.3")
        self.at_least = at_least

    def how(self, options: ChatOptions) -> ChatOptions:
        return options if options.logprobs is not None else replace(options, logprobs=0)

    async def sure(
        self, chat: AsyncChat, messages: Sequence[Message], options: ChatOptions, answer: Completion
    ) -> bool:
        scores = [one.logprob for one in answer.logprobs]
        return bool(scores) and sum(scores) / len(scores) >= self.at_least


class SelfConsistency(Judge):
    """Sure when at least a share `agree` of `samples` answers, the first among them, come to the same end (arXiv:2203.11171).

    `key`: what two answers must have in common; by default their calls, or their last line without case and punctuation. The
    others are drawn at `temperature`, with seeds of their own.
    """

    def __init__(
        self,
        *,
        samples: int = 3,
        agree: float = 2 / 3,
        temperature: float = 0.7,
        key: Callable[[Completion], object] | None = None,
    ) -> None:
        _require_count("samples", samples, least=2)
        if not 0 < agree <= 1:
            raise RecipeError(f"agree={agree} is a share of the answers; use more than 0 and at most 1")
        self.samples, self.agree, self.temperature, self.key = samples, agree, temperature, key or _last_line

    def how(self, options: ChatOptions) -> ChatOptions:
        return options

    async def sure(
        self, chat: AsyncChat, messages: Sequence[Message], options: ChatOptions, answer: Completion
    ) -> bool:
        others = [
            replace(options, temperature=self.temperature, seed=None if options.seed is None else options.seed + number)
            for number in range(1, self.samples)
        ]
        drawn = await asyncio.gather(*(chat.reply(messages, one) for one in others))
        wanted = self.key(answer)
        return 1 + sum(self.key(one) == wanted for one in drawn) >= self.agree * self.samples - 1e-9


class Function(Judge):
    """Sure when a function of the conversation and the answer says so; it may be asynchronous."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def how(self, options: ChatOptions) -> ChatOptions:
        return options

    async def sure(
        self, chat: AsyncChat, messages: Sequence[Message], options: ChatOptions, answer: Completion
    ) -> bool:
        said = self.verdict(messages, answer)
        return bool(await said if inspect.isawaitable(said) else said)


class Cascade(AsyncChat):
    """Asks the first partner, and the next only where `judge` is not sure of its answer, or none came, or it was cut off by the
    partner's own context. The last one's answer stands. Only this last one streams: the others' answers are judged whole.

    The cost of an answer is that of all that were asked for it, as far as they tell it.
    """

    def __init__(self, chats: Sequence[AsyncChat], judge: Judge) -> None:
        _require_count("the number of partners", len(chats), least=2)
        self.chats, self.judge = tuple(chats), judge

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        cost: float | None = None
        for chat in self.chats[:-1]:
            try:
                told = [piece async for piece in chat.pieces(messages, self.judge.how(options))]
                answer = completion_of(told)
                sure = answer.finish_reason != "context" and await self.judge.sure(chat, messages, options, answer)
            except (PartnerError, BudgetError):
                continue
            cost = _sum(cost, answer.cost)
            if sure:
                for piece in told:
                    yield _shown(piece, options, cost)
                return
        async with aclosing(self.chats[-1].pieces(messages, options)) as pieces:
            async for piece in pieces:
                yield replace(piece, cost=_sum(cost, piece.cost)) if isinstance(piece, Finish) else piece


def _shown(piece: Piece, options: ChatOptions, cost: float | None) -> Piece:
    """Without what was asked only in order to judge."""
    if isinstance(piece, Finish):
        return replace(piece, cost=cost)
    return piece if options.logprobs is not None else replace(piece, logprobs=())


def _sum(*costs: float | None) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def _last_line(answer: Completion) -> object:
    if answer.tool_calls:
        return [(call.name, call.arguments) for call in answer.tool_calls]
    return re.sub(r"[\W_]+", " ", answer.text.strip().rpartition("\n")[2]).strip().casefold()


def _require_count(name: str, value: int, *, least: int = 1) -> None:
    if value < least:
        raise RecipeError(f"{name} is {value}; use at least {least}")
