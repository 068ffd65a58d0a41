"""Answers of the live model, by the engine that also serves: the same weights that are being trained, where they lie.

What a rollout gives is a pure function of the weights, the prompts and the seeds: the cache forgets what was read with weights
that have changed since, and each answer draws its own numbers.
"""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dunwu.core.errors import ModelError
from dunwu.core.records import Completion
from dunwu.delta.base import Delta
from dunwu.delta.places import FewBits
from dunwu.delta.registry import deltas_of
from dunwu.infer.engine import BLOCK_SIZE, Engine
from dunwu.infer.events import Answer, Output, answer
from dunwu.infer.events import Event as EngineEvent
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.count import kv_bytes_per_token
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike
from dunwu.train.signals import StopSignal

Ids = Sequence[int]
CACHE_BYTES = 1 << 30
TOKEN_BUDGET = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn. Log-probabilities are the model's own, at temperature 1 and before any filter, whatever is set here:
    with other settings than the defaults answers come from another distribution than the one that is learned."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """An answer. `ids`: all that the model chose, with the token that ended it, if one did, each with its log-probability, nats."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    completion: Completion

    @property
    def ended(self) -> bool:
        """Whether the model ended it by itself."""
        return self.completion.finish_reason == "stop"


class Sampler:
    """Answers prompts with `model` as it is at that moment.

    Prompts have at most `most_prompt` tokens and answers `most_answer`, the one that ends them included; at most `at_once` answers
    are written at a time, fewer where memory is short.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: TokenizerLike,
        *,
        most_prompt: int,
        most_answer: int,
        at_once: int = 64,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._model, self._most_answer = model, most_answer
        text_bytes = kv_bytes_per_token(model.config, model.head_weight.dtype.itemsize) * (
            most_prompt + most_answer + BLOCK_SIZE
        )
        self.engine = Engine(
            model,
            tokenizer,
            cache_bytes=max(min(cache_bytes, 2 * at_once * text_bytes), 2 * text_bytes),
            max_sequences=at_once,
            token_budget=max(TOKEN_BUDGET, at_once),
            context_length=most_prompt + most_answer,
        )

    def __call__(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[int],
        *,
        count: int = 1,
        sampling: Sampling | None = None,
        stop: StopSignal | None = None,
    ) -> list[list[Sampled]] | None:
        """`count` answers to each prompt; None where `stop` asked to leave off.

        Raises DataError for a prompt that can't be answered, ModelError where the model gives no numbers.
        """
        chosen = sampling or Sampling()
        self.engine.update_weights({})  # they were trained in place: forget what was read with the old ones
        requests = [
            Request(id=str(place), prompt_ids=tuple(map(int, ids)), params=self._params(chosen, seed, count))
            for place, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        training = self._model.training
        self._model.eval()
        try:
            with merged_deltas(self._model):
                answers = self._answers(requests, stop)
        finally:
            self._model.train(training)
        return None if answers is None else [[_sampled(output) for output in one.outputs] for one in answers]

    def _params(self, sampling: Sampling, seed: int, count: int) -> SamplingParams:
        return SamplingParams(
            max_tokens=self._most_answer,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=seed,
            n=count,
            logprobs=0,
        )

    def _answers(self, requests: Sequence[Request], stop: StopSignal | None) -> list[Answer] | None:
        engine = self.engine
        told: dict[str, list[EngineEvent]] = {}
        try:
            for request in requests:
                told[engine.submit(request)] = []
            while engine.busy:
                if stop is not None and stop.requested:
                    return None
                for event in engine.step():
                    told[event.id].append(event)
        finally:
            for one in told:
                engine.cancel(one)
            while engine.busy:  # say what is left to nobody
                engine.step()
        return [answer(one, events) for one, events in told.items()]


@contextmanager
def merged_deltas(model: Decoder) -> Generator[None]:
    """Within, the weights have what the deltas learned so far in them, where that can be, and afterwards they are as they were,
    bit for bit: kernels that read weights alone, and on a GPU recorded passes, then do the work. On a GPU weights of few bits,
    which would not stay where they lie, keep their deltas beside them."""
    deltas = [one for one in deltas_of(model) if one.mergeable and one.enabled and not one.merged]
    moves = model.head_weight.is_cuda and any(isinstance(module, FewBits) for module in model.modules())
    done: list[Delta[Any]] = []
    try:
        for delta in deltas if len(deltas) == len(deltas_of(model)) and not moves else ():
            delta.merge()
            done.append(delta)
        yield
    finally:
        for delta in reversed(done):
            delta.unmerge()


def seed_of(seed: int, *places: int | str) -> int:
    """A seed of its own for each place, a pure function of both."""
    text = "/".join(map(str, (seed, *places)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def _sampled(output: Output) -> Sampled:
    if output.finish_reason in ("error", "cancelled"):
        raise ModelError(output.error or "the engine failed")
    reason = output.finish_reason
    assert reason in ("stop", "length", "context")
    ids, logprobs = output.ids, output.logprobs
    if output.stop_id is not None:
        assert output.stop_logprob is not None
        ids, logprobs = (*ids, output.stop_id), (*logprobs, output.stop_logprob)
    assert len(ids) == len(logprobs)
    return Sampled(
        ids=ids, logprobs=logprobs, completion=Completion(text=output.text, ids=output.ids, finish_reason=reason)
    )


def affordable_at_once(model: Decoder, tokens: int, wanted: int, cache_bytes: int = CACHE_BYTES) -> int:
    """How many answers of `tokens` tokens with their prompts are written at a time: those wanted, if the cache holds them."""
    token_bytes = kv_bytes_per_token(model.config, model.head_weight.dtype.itemsize)
    if model.head_weight.is_cuda:
        cache_bytes = max(cache_bytes, torch.cuda.mem_get_info(model.head_weight.device)[0] // 4)
    return max(1, min(wanted, cache_bytes // (tokens * token_bytes)))
