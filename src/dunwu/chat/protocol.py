"""What every partner in a conversation can do: our own engine, an endpoint somewhere, several behind a router, a scripted fake.

A partner gives its answer in `Delta`s; all else follows from these. `Chat` waits in the caller's thread and `AsyncChat` in
asyncio; `bridge.py` makes either of the other.
"""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Protocol, Unpack, runtime_checkable

from dunwu.chat.calls import CallDelta, gathered
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.core.errors import PartnerError
from dunwu.core.records import Completion, Message, TokenLogprob, TokenUsage

FinishReason = Literal["stop", "length", "context", "tool_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of an answer. `logprobs` and `ids` are those of the tokens that came with it, whose text may be shown later.
    `thinking`: what was thought before the answer, and is no part of it."""

    text: str = ""
    thinking: str = ""
    call: CallDelta | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end of an answer; see `Completion`."""

    reason: FinishReason
    usage: TokenUsage | None = None
    cost: float | None = None
    model: str = ""


Piece = Delta | Finish


@runtime_checkable
class Chat(Protocol):
    """Answers a conversation, whatever the order of its roles; where the last message is the assistant's, it goes on from there.

    Options come as one record, as keywords, or both: `chat.reply(messages, options, temperature=0.7)`. All methods raise
    DataError or RecipeError for what cannot be asked, and PartnerError when no answer comes.
    """

    @abstractmethod
    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        """The answer as it is made: deltas, and last a `Finish`. Closing the iterator ends the answer."""
        ...

    def stream(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[str]:
        """The text of the answer in pieces as they are made; joined they are the text of `reply`."""
        for piece in self.pieces(messages, options, **changes):
            if isinstance(piece, Delta) and piece.text:
                yield piece.text

    def reply(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Completion:
        """The whole answer."""
        return completion_of(self.pieces(messages, options, **changes))

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        """One answer for each conversation, in their order."""
        return [self.reply(messages, options, **changes) for messages in conversations]

    def reply_each(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[ChatOptions]
    ) -> list[Completion]:
        """One answer for each conversation, each asked for by options of its own."""
        return [self.reply(messages, one) for messages, one in zip(conversations, options, strict=True)]


@runtime_checkable
class AsyncChat(Protocol):
    """`Chat` for callers in asyncio."""

    @abstractmethod
    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        """See `Chat.pieces`. Close it (`aclosing`) when you leave early."""
        ...

    async def stream(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[str]:
        """See `Chat.stream`."""
        async with aclosing(self.pieces(messages, options, **changes)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Delta) and piece.text:
                    yield piece.text

    async def reply(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Completion:
        """The whole answer."""
        return completion_of([piece async for piece in self.pieces(messages, options, **changes)])

    async def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        """One answer for each conversation, in their order; asked all at once."""
        return await self.reply_each(conversations, [settled(options, changes)] * len(conversations))

    async def reply_each(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[ChatOptions]
    ) -> list[Completion]:
        """One answer for each conversation, each asked for by options of its own; asked all at once."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.reply(messages, one))
                    for messages, one in zip(conversations, options, strict=True)
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others were cancelled
        return [task.result() for task in tasks]


def completion_of(pieces: Iterable[Piece]) -> Completion:
    """The whole answer. Raises PartnerError when its end is missing."""
    deltas: list[Delta] = []
    end: Finish | None = None
    for piece in pieces:
        if isinstance(piece, Finish):
            end = piece
        else:
            deltas.append(piece)
    if end is None:
        raise PartnerError("the answer broke off before its end; ask again", transient=True)
    text, calls = gathered([part for delta in deltas for part in (delta.text, delta.call) if part])
    return Completion(
        text=text,
        ids=tuple(number for delta in deltas for number in delta.ids),
        finish_reason=end.reason,
        tool_calls=calls,
        logprobs=tuple(one for delta in deltas for one in delta.logprobs),
        usage=end.usage,
        cost=end.cost,
        model=end.model,
        thinking="".join(delta.thinking for delta in deltas),
    )
