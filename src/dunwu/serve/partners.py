"""`POST /v1/chat/completions` for models behind the gateway: the question and the answer pass through the `Chat` protocol."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from dunwu.chat.calls import Piece as CallPiece
from dunwu.chat.calls import gathered
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import AsyncChat, Delta, Finish, Piece
from dunwu.core.errors import BudgetError, DataError, PartnerError, RecipeError
from dunwu.core.records import TokenLogprob, TokenUsage
from dunwu.serve.answers import Head, finite
from dunwu.serve.asking import DEFAULT_TEMPERATURE
from dunwu.serve.chat_writing import ChunkWriter, completion, delta_of, message
from dunwu.serve.conversation import messages_of
from dunwu.serve.errors import RETRY_AFTER_S, ApiError
from dunwu.serve.objects import ChatCompletion, ChatLogprobs, FinishReason, UsageObject
from dunwu.serve.schemas import ChatRequest
from dunwu.serve.visit import Visit

OWN_ONLY = (
    "top_k", "min_p", "typical_p", "repetition_penalty", "logit_bias", "stop_token_ids", "min_tokens", "ignore_eos",
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "chat_template_kwargs",
)  # fmt: skip
"""What only models of this server understand."""


@dataclass(slots=True, kw_only=True)
class Passed:
    """An answer under way, its first piece already there."""

    head: Head
    request: ChatRequest
    first: Piece | None
    rest: AsyncGenerator[Piece]
    visit: Visit

    async def pieces(self) -> AsyncIterator[Piece]:
        """All of it. Raises ApiError."""
        async with aclosing(self.rest):
            try:
                piece = self.first
                while piece is not None:
                    self._count(piece)
                    yield piece
                    piece = await anext(self.rest, None)
            except _ERRORS as error:
                raise _api_error(error) from error

    def _count(self, piece: Piece) -> None:
        if isinstance(piece, Delta):
            self.visit.wrote(max(1, len(piece.ids)))
        elif piece.usage is not None:
            self.visit.read(piece.usage.prompt_tokens, cached_tokens=piece.usage.cached_tokens)


async def ask(request: ChatRequest, chat: AsyncChat, visit: Visit) -> Passed:
    """Begin the answer, and wait for its first piece, so that what goes wrong has a status. Raises ApiError."""
    visit.model = request.model
    try:
        rest: Any = chat.pieces(messages_of(request.messages), _options(request))
        first = await anext(rest, None)
    except _ERRORS as error:
        raise _api_error(error) from error
    return Passed(head=Head.new("chatcmpl", request.model), request=request, first=first, rest=rest, visit=visit)


def _options(request: ChatRequest) -> ChatOptions:
    for name in OWN_ONLY:
        if getattr(request, name) is not None:
            raise _not_here(name, getattr(request, name))
    if (request.n or 1) > 1:
        raise _not_here("n", request.n)
    form, schema = request.response_format, None
    if form is not None and form.type != "text":
        schema = {"type": "object"} if form.json_schema is None else form.json_schema.schema_
    choice = request.tool_choice or ("auto" if request.tools else "none")
    return ChatOptions(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        seed=request.seed,
        stop=request.stops,
        tools=() if choice == "none" else tuple(tool.model_dump(exclude_none=True) for tool in request.tools or ()),
        tool_choice=choice if isinstance(choice, str) else choice.model_dump(),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        schema=schema,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _not_here(name: str, value: object) -> ApiError:
    text = f"{name}={str(value)[:80]} is not for models behind the gateway; leave it out"
    return ApiError(400, text, param=name, code="invalid_value")


async def whole(passed: Passed) -> ChatCompletion:
    """The answer in one piece."""
    said: list[CallPiece] = []
    logprobs: list[TokenLogprob] = []
    end: Finish | None = None
    async for piece in passed.pieces():
        if isinstance(piece, Finish):
            end = piece
        else:
            said += [part for part in (piece.text, piece.call) if part]
            logprobs += piece.logprobs
    if end is None:
        raise _broken_off()
    text, calls = gathered(said)
    listed = _logprobs(logprobs) if passed.request.logprobs else None
    choice = {"index": 0, "message": message(text, calls), "logprobs": listed, "finish_reason": _ended(end)}
    return completion(passed.head, [choice], _usage(end.usage))  # pyright: ignore[reportArgumentType]


async def chunks(passed: Passed) -> AsyncIterator[str]:
    """The answer as server-sent events, but for the last."""
    options = passed.request.stream_options
    writer = ChunkWriter(passed.head, counts=bool(options and options.include_usage))
    end: Finish | None = None
    yield writer.begin(0)
    async for piece in passed.pieces():
        if isinstance(piece, Finish):
            end = piece
            yield writer.chunk(0, {}, finish_reason=_ended(piece))
            continue
        logprobs = _logprobs(piece.logprobs) if passed.request.logprobs and piece.logprobs else None
        for part in (piece.text, piece.call):
            if part:
                yield writer.chunk(0, delta_of(part), logprobs)
                logprobs = None
        if logprobs:
            yield writer.chunk(0, {"content": ""}, logprobs)
    if end is None:
        raise _broken_off()
    if writer.counts:
        yield writer.usage(_usage(end.usage))


def _ended(end: Finish) -> FinishReason:
    return "length" if end.reason == "context" else end.reason


def _usage(usage: TokenUsage | None) -> UsageObject:
    usage = usage or TokenUsage()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> ChatLogprobs:
    return {
        "content": [
            {
                "token": one.text,
                "logprob": finite(one.logprob),
                "bytes": list(one.text.encode(errors="replace")),
                "top_logprobs": [
                    {"token": text, "logprob": finite(value), "bytes": list(text.encode(errors="replace"))}
                    for text, value in one.top
                ],
            }
            for one in tokens
        ],
        "refusal": None,
    }


_ERRORS = (PartnerError, BudgetError, DataError, RecipeError)


def _broken_off() -> ApiError:
    return ApiError(502, "the answer broke off before its end; ask again", code="partner_failed")


def _api_error(error: Exception) -> ApiError:
    match error:
        case BudgetError():
            return ApiError(429, str(error), code="insufficient_quota", headers={"x-should-retry": "false"})
        case PartnerError(transient=True):
            return ApiError(
                503, str(error), code="partner_failed", retry_after_s=round(error.retry_after_s or RETRY_AFTER_S)
            )
        case PartnerError():
            return ApiError(502, str(error), code="partner_failed")
        case _:
            return ApiError(400, str(error), code="invalid_value")
