"""Chat completions from a `Chat` that is no engine of ours: an endpoint elsewhere, or several partners behind a route."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from dunwu.chat.calls import CallDelta
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import AsyncChat, Delta, Finish, Piece, completion_of
from dunwu.core.errors import BudgetError, DataError, DunwuError, PartnerError, RecipeError
from dunwu.core.records import Completion, TokenLogprob, TokenUsage
from dunwu.serve.answers import FINGERPRINT, Head, finite
from dunwu.serve.asking import DEFAULT_TEMPERATURE
from dunwu.serve.conversation import messages_of
from dunwu.serve.errors import RETRY_AFTER_S, ApiError
from dunwu.serve.objects import (
    AnswerMessage,
    ChatCompletion,
    ChatLogprobs,
    FinishReason,
    UsageObject,
)
from dunwu.serve.objects import TokenLogprob as TokenLogprobObject
from dunwu.serve.schemas import ChatRequest
from dunwu.serve.streams import sse
from dunwu.serve.visit import Visit

_KNOWN = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "verbosity",
        "modalities",
        "prediction",
        "add_generation_prompt",
        "continue_final_message",
    ]
)
"""Fields that partners understand, or that change no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """An answer under way; its first piece is there."""

    head: Head
    request: ChatRequest
    pieces: AsyncGenerator[Piece]


async def ask(request: ChatRequest, chat: AsyncChat, route: str, visit: Visit) -> Going:
    """Begin the answer, and wait for its first piece. Raises ApiError."""
    options = _options(request)
    pieces = _told(chat.pieces(messages_of(request.messages), options), visit, route)
    first = await anext(pieces, None)
    return Going(
        head=Head(id=f"chatcmpl-{uuid.uuid4().hex}", model=route), request=request, pieces=_after(first, pieces)
    )


def _options(request: ChatRequest) -> ChatOptions:
    for name in request.model_fields_set - _KNOWN:
        if name != "n" and getattr(request, name) is not None:
            raise ApiError(
                400, f"{name} is not for a route of partners; leave it out", param=name, code="unsupported_parameter"
            )
    if (request.n or 1) > 1:
        raise ApiError(400, f"n={request.n}: a route gives one answer; ask again for another", param="n")
    choice = request.tool_choice or "auto"
    schema: dict[str, Any] | None = None
    if request.response_format is not None and request.response_format.type != "text":
        given = request.response_format.json_schema
        schema = {"type": "object"} if given is None else dict(given.schema_ or {})
    try:
        return ChatOptions(
            max_tokens=request.max_completion_tokens or request.max_tokens,
            temperature=DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            seed=request.seed,
            stop=request.stops,
            tools=tuple(tool.model_dump(exclude_none=True) for tool in request.tools or ()),
            tool_choice=choice if isinstance(choice, str) else choice.model_dump(),
            parallel_tool_calls=request.parallel_tool_calls is not False,
            schema=schema,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        )
    except RecipeError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


async def _told(pieces: AsyncGenerator[Piece], visit: Visit, route: str) -> AsyncGenerator[Piece]:
    """The pieces, counted in the visit, and errors in OpenAI's form."""
    visit.read(0, model=route)
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    usage = piece.usage or TokenUsage()
                    visit.read(usage.prompt_tokens, cached_tokens=usage.cached_tokens)
                    visit.wrote(max(0, usage.completion_tokens - visit.completion_tokens))
                else:
                    visit.wrote(len(piece.ids) or 1)
                yield piece
        except DunwuError as error:
            raise _as_api_error(error) from error


def _as_api_error(error: DunwuError) -> ApiError:
    match error:
        case BudgetError():
            return ApiError(429, str(error), code="insufficient_quota")
        case PartnerError(transient=True):
            wait_s = RETRY_AFTER_S if error.retry_after_s is None else round(error.retry_after_s)
            return ApiError(503, str(error), code="partner_unavailable", retry_after_s=wait_s)
        case PartnerError():
            return ApiError(502, str(error), code="partner_failed")
        case DataError() | RecipeError():
            return ApiError(400, str(error), code="invalid_value")
        case _:
            return ApiError(500, str(error), code="partner_failed")


async def _after(first: Piece | None, rest: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    async with aclosing(rest):
        if first is not None:
            yield first
        async for piece in rest:
            yield piece


async def whole(going: Going) -> ChatCompletion:
    """The answer in one piece."""
    async with aclosing(going.pieces) as pieces:
        told = [piece async for piece in pieces]
    try:
        done = completion_of(told)
    except PartnerError as error:
        raise _as_api_error(error) from error
    message: AnswerMessage = {
        "role": "assistant",
        "content": done.text if done.text or not done.tool_calls else None,
        "refusal": None,
    }
    if done.thinking:
        message["reasoning_content"] = done.thinking
    if done.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in done.tool_calls
        ]
    return {
        "id": going.head.id,
        "object": "chat.completion",
        "created": going.head.created,
        "model": going.head.model,
        "system_fingerprint": FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": _logprobs(done.logprobs) if going.request.logprobs else None,
                "finish_reason": _reason(done),
            }
        ],
        "usage": _usage(done.usage),
    }


async def chunks(going: Going) -> AsyncIterator[str]:
    """The answer as server-sent events, but for the last."""
    counts = bool(going.request.stream_options and going.request.stream_options.include_usage)
    start = {
        "id": going.head.id,
        "object": "chat.completion.chunk",
        "created": going.head.created,
        "model": going.head.model,
        "system_fingerprint": FINGERPRINT,
    }

    def chunk(delta: Any, logprobs: ChatLogprobs | None = None, reason: FinishReason | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse({**start, "choices": [choice], **({"usage": None} if counts else {})})

    usage: TokenUsage | None = None
    ended = False
    yield chunk({"role": "assistant", "content": "", "refusal": None})
    async with aclosing(going.pieces) as pieces:
        async for piece in pieces:
            if isinstance(piece, Finish):
                usage, ended = piece.usage, True
                yield chunk({}, reason="length" if piece.reason == "context" else piece.reason)
            elif piece.text or piece.thinking or piece.call or piece.logprobs:
                yield chunk(_delta(piece), _logprobs(piece.logprobs) if piece.logprobs else None)
    if not ended:
        raise ApiError(503, "the answer broke off before its end; ask again", code="partner_unavailable")
    if counts:
        yield sse({**start, "choices": [], "usage": _usage(usage)})


def _delta(piece: Delta) -> dict[str, Any]:
    delta: dict[str, Any] = {"content": piece.text} if piece.text or not (piece.call or piece.thinking) else {}
    if piece.thinking:
        delta["reasoning_content"] = piece.thinking
    return delta | ({"tool_calls": [_call(piece.call)]} if piece.call else {})


def _call(call: CallDelta) -> dict[str, Any]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _reason(done: Completion) -> FinishReason:
    return "length" if done.finish_reason == "context" else done.finish_reason


def _usage(usage: TokenUsage | None) -> UsageObject:
    usage = usage or TokenUsage()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(scored: tuple[TokenLogprob, ...]) -> ChatLogprobs:
    content: list[TokenLogprobObject] = [
        {
            "token": one.text,
            "logprob": finite(one.logprob),
            "bytes": list(one.text.encode()),
            "top_logprobs": [
                {"token": text, "logprob": finite(logprob), "bytes": list(text.encode())} for text, logprob in one.top
            ],
        }
        for one in scored
    ]
    return {"content": content, "refusal": None}
