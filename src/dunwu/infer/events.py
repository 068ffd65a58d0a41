"""What the engine says while it answers, and the whole answer."""

from dataclasses import dataclass

from dunwu.infer.sampling import Scored
from dunwu.infer.sequence import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. `cached_tokens`: those of the prompt that were found in the cache and not read again. Of the completion's,
    `accepted_tokens` had been guessed ahead, among `proposed_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    proposed_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PromptToken:
    """What the model expected in a token's place: the token's log-probability, nats, and the likeliest."""

    logprob: float
    top: tuple[Scored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEvent:
    """The prompt was read and judged. `tokens`: None for the first one, which nothing stands before."""

    id: str
    tokens: tuple[PromptToken | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of completion `index`. `text` is what can be shown now: nothing while a character or a possible stop string is
    unfinished, and later more than the token's own."""

    id: str
    index: int
    token_id: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[Scored, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingEvent:
    """The prompt as a vector: the mean of its final hidden states, of length 1."""

    id: str
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishEvent:
    """Completion `index` is over. `text`: what was held back until now. `error`: what went wrong, with reason "error";
    `unanswerable`: what was asked is to blame for it, not the model. `score`: of one that a beam search found, its log-probability,
    nats, by the power of its length. `stop_id`: the token that ended it, which is no part of it, with its log-probability if asked."""

    id: str
    index: int
    reason: FinishReason
    usage: Usage
    text: str = ""
    error: str | None = None
    unanswerable: bool = False
    score: float | None = None
    stop_id: int | None = None
    stop_logprob: float | None = None


Event = PromptEvent | TokenEvent | EmbeddingEvent | FinishEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One completion, whole. `logprobs` and `top_logprobs` are empty unless asked for; `stop_id`: see `FinishEvent`."""

    index: int
    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[Scored, ...], ...] = ()
    error: str | None = None
    score: float | None = None
    stop_id: int | None = None
    stop_logprob: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All completions of a request, and how its prompt was judged if that was asked; the vector of a request to embed, which
    has one empty completion."""

    id: str
    outputs: tuple[Output, ...]
    prompt: tuple[PromptToken | None, ...] | None = None
    embedding: tuple[float, ...] | None = None


def answer(request_id: str, events: list[Event]) -> Answer:
    """Put the events of one request together."""
    finished = sorted((event for event in events if isinstance(event, FinishEvent)), key=lambda event: event.index)
    judged = [event.tokens for event in events if isinstance(event, PromptEvent)]
    vector = next((event.vector for event in events if isinstance(event, EmbeddingEvent)), None)
    outputs: list[Output] = []
    written: dict[int, list[TokenEvent]] = {end.index: [] for end in finished}
    for event in events:
        if isinstance(event, TokenEvent) and event.index in written:
            written[event.index].append(event)
    for end in finished:
        tokens = written[end.index]
        outputs.append(
            Output(
                index=end.index,
                text="".join(event.text for event in (*tokens, end)),
                ids=tuple(event.token_id for event in tokens),
                finish_reason=end.reason,
                usage=end.usage,
                logprobs=tuple(event.logprob for event in tokens if event.logprob is not None),
                top_logprobs=tuple(event.top_logprobs for event in tokens if event.top_logprobs is not None),
                error=end.error,
                score=end.score,
                stop_id=end.stop_id,
                stop_logprob=end.stop_logprob,
            )
        )
    return Answer(id=request_id, outputs=tuple(outputs), prompt=judged[0] if judged else None, embedding=vector)
