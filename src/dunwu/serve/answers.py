"""From the engine's tokens to OpenAI's objects."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dunwu import __version__
from dunwu.infer.events import Answer, Output, TokenEvent, Usage
from dunwu.infer.sampling import Scored
from dunwu.infer.sequence import FinishReason
from dunwu.serve.objects import ChatLogprobs, TokenLogprob, TopLogprob, UsageObject
from dunwu.tokenizer.like import TokenizerLike

FINGERPRINT = f"dunwu-{__version__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What all events of one answer say of it."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(cls, prefix: str, model_id: str) -> "Head":
        """With a fresh id, such as chatcmpl-…"""
        return cls(id=f"{prefix}-{uuid.uuid4().hex}", model=model_id)


def ended(reason: FinishReason) -> Literal["stop", "length"]:
    """OpenAI knows no full context: that is a length too."""
    return "stop" if reason == "stop" else "length"


def usage_object(usages: Iterable[Sequence[Usage]]) -> UsageObject:
    """The sum over prompts; the completions of one prompt share its tokens."""
    by_prompt = [list(own) for own in usages]
    read = sum(own[0].prompt_tokens for own in by_prompt)
    written = sum(one.completion_tokens for own in by_prompt for one in own)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(own[0].cached_tokens for own in by_prompt)},
    }


def usage_of(answers: Iterable[Answer]) -> UsageObject:
    """What whole answers took."""
    return usage_object([one.usage for one in answer.outputs] for answer in answers)


def token_text(tokenizer: TokenizerLike, number: int) -> str:
    """A token for eyes; one that is part of a character as OpenAI writes it: `bytes:\\xe4\\xbd`."""
    piece = tokenizer.id_bytes(number)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _top(tokenizer: TokenizerLike, scored: Scored) -> TopLogprob:
    return {
        "token": token_text(tokenizer, scored.id),
        "logprob": finite(scored.logprob),
        "bytes": list(tokenizer.id_bytes(scored.id)),
    }


def finite(logprob: float) -> float:
    """JSON knows no infinity; OpenAI writes -9999 for what cannot be."""
    return max(logprob, -9999.0)


def token_logprob(tokenizer: TokenizerLike, scored: Scored, top: Sequence[Scored] | None) -> TokenLogprob:
    """One token with its alternatives."""
    return {**_top(tokenizer, scored), "top_logprobs": [_top(tokenizer, one) for one in top or ()]}


def chat_logprobs(tokenizer: TokenizerLike, output: Output) -> ChatLogprobs:
    """Of a whole answer."""
    tokens = zip(output.ids, output.logprobs, output.top_logprobs, strict=True)
    return {
        "content": [token_logprob(tokenizer, Scored(number, logprob), top) for number, logprob, top in tokens],
        "refusal": None,
    }


def chunk_logprobs(tokenizer: TokenizerLike, event: TokenEvent) -> ChatLogprobs | None:
    """Of one token; None where they were not asked for."""
    if event.logprob is None:
        return None
    scored = Scored(event.token_id, event.logprob)
    return {"content": [token_logprob(tokenizer, scored, event.top_logprobs)], "refusal": None}
