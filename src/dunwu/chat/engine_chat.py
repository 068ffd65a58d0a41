"""A model in an engine that many conversations share, as an `AsyncChat`."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, Unpack

from dunwu.chat.asking import AnswerWriter, question
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Piece
from dunwu.core.errors import BusyError, DataError, PartnerError
from dunwu.core.records import Message
from dunwu.infer.async_engine import EventStream
from dunwu.infer.events import FinishEvent, TokenEvent
from dunwu.infer.sequence import Request
from dunwu.tokenizer.like import TokenizerLike

LONG_CHARACTERS = 20_000
"""From here on writing a conversation's tokens takes so long that it happens beside the event loop."""


class Submits(Protocol):
    """What is needed of an `AsyncEngine`."""

    async def submit(self, request: Request) -> EventStream: ...


class EngineChat(AsyncChat):
    """Nothing is forgotten to make room: a conversation that fills `context_length` is refused with DataError."""

    def __init__(self, engine: Submits, tokenizer: TokenizerLike, *, context_length: int, name: str = "model") -> None:
        self.engine, self.tokenizer, self.context_length, self.name = engine, tokenizer, context_length, name

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        if sum(len(message.content) for message in messages) > LONG_CHARACTERS:
            asked = await asyncio.to_thread(question, self.tokenizer, messages, options)
        else:
            asked = question(self.tokenizer, messages, options)
        if len(asked.prompt_ids) >= self.context_length:
            raise DataError(
                f"the conversation takes {len(asked.prompt_ids)} tokens, and this model reads {self.context_length}, its "
                "answer included; shorten it"
            )
        writer = AnswerWriter(self.tokenizer, asked, model=self.name)
        request = Request(id=f"chat-{uuid.uuid4().hex}", prompt_ids=asked.prompt_ids, params=asked.params)
        try:
            stream = await self.engine.submit(request)
        except BusyError as error:
            raise PartnerError(str(error), transient=True) from error
        async with stream:
            async for event in stream:
                if isinstance(event, TokenEvent):
                    for delta in writer.push(event):
                        yield delta
                elif isinstance(event, FinishEvent):
                    for piece in writer.finish(event):
                        yield piece
