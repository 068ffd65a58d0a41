"""A model of this server as a chat, for those who put something around it: routes, and strategies."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Unpack

from dunwu.chat.engine_chat import EngineChat
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Piece
from dunwu.core.errors import DataError, ModelError, PartnerError
from dunwu.core.records import Message
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel


class LocalPartner(AsyncChat):
    """`model` gives it, read now if it was not yet."""

    def __init__(self, model: Callable[[], Awaitable[ServedModel]], name: str) -> None:
        self.model, self.name = model, name

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        try:
            model = await self.model()
            chat = EngineChat(model, model.tokenizer, context_length=model.context_length, name=self.name)
            async with aclosing(chat.pieces(messages, options)) as pieces:
                async for piece in pieces:
                    yield piece
        except ApiError as error:
            if error.status == 400:
                raise DataError(error.message) from error
            raise PartnerError(error.message, transient=error.status in (429, 503)) from error
        except ModelError as error:
            raise PartnerError(str(error), transient=True) from error
