"""`POST /v1/chat/completions`."""

from collections.abc import AsyncIterator
from typing import Any

from dunwu.infer.events import FinishEvent, Output, PromptEvent, TokenEvent, Usage
from dunwu.infer.sequence import Request
from dunwu.serve.answers import FINGERPRINT, Head, chat_logprobs, chunk_logprobs, ended, usage_object, usage_of
from dunwu.serve.asking import constraint_of, require_room, sampling_params
from dunwu.serve.conversation import messages_of, prompt_ids
from dunwu.serve.models import ServedModel
from dunwu.serve.objects import ChatChoice, ChatCompletion, ChatLogprobs, Delta, FinishReason
from dunwu.serve.schemas import ChatRequest
from dunwu.serve.streams import Asked, require_finished, sse


async def ask(asked: ChatRequest, model: ServedModel) -> tuple[Head, Asked]:
    """Begin the answer. Raises ApiError."""
    ids = await prompt_ids(model, messages_of(asked.messages), settings=asked.chat_template_kwargs)
    require_room(len(ids), model, param="messages")
    params = sampling_params(
        asked,
        model,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        constraint=constraint_of(asked),
    )
    head = Head.new("chatcmpl", model)
    return head, await Asked.submit(model, [Request(id=head.id, prompt_ids=tuple(ids), params=params)])


async def whole(head: Head, asked: Asked, model: ServedModel) -> ChatCompletion:
    """The answer in one piece."""
    answers = await asked.answers()
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": FINGERPRINT,
        "choices": [_choice(model, output) for output in answers[0].outputs],
        "usage": usage_of(answers),
    }


def _choice(model: ServedModel, output: Output) -> ChatChoice:
    return {
        "index": output.index,
        "message": {"role": "assistant", "content": output.text, "refusal": None},
        "logprobs": chat_logprobs(model.tokenizer, output) if output.logprobs else None,
        "finish_reason": ended(output.finish_reason),
    }


async def chunks(head: Head, asked: Asked, request: ChatRequest, model: ServedModel) -> AsyncIterator[str]:
    """The answer as server-sent events, but for the last."""
    counts = bool(request.stream_options and request.stream_options.include_usage)
    usages: list[Usage] = []
    writer = _ChunkWriter(head, counts)
    for index in range(request.n or 1):
        yield writer.chunk(index, {"role": "assistant", "content": "", "refusal": None})
    async for _, event in asked:
        match event:
            case TokenEvent():
                logprobs = chunk_logprobs(model.tokenizer, event)
                if event.text or logprobs:
                    yield writer.chunk(event.index, {"content": event.text}, logprobs)
            case FinishEvent():
                require_finished(event)
                usages.append(event.usage)
                if event.text:
                    yield writer.chunk(event.index, {"content": event.text})
                yield writer.chunk(event.index, {}, finish_reason=ended(event.reason))
            case PromptEvent():
                pass
    if counts:
        yield writer.usage(usages)


class _ChunkWriter:
    """Chunks of one answer."""

    def __init__(self, head: Head, counts: bool) -> None:
        self._head, self._counts = head, counts

    def chunk(
        self,
        index: int,
        delta: Delta,
        logprobs: ChatLogprobs | None = None,
        finish_reason: FinishReason | None = None,
    ) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return sse({**self._start(), "choices": [choice], **({"usage": None} if self._counts else {})})

    def usage(self, usages: list[Usage]) -> str:
        return sse({**self._start(), "choices": [], "usage": usage_object([usages])})

    def _start(self) -> dict[str, Any]:
        return {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": FINGERPRINT,
        }
