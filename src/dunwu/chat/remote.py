"""Any OpenAI-compatible endpoint as a partner, over the `openai` package (the extra "remote")."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Unpack

from dunwu.chat.calls import CallDelta
from dunwu.chat.endpoint import KEY_VARIABLE, MOST_AT_A_TIME, TIMEOUT_S, Endpoint, library
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Delta, Finish, FinishReason, Piece
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.core.records import Message, TokenLogprob, TokenUsage

_FIELDS = frozenset(
    [
        "model",
        "messages",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
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
        "reasoning_effort",
    ]
)  # those that every version of the package knows
_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "stop",
}


class RemoteChat(AsyncChat):
    """One model of one endpoint. `bridge.Blocking` makes a `Chat` of it.

    `url`: up to and with `/v1`. `api_key` None: that of the environment's `key_variable`; endpoints that want none get a blank
    one. `timeout_s`: how long to wait for the beginning of an answer, and for each of its pieces. At most `most_at_a_time`
    answers are under way. Nothing is tried twice here: see `router.Retrying`. `extra`: fields of the request that
    `ChatOptions` does not know, such as `{"top_k": 20}`; None takes a field out. Raises MissingExtraError without the package `openai`, RecipeError for
    a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        key_variable: str = KEY_VARIABLE,
        timeout_s: float = TIMEOUT_S,
        most_at_a_time: int = MOST_AT_A_TIME,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.endpoint = Endpoint(url=url, model=model, key=api_key, key_variable=key_variable, timeout_s=timeout_s)
        self.name = model
        self._extra = dict(extra or {})
        self._turns = asyncio.Semaphore(most_at_a_time)
        self._client = library().AsyncOpenAI(**self.endpoint.settings())

    @property
    def url(self) -> str:
        return self.endpoint.url

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        if not messages:
            raise DataError("a conversation has no messages; give at least one from the user")
        body = {**request_of(self.name, messages, options), **self._extra}
        request = {name: value for name, value in body.items() if name in _FIELDS and value is not None}
        more = {name: value for name, value in body.items() if name not in _FIELDS and value is not None}
        async with self._turns:
            stream = None
            try:
                async with asyncio.timeout(self.endpoint.timeout_s):
                    stream = await self._client.chat.completions.create(
                        **request, stream=True, stream_options={"include_usage": True}, extra_body=more or None
                    )
                self._require_stream(stream)
                reader = _Reader(self.name, options)
                async for chunk in self._chunks(stream):
                    for piece in reader.read(chunk):
                        yield piece
                yield reader.finish()
            except PartnerError:
                raise
            except Exception as error:  # whatever lies between us and the model
                self.endpoint.fail(error)
            finally:
                if stream is not None and hasattr(stream, "close"):
                    await stream.close()

    async def models(self) -> list[str]:
        """The models that the endpoint offers. Raises PartnerError."""
        try:
            page = await self._client.models.list()
            return [str(model.id) for model in page.data]
        except Exception as error:
            self.endpoint.fail(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _chunks(self, stream: Any) -> AsyncIterator[Any]:
        steps = aiter(stream)
        while True:
            async with asyncio.timeout(self.endpoint.timeout_s):
                chunk = await anext(steps, None)
            if chunk is None:
                return
            yield chunk

    def _require_stream(self, stream: Any) -> None:
        response = getattr(stream, "response", None)
        kind = str(response.headers.get("content-type", "")) if response is not None else ""
        if response is None or "json" in kind or "html" in kind:
            raise PartnerError(
                f"{self.url} answered with {kind or 'something'} where a stream of events is due; is this the address of an "
                "OpenAI-compatible API? It mostly ends in /v1",
                transient=False,
            )


def request_of(model: str, messages: Sequence[Message], options: ChatOptions) -> dict[str, Any]:
    """The body of a chat completion. What is at its default is left out: not every endpoint knows every field.

    Raises RecipeError for a search with beams, which endpoints do not offer in one form.
    """
    if options.beams is not None:
        raise RecipeError(f"beams={options.beams} is for models on this machine; leave it out for an endpoint")
    body: dict[str, Any] = {
        "model": model,
        "messages": [_row(message) for message in messages],
        "temperature": options.temperature,
    }
    if options.max_tokens is not None:
        body["max_tokens"] = options.max_tokens
    for name, value, default in (
        ("top_p", options.top_p, 1.0),
        ("presence_penalty", options.presence_penalty, 0.0),
        ("frequency_penalty", options.frequency_penalty, 0.0),
        ("seed", options.seed, None),
        ("stop", list(options.stop), []),
    ):
        if value != default:
            body[name] = value
    if options.tools:
        body |= {"tools": list(options.tools), "tool_choice": options.tool_choice}
        if not options.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if options.schema is not None:
        wanted = {"name": "answer", "schema": dict(options.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if options.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": options.logprobs}
    return body


def _row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


_THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers tell what was thought before the answer."""


class _Reader:
    """Chunks of one streamed answer → pieces."""

    def __init__(self, model: str, options: ChatOptions) -> None:
        self._model, self._options = model, options
        self._reason: FinishReason | None = None
        self._usage: TokenUsage | None = None
        self._told_logprobs = self._wrote = False

    def read(self, chunk: Any) -> list[Piece]:
        self._model = getattr(chunk, "model", None) or self._model
        if usage := getattr(chunk, "usage", None):
            details = getattr(usage, "prompt_tokens_details", None)
            self._usage = TokenUsage(
                prompt_tokens=usage.prompt_tokens or 0,
                completion_tokens=usage.completion_tokens or 0,
                cached_tokens=getattr(details, "cached_tokens", 0) or 0,
            )
        pieces: list[Piece] = []
        for choice in chunk.choices or ():
            pieces += self._deltas(choice)
            if choice.finish_reason:
                self._reason = _REASONS.get(choice.finish_reason, "stop")
        return pieces

    def _deltas(self, choice: Any) -> list[Piece]:
        scored = tuple(_scored(one) for one in getattr(choice.logprobs, "content", None) or ())
        text = choice.delta.content or ""
        self._told_logprobs |= bool(scored)
        self._wrote |= bool(text)
        thought = next((said for name in _THOUGHTS if (said := getattr(choice.delta, name, None))), "")
        pieces: list[Piece] = [Delta(thinking=thought)] if isinstance(thought, str) and thought else []
        pieces += [Delta(text=text, logprobs=scored)] if text or scored else []
        for place, call in enumerate(choice.delta.tool_calls or ()):
            function = call.function
            part = CallDelta(
                index=place if call.index is None else call.index,
                id=call.id or None,
                name=(function and function.name) or None,
                arguments=(function and function.arguments) or "",
            )
            pieces.append(Delta(call=part))
        return pieces

    def finish(self) -> Finish:
        """Raises PartnerError when the answer has no end, or what was asked for did not come."""
        if self._reason is None:
            raise PartnerError(f"the answer of {self._model} broke off before its end; ask again", transient=True)
        if self._options.logprobs is not None and self._wrote and not self._told_logprobs:
            raise PartnerError(
                f"{self._model} does not tell log-probabilities; ask without logprobs, or ask another model",
                transient=False,
            )
        return Finish(reason=self._reason, usage=self._usage, model=self._model)


def _scored(one: Any) -> TokenLogprob:
    top = tuple((str(other.token), float(other.logprob)) for other in one.top_logprobs or ())
    return TokenLogprob(text=str(one.token), logprob=float(one.logprob), top=top)
