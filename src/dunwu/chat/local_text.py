"""A model on this machine as plain text: likelihoods of many continuations, and continuations of many prompts.

Texts are cut into tokens as lm-evaluation-harness does it (`TemplateLM._encode_pair`), so that both judge the same ones.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch

from dunwu.chat.local import LocalChat
from dunwu.chat.text_model import Likelihood, TextModel
from dunwu.core.errors import DataError
from dunwu.core.records import Completion, TokenUsage
from dunwu.delta.finding import Found
from dunwu.infer.events import Event, answer
from dunwu.infer.forest import Row
from dunwu.infer.generate import FinishReason, Generator, seeds
from dunwu.infer.judging import Judge
from dunwu.infer.sampling import SamplingParams
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.like import Ids, TokenizerLike

GROUP_TOKENS = 1 << 20
"""Tokens whose ids are held at a time."""
_SHOWN = 40


class Pair(NamedTuple):
    """A context and its continuation in tokens, `[T]`; `cut`: how many of the context's do not fit."""

    ids: Ids
    judged: int
    cut: int


class LocalText(TextModel):
    """A model and its tokenizer as a `TextModel`. Contexts that begin alike are read once, whatever their order.

    `start_ids`: what stands before every text; None takes what the tokenizer's own file puts there, which is nothing for ours:
    then the numbers are those of lm-evaluation-harness over transformers. Only an empty context always gets a token before it,
    the beginning or the end of a text. What does not fit the context loses its beginning.
    """

    def __init__(self, generator: Generator, *, name: str = "model", start_ids: Sequence[int] | None = None) -> None:
        self.generator = generator
        self.tokenizer: TokenizerLike = generator.tokenizer
        self._name = name
        self._start = tuple(file_start_ids(self.tokenizer) if start_ids is None else start_ids)
        self._judge = Judge(generator.model)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: torch.device | None = None,
        delta: Found | None = None,
        any_base: bool = False,
        start_ids: Sequence[int] | None = None,
    ) -> "LocalText":
        """Read a folder as `LocalChat.load` does."""
        chat = LocalChat.load(folder, device=device, delta=delta, any_base=any_base)
        return cls(chat.generator, name=chat.name, start_ids=start_ids)

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_length(self) -> int:
        return self.generator.context_length

    @property
    def read_tokens(self) -> int:
        """Tokens that the model has read for likelihoods so far."""
        return self._judge.read_tokens

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode_array(text))

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Raises DataError for a continuation that is empty, or, after a context, longer than what the model reads."""
        found: list[Likelihood | None] = [None] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda place: pairs[place][0])
        for places, group in _grouped(order, self._encoded(pairs, order)):
            judged = iter(self.judge([part for parts in group for part in parts]))
            for place, parts in zip(places, group, strict=True):
                found[place] = together([next(judged) for _ in parts])
        return cast("list[Likelihood]", found)

    def judge(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Likelihoods of what is in tokens already."""
        judged = self._judge([Row(pair.ids, len(pair.ids) - pair.judged) for pair in pairs])
        return [
            Likelihood(logprob=one.logprob, tokens=pair.judged, greedy=one.greedy, cut=pair.cut)
            for pair, one in zip(pairs, judged, strict=True)
        ]

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """Raises DataError where a prompt fills the context."""
        ids = [self.prompt_ids(prompt) for prompt in prompts]
        for place, one in enumerate(ids):
            if len(one) >= self.context_length:
                raise DataError(
                    f"prompt {place + 1} ({_shown(prompts[place])}) takes {len(one)} tokens and {self.name} reads "
                    f"{self.context_length}; make it shorter"
                )
        return self.complete_ids(ids, max_tokens=max_tokens, stop=stop, temperature=temperature, seed=seed)

    def complete_ids(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """`complete` for prompts in tokens."""
        wishes = [
            SamplingParams(max_tokens=max_tokens, temperature=temperature, stop=tuple(stop), seed=one)
            for one in seeds(seed, len(prompts))
        ]
        return [self._completion(events) for events in self.generator.all_events(prompts, wishes)]

    def prompt_ids(self, text: str) -> list[int]:
        """A text as the model reads it; the token that stands for nothing where it is empty."""
        return [*self._start, *self.tokenizer.encode(text)] or list(self._nothing)

    @property
    def _nothing(self) -> tuple[int, ...]:
        """What an empty context is."""
        return self._start or tuple(self.tokenizer.start_ids) or (self.tokenizer.eos_id,)

    def _completion(self, events: list[Event]) -> Completion:
        (output,) = answer("", events).outputs
        return Completion(
            text=output.text,
            ids=output.ids,
            finish_reason=cast("FinishReason", output.finish_reason),
            usage=TokenUsage(
                prompt_tokens=output.usage.prompt_tokens,
                completion_tokens=output.usage.completion_tokens,
                cached_tokens=output.usage.cached_tokens,
            ),
            model=self.name,
        )

    def _encoded(self, pairs: Sequence[tuple[str, str]], order: Sequence[int]) -> Iterator[list[Pair]]:
        """In this order, each in the windows that it takes; contexts that are equal stand together and are encoded once."""
        before, context_ids = None, np.empty(0, np.int32)
        for place in order:
            context, continuation = parted(*pairs[place])
            if context != before:
                before, context_ids = context, self._ids(context) if context else np.array(self._nothing, np.int32)
            judged = self._continuation(context, continuation, context_ids)
            if not len(judged):
                raise DataError(f"continuation {place + 1} is empty; give a text whose likelihood is to be found")
            if len(judged) <= self.context_length:
                yield [pair_of(context_ids, judged, self.context_length)]
            elif context:
                raise DataError(
                    f"continuation {place + 1} ({_shown(continuation)}) takes {len(judged)} tokens and {self.name} reads "
                    f"{self.context_length}; make it shorter, or use a model that reads more"
                )
            else:
                yield list(windows(context_ids[-1:], judged, self.context_length))

    def _continuation(self, context: str, continuation: str, context_ids: Ids) -> Ids:
        if not context:
            return self.tokenizer.encode_array(continuation)
        judged = self._ids(context + continuation)[len(context_ids) :]
        # Where both together take no more tokens than the context alone, its last one has grown: they are parted by force.
        return judged if len(judged) else self.tokenizer.encode_array(continuation)

    def _ids(self, text: str) -> Ids:
        ids = self.tokenizer.encode_array(text)
        return np.concatenate((np.array(self._start, np.int32), ids)) if self._start else ids


def pair_of(context_ids: Ids, judged: Ids, most: int) -> Pair:
    """Both, less what of the beginning does not fit; the last token is judged and not read."""
    ids = np.concatenate((context_ids, judged))
    cut = max(0, len(ids) - most - 1)
    return Pair(ids[cut:], len(judged), cut)


def windows(nothing: Ids, ids: Ids, most: int) -> Iterator[Pair]:
    """A document after `nothing`, each token judged once, in windows that fill the context and, but for the last, do not overlap
    (lm-evaluation-harness's `get_rolling_token_windows` with a context of one token)."""
    whole = np.concatenate((nothing, ids))
    for done in range(0, len(ids), most):
        end = min(done + most, len(ids))
        yield Pair(whole[max(0, end - most) : end + 1], end - done, 0)


def parted(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the context's end go to the continuation: a space belongs to the word that follows it."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def file_start_ids(tokenizer: TokenizerLike) -> Sequence[int]:
    """What the tokenizer's file puts before a text, as transformers reads it."""
    return () if isinstance(tokenizer, Tokenizer) else tokenizer.start_ids


def together(parts: Sequence[Likelihood]) -> Likelihood:
    """Of a text that was judged in parts."""
    if len(parts) == 1:
        return parts[0]
    return Likelihood(
        logprob=math.fsum(part.logprob for part in parts),
        tokens=sum(part.tokens for part in parts),
        greedy=all(part.greedy for part in parts),
    )


def _grouped(order: Sequence[int], pairs: Iterator[list[Pair]]) -> Iterator[tuple[list[int], list[list[Pair]]]]:
    places: list[int] = []
    group: list[list[Pair]] = []
    tokens = 0
    for place, parts in zip(order, pairs, strict=True):
        places.append(place)
        group.append(parts)
        tokens += sum(len(part.ids) for part in parts)
        if tokens >= GROUP_TOKENS:
            yield places, group
            places, group, tokens = [], [], 0
    if group:
        yield places, group


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
