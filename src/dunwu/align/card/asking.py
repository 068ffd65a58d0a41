"""What a model answers: once, greedily, to every prompt; several times, as it is sampled from, to some."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dunwu.chat.protocol import Chat
from dunwu.core.progress import Progress
from dunwu.core.records import Completion, Message
from dunwu.corpus.prompts import Prompt
from dunwu.evaluate.scorers.base import Case, WeightedSum

T = TypeVar("T")

BATCH = 64
ANSWER_TOKENS = 200
SAMPLED, SAMPLES = 16, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswers:
    """`cases`, one a prompt, with `totals` and `parts` of their rewards where there is a reward; `samples`: of some prompts
    several answers each, with the probabilities of their tokens."""

    cases: Sequence[Case]
    samples: Sequence[Sequence[Completion]] = ()
    totals: Sequence[float] = ()
    parts: Mapping[str, Sequence[float]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        return [len(case.completion.ids) for case in self.cases]

    @property
    def ended(self) -> list[bool]:
        """Whether each answer ended by itself."""
        return [case.completion.finish_reason == "stop" for case in self.cases]


def ask_model(
    chat: Chat,
    prompts: Sequence[Prompt],
    *,
    progress: Progress,
    reward: WeightedSum | None = None,
    system: str = "",
    max_tokens: int = ANSWER_TOKENS,
    sampled: int = SAMPLED,
    samples: int = SAMPLES,
    seed: int = 0,
) -> ModelAnswers:
    """Answers to all prompts, and `samples` each, at temperature 1, to `sampled` of them, spread evenly."""
    asked = [with_system(prompt.messages, system) for prompt in prompts]
    said: list[Completion] = []
    for first in range(0, len(asked), BATCH):
        said += chat.reply_batch(asked[first : first + BATCH], max_tokens=max_tokens, temperature=0.0, seed=seed)
        progress.update(len(said), len(asked))
    cases = [
        Case(prompt=messages, completion=completion, columns=prompt.columns)
        for messages, completion, prompt in zip(asked, said, prompts, strict=True)
    ]
    scored = None if reward is None or not cases else reward(cases)
    return ModelAnswers(
        cases=cases,
        samples=_several(chat, spread(asked, sampled), samples, max_tokens=max_tokens, seed=seed),
        totals=() if scored is None else scored.totals,
        parts={} if scored is None else scored.parts,
    )


def with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """With the instructions that the model was tuned under, unless it has its own."""
    if not system or (messages and messages[0].role == "system"):
        return messages
    return (Message(role="system", content=system), *messages)


def spread(things: Sequence[T], count: int) -> list[T]:
    """At most so many of them, spread evenly."""
    if len(things) <= count:
        return list(things)
    return [things[int((at + 0.5) * len(things) / count)] for at in range(count)]


def entropy_of(answers: Sequence[Completion]) -> float:
    """Nats a token, from the tokens' own log-probabilities; nan where they were not told."""
    logprobs = [token.logprob for answer in answers for token in answer.logprobs]
    return -math.fsum(logprobs) / len(logprobs) if logprobs else math.nan


def _several(
    chat: Chat, asked: Sequence[Sequence[Message]], samples: int, *, max_tokens: int, seed: int
) -> list[list[Completion]]:
    repeated = [messages for messages in asked for _ in range(samples)]
    said: list[Completion] = []
    for first in range(0, len(repeated), BATCH):
        said += chat.reply_batch(
            repeated[first : first + BATCH], max_tokens=max_tokens, temperature=1.0, seed=seed + first, logprobs=0
        )
    return [said[at : at + samples] for at in range(0, len(said), max(1, samples))]
