"""A client's messages as the model's chat template wants them, and their ids."""

import asyncio
from collections.abc import Sequence
from typing import Any

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.records import Message, ToolCall
from dunwu.serve.asking import LONG_CHARACTERS
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.schemas import ChatMessage
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.template import encode_prompt

Tools = Sequence[dict[str, Any]]


async def prompt_ids(
    model: ServedModel, messages: Sequence[Message], *, tools: Tools = (), settings: dict[str, Any] | None = None
) -> list[int]:
    """The ids that the model goes on from. `settings` go to the template. Raises ApiError 400 where the model has no template,
    or it refuses the conversation."""
    if not model.chats:
        raise ApiError(
            400,
            f"the model {model.id!r} has no chat template: it only continues text; use /v1/completions",
            param="model",
            code="no_chat_template",
        )
    try:
        if tools or settings or sum(map(_characters, messages)) > LONG_CHARACTERS:
            return await asyncio.to_thread(_encode, model.tokenizer, messages, tools, settings or {})
        return _encode(model.tokenizer, messages, tools, settings or {})
    except (DataError, TokenizerError) as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from error


def messages_of(turns: Sequence[ChatMessage]) -> list[Message]:
    """The turns of a request as records."""
    return [
        Message(
            role="tool" if turn.role == "function" else turn.role,
            content=turn.said,
            tool_calls=tuple(
                ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in turn.tool_calls or ()
            ),
            tool_call_id=turn.tool_call_id,
            name=turn.name if turn.role in ("tool", "function") else None,
        )
        for turn in turns
    ]


def _characters(message: Message) -> int:
    return len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)


def _encode(tokenizer: TokenizerLike, messages: Sequence[Message], tools: Tools, settings: dict[str, Any]) -> list[int]:
    """Templates that insist on an order of roles get the conversation once more, in that order."""
    reserved = {"messages", "tools", "beginning", "add_generation_prompt"} & set(settings)
    if reserved:
        raise DataError(
            f"chat_template_kwargs cannot hold {', '.join(sorted(reserved))}; these have fields of their own"
        )
    try:
        return encode_prompt(tokenizer, messages, tools=tools, **settings)
    except DataError:
        settled = _settled(messages)
        if settled == list(messages):
            raise
        return encode_prompt(tokenizer, settled, tools=tools, **settings)


def _settled(messages: Sequence[Message]) -> list[Message]:
    """What the system says first, as one; turns of one side that follow each other joined."""
    told = [one.content for one in messages if one.role in ("system", "developer") and one.content]
    settled = [Message(role="system", content="\n\n".join(told))] if told else []
    for message in messages:
        last = settled[-1] if settled else None
        if message.role in ("system", "developer"):
            continue
        if last and last.role == message.role and message.role in ("user", "assistant"):
            joined = "\n\n".join(part for part in (last.content, message.content) if part)
            settled[-1] = Message(role=message.role, content=joined, tool_calls=(*last.tool_calls, *message.tool_calls))
        else:
            settled.append(message)
    return settled
