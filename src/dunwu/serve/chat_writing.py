"""The objects of a chat completion, whole and in chunks, whoever wrote the answer."""

from collections.abc import Sequence
from typing import Any

from dunwu.chat.calls import CallDelta, Piece
from dunwu.core.records import ToolCall
from dunwu.serve.answers import FINGERPRINT, Head
from dunwu.serve.objects import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    FinishReason,
    FunctionDelta,
    ToolCallDelta,
    ToolCallObject,
    UsageObject,
)
from dunwu.serve.streams import sse


def completion(head: Head, choices: list[ChatChoice], usage: UsageObject) -> ChatCompletion:
    """The whole answer."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        "usage": usage,
    }


def message(text: str, calls: Sequence[ToolCall]) -> AnswerMessage:
    """What was said; no words are null where there are calls."""
    said: AnswerMessage = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        said["tool_calls"] = [_call_object(call) for call in calls]
    return said


def _call_object(call: ToolCall) -> ToolCallObject:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def delta_of(piece: Piece) -> Delta:
    """What is new."""
    return {"content": piece} if isinstance(piece, str) else {"tool_calls": [_call_delta(piece)]}


def _call_delta(piece: CallDelta) -> ToolCallDelta:
    if piece.id is None or piece.name is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function: FunctionDelta = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


class ChunkWriter:
    """The events of one streamed answer. `counts`: a last one tells the usage, and the others say that they do not."""

    def __init__(self, head: Head, *, counts: bool) -> None:
        self.counts = counts
        self._start = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": FINGERPRINT,
        }

    def begin(self, index: int) -> str:
        """Whose turn it is."""
        return self.chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def chunk(
        self,
        index: int,
        delta: Delta,
        logprobs: ChatLogprobs | None = None,
        finish_reason: FinishReason | None = None,
    ) -> str:
        """What is new in one of `n` answers."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._event([choice], None)

    def usage(self, usage: UsageObject) -> str:
        """The last event."""
        return self._event([], usage)

    def _event(self, choices: list[Any], usage: UsageObject | None) -> str:
        return sse({**self._start, "choices": choices, **({"usage": usage} if self.counts else {})})
