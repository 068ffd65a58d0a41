"""Prompts to completions in the caller's own thread: one as a stream, or many at once, by an engine of its own."""

import threading
from collections import deque
from collections.abc import Generator as Steps
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Literal, cast
from uuid import uuid4

import torch

from dunwu.core.errors import DataError, ModelError
from dunwu.core.records import Completion
from dunwu.infer.engine import Engine
from dunwu.infer.events import Event, FinishEvent, TokenEvent, answer
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.count import kv_bytes_per_token
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike

FinishReason = Literal["stop", "length", "context"]
CACHE_BYTES = 256 << 20
CACHE_TOKENS = 1 << 14
"""For keys and values of all texts at a time, whichever is less; more where one text that fills the context needs it."""
TOKEN_BUDGET = 1024
"""Nobody watches a list being answered: prompts are read in large parts."""


class Generator:
    """Writes on from prompts. What was read of a prompt is remembered for the next that begins alike.

    `context_length` None takes the model's own. Ids that stand for nothing are never chosen: those that pad the model's
    vocabulary beyond the tokenizer's, and gaps in the tokenizer's own. Raises ModelError when a text can become ids that the
    model does not have; control tokens beyond its vocabulary (an image's, in a model of text) do no harm. Threads may share
    it: each waits while another's step is made.
    """

    def __init__(self, model: Decoder, tokenizer: TokenizerLike, *, context_length: int | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        wanted = context_length or model.config.max_position_embeddings
        token_bytes = kv_bytes_per_token(model.config, model.head_weight.dtype.itemsize)
        cache_bytes = max(min(CACHE_BYTES, token_bytes * CACHE_TOKENS), token_bytes * (wanted + 16))
        self.engine = Engine(
            model,
            tokenizer,
            cache_bytes=_affordable(cache_bytes, model.head_weight.device),
            token_budget=TOKEN_BUDGET,
            context_length=context_length,
        )
        self.context_length = self.engine.context_length
        self._inboxes: dict[str, deque[Event]] = {}
        self._lock = threading.Lock()

    def stream(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop_ids: Iterable[int] | None = None,
    ) -> Steps[int, None, FinishReason]:
        """Yield new ids as they are made; the stop id itself is not yielded. The generator's return value says why it ended.

        `stop_ids` None: the end of a text or of a turn. Raises DataError for an empty prompt.
        """
        if max_new_tokens == 0:
            return "length"
        params = _params(max_new_tokens, temperature, top_k, top_p, min_p, seed, stop_ids)
        reason: FinishReason = "length"
        with closing(self.events(ids, params)) as events:  # a stream that is left ends now, not when it is collected
            for event in events:
                if isinstance(event, TokenEvent):
                    yield event.token_id
                elif isinstance(event, FinishEvent):
                    reason = cast("FinishReason", event.reason)
        return reason

    def complete_batch(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | Sequence[int] | None = None,
        stop_ids: Iterable[int] | None = None,
    ) -> list[Completion]:
        """Completions in the order of the prompts, the same as one by one (up to rounding between near-equal tokens).

        `seed`: one for each prompt, or one from which each place in the list gets its own; a prompt with its own seed draws
        the same numbers whatever else is in the batch. A prompt that fills the context gets an empty completion with
        finish reason "context". Raises DataError for an empty prompt.
        """
        stop_ids = None if stop_ids is None else tuple(stop_ids)
        wishes = [
            _params(max_new_tokens, temperature, top_k, top_p, min_p, one, stop_ids)
            for one in seeds(seed, len(prompts))
        ]
        return [_completion(events) for events in self.all_events(prompts, wishes)]

    def events(self, ids: Sequence[int], params: SamplingParams) -> Steps[Event, None, None]:
        """What the engine says of one prompt, as it says it; left early, the request ends.

        Raises what `Engine.submit` raises, and ModelError where the engine fails.
        """
        with self._lock:
            request_id, inbox = self._submit(ids, params)
        try:
            open_texts = params.n
            while open_texts:
                while not inbox:
                    with self._lock:
                        self._step()
                event = inbox.popleft()
                open_texts -= isinstance(event, FinishEvent)
                yield _sound(event)
        finally:
            with self._lock:
                self._leave(request_id)

    def all_events(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[list[Event]]:
        """What the engine says of each prompt, all answered together. Raises as `events` does."""
        with self._lock:
            asked: list[tuple[str, deque[Event]]] = []
            try:
                for ids, one in zip(prompts, params, strict=True):
                    asked.append(self._submit(ids, one))
                while any(self.engine.answers(request_id) or not inbox for request_id, inbox in asked):
                    self._step()
                return [[_sound(event) for event in inbox] for _, inbox in asked]
            finally:
                for request_id, _ in asked:
                    self._leave(request_id)

    def _submit(self, ids: Sequence[int], params: SamplingParams) -> tuple[str, deque[Event]]:
        if len(ids) == 0:
            raise DataError("a prompt is empty; give at least one token")
        request_id = uuid4().hex
        self.engine.submit(Request(id=request_id, prompt_ids=tuple(map(int, ids)), params=params))
        inbox: deque[Event] = deque()
        self._inboxes[request_id] = inbox
        return request_id, inbox

    def _leave(self, request_id: str) -> None:
        self.engine.cancel(request_id)
        self._inboxes.pop(request_id, None)

    def _step(self) -> None:
        for event in self.engine.step():
            if (inbox := self._inboxes.get(event.id)) is not None:
                inbox.append(event)


def seeds(seed: int | Sequence[int] | None, count: int) -> Sequence[int | None]:
    """A seed for each place of a list. A single one serves the first place as it is: a list of one equals a stream."""
    if seed is None:
        return [None] * count
    if isinstance(seed, int):
        return [seed + (place << 64) for place in range(count)]  # seeds that nobody else asks for
    if len(seed) != count:
        raise DataError(f"{len(seed)} seeds for {count} prompts; give one seed, or one for each prompt")
    return seed


def _params(
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int | None,
    stop_ids: Iterable[int] | None,
) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop_ids=None if stop_ids is None else tuple(stop_ids),
    )


def _completion(events: list[Event]) -> Completion:
    (output,) = answer("", events).outputs
    return Completion(text=output.text, ids=output.ids, finish_reason=cast("FinishReason", output.finish_reason))


def _sound(event: Event) -> Event:
    if isinstance(event, FinishEvent) and event.reason == "error":
        raise ModelError(event.error or "the engine failed")
    return event


def _affordable(cache_bytes: int, device: torch.device) -> int:
    """No more than half of what a GPU has left; on a CPU memory counts only once it is written to."""
    if device.type != "cuda":
        return cache_bytes
    return min(cache_bytes, torch.cuda.mem_get_info(device)[0] // 2)
