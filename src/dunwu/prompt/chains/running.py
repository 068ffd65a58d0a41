"""What a run brings to its steps: partners to ask, options, a clock, and an ear for what happens."""

import asyncio
import inspect
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar, cast

from dunwu.chat.bridge import Blocking, Threaded
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import AsyncChat, Chat, Delta, Piece, completion_of
from dunwu.core.errors import DataError, PartnerError, PromptError
from dunwu.core.records import Completion, Message
from dunwu.core.templates import nearest_name
from dunwu.prompt.chains.trace import Span, Trace

AnyChat = Chat | AsyncChat


def is_async(chat: AnyChat) -> TypeGuard[AsyncChat]:
    """Which of the two it is. They have the same methods, so that a check of the protocol alone does not tell."""
    return AsyncChat in type(chat).__mro__ or inspect.isasyncgenfunction(type(chat).pieces)


T = TypeVar("T")
Values = Mapping[str, Any]
DEFAULT = ""
"""The name of the partner that answers where a step names none."""


class StepError(PromptError):
    """A step could not do with what it was given, such as an answer that is no JSON; another attempt may end better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A step begins, with so many items."""

    path: str
    step: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A piece of a step's answer, as it is written."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """An attempt failed, and there will be another after `wait_s`; what it said does not count."""

    path: str
    error: str
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A step is done with an item, well or not."""

    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end: all values by name, and the `answer`: what the chain is for. `completion`: of the step that asked last."""

    values: Mapping[str, Any]
    answer: Any
    trace: Trace
    error: Exception | None = None
    completion: Completion | None = None


Event = Began | Text | Again | Ended | Result


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a step made of one item: values, or an error."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    error: Exception | None = None
    completion: Completion | None = None
    asked: Sequence[Message] = ()
    children: list[Span] = field(default_factory=list[Span])


@dataclass(slots=True, kw_only=True)
class Row:
    """An item on its way through a chain. After an error nothing more is done with it."""

    values: dict[str, Any]
    error: Exception | None = None
    completion: Completion | None = None
    spans: list[Span] = field(default_factory=list[Span])


class Partner:
    """Anybody who answers, for the steps of one run. A `Chat` runs in a thread of its own, one call at a time."""

    def __init__(self, chat: AnyChat) -> None:
        self._async = chat if is_async(chat) else None
        self._chat = None if is_async(chat) else cast("Chat", chat)
        self._pool = ThreadPoolExecutor(8 if isinstance(chat, Blocking) else 1, "chain") if self._chat else None
        self._turns = asyncio.Semaphore(8 if isinstance(chat, Blocking) else 1)

    async def replies(
        self, conversations: Sequence[Sequence[Message]], options: ChatOptions
    ) -> list[Completion | Exception]:
        """All at once. Where a batch fails as a whole, each is asked alone, so that one does not fail for another."""
        if self._async is not None:
            return await _each(self._async.reply(messages, options) for messages in conversations)
        assert self._chat is not None
        try:
            return [*await self._run(self._chat.reply_batch, conversations, options)]
        except Exception as error:
            if len(conversations) == 1:
                return [error]
        return await _each(self._run(self._chat.reply, messages, options) for messages in conversations)

    async def spoken(
        self, messages: Sequence[Message], options: ChatOptions, said: Callable[[str], Awaitable[None]]
    ) -> Completion | Exception:
        """One answer, its text told as it is written."""
        told: list[Piece] = []
        try:
            async with self._turn() as chat, aclosing(chat.pieces(messages, options)) as pieces:
                async for piece in pieces:
                    told.append(piece)
                    if isinstance(piece, Delta) and piece.text:
                        await said(piece.text)
            return completion_of(told)
        except Exception as error:
            return error

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[AsyncChat]:
        if self._async is not None:
            yield self._async
            return
        assert self._chat is not None
        async with self._turns:
            chat = Threaded(self._chat)
            try:
                yield chat
            finally:
                chat.close()

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        async with self._turns:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        """End its thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)


async def _each(asked: Iterable[Awaitable[Completion]]) -> list[Completion | Exception]:
    found: list[Completion | Exception] = []
    for one in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(one, BaseException) and not isinstance(one, Exception):
            raise one  # cancelled
        found.append(one)
    return found


class Run:
    """`chats`: partners by name, the default under "". `options`: for steps that say nothing else. `count`: tokens of a text.
    `hear`: told of each event; without it answers are not asked for piece by piece."""

    def __init__(
        self,
        chats: Mapping[str, AnyChat],
        *,
        options: ChatOptions | None = None,
        count: Callable[[str], int] | None = None,
        hear: Callable[[Event], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options, self.count, self.sleep, self.clock = options or ChatOptions(), count or guess_tokens, sleep, clock
        self.chance = random.Random(0)
        self.hear = hear
        self.began = clock()
        self._chats, self._partners = chats, dict[int, Partner]()

    def partner(self, chat: AnyChat | None, name: str, step: str) -> Partner:
        """Who answers a step. Raises PromptError where nobody does."""
        if chat is None:
            chat = self._chats.get(name, self._chats.get(DEFAULT) if name == DEFAULT else None)
        if chat is None:
            known = [one for one in self._chats if one != DEFAULT]
            wanted = (
                f"the model {name!r}, which was not given; {nearest_name(name, known)}"
                if name
                else "a model, and none was given"
            )
            raise PromptError(f"{step} needs {wanted}")
        return self._partners.setdefault(id(chat), Partner(chat))

    async def tell(self, event: Event) -> None:
        """To whoever listens."""
        if self.hear is not None:
            await self.hear(event)

    def close(self) -> None:
        """End the threads of this run."""
        for partner in self._partners.values():
            partner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a step is attempted in all; it waits `first_wait_s`, then twice as long, each time a random share between a half
    and the whole, at most `most_wait_s`, and no less than an endpoint asks for."""

    attempts: int = 3
    first_wait_s: float = 0.5
    most_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_wait_s < 0 or self.most_wait_s < 0:
            raise PromptError(
                f"retries of {self.attempts} attempts and waits of {self.first_wait_s} s to {self.most_wait_s} s make no sense; "
                "give at least 1 attempt, and waits of 0 or more"
            )

    def wait_s(self, attempt: int, errors: Sequence[Exception], chance: random.Random) -> float:
        """Before the attempt after this one, which is counted from 1."""
        asked = [error.retry_after_s or 0.0 for error in errors if isinstance(error, PartnerError)]
        drawn = self.first_wait_s * 2 ** (attempt - 1) * chance.uniform(0.5, 1.0)
        return min(max([drawn, *asked]), self.most_wait_s)


def may_help(error: Exception) -> bool:
    """Whether another attempt may end better."""
    return isinstance(error, StepError) or (isinstance(error, PartnerError) and error.transient)


def guess_tokens(text: str) -> int:
    """For partners that do not tell: a token for each three bytes of other scripts, and for each four characters of ASCII."""
    plain = sum(character < "\x80" for character in text)
    return -(-plain // 4) + -(-(len(text.encode("utf-8", "replace")) - plain) // 3)


def token_counter(chat: AnyChat) -> Callable[[str], int]:
    """By the model's own tokenizer, where it is at hand."""
    tokenizer = getattr(chat, "tokenizer", None)
    return guess_tokens if tokenizer is None else lambda text: len(tokenizer.encode(text))


def require_answer(completion: Completion, step: str) -> Exception | None:
    """Nothing was written where the question left no room."""
    if completion.finish_reason == "context" and not completion.text:
        return DataError(f"{step}: the question fills the model's context; give it less text, or split it first")
    return None
