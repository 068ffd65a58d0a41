"""What a solver is given and gives: a task's problems in, a response to each out, with what of the prompt was left out.

A solver is made from a model and demonstrations; whoever judges its responses knows neither.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dunwu.chat.text_model import Likelihood
from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Completion, Message

Demonstrations = Callable[[Problem], Sequence[Problem]]
"""Which solved problems are shown before a problem, in the order shown."""


class AnswerRules(Protocol):
    """What is needed of a task's specification: where an answer ends."""

    @property
    def stop(self) -> Sequence[str]: ...
    @property
    def max_tokens(self) -> int: ...


class Asked(Protocol):
    """What is needed of a task: a problem in words, after demonstrations. See `evaluate/tasks`."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> AnswerRules: ...
    def text(self, problem: Problem, shots: Sequence[Problem]) -> str: ...
    def messages(self, problem: Problem, shots: Sequence[Problem]) -> tuple[Message, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a model made of a problem: a text, or how likely each choice is and which was chosen (a place in the choices).

    `shots`: demonstrations that were shown. `cut`: what of the prompt the model did not see, in tokens; of a conversation, in
    messages. `dropped`: demonstrations left out so that the rest fits. `refused`: why the problem was not asked at all; nothing
    else is there then, and it counts as not answered.
    """

    problem: Problem
    completion: Completion | None = None
    likelihoods: tuple[Likelihood, ...] = ()
    chosen: int | None = None
    shots: int = 0
    cut: int = 0
    dropped: int = 0
    refused: str = ""


class Solver(Protocol):
    """Answers problems of a task: a response each, in their order. Raises PartnerError when no answer comes."""

    def __call__(self, task: Asked, problems: Sequence[Problem]) -> list[Response]: ...


def no_demonstrations(problem: Problem) -> Sequence[Problem]:
    """Zero-shot."""
    del problem
    return ()


def first_demonstrations(pool: Sequence[Problem], count: int) -> Demonstrations:
    """The first `count` of the pool that are not the problem itself. Raises RecipeError where the pool is too small."""
    _require(pool, count)

    def demonstrations(problem: Problem) -> Sequence[Problem]:
        others = (one for one in pool if not _same(one, problem))
        return [one for one, _ in zip(others, range(count), strict=False)]

    return demonstrations


def random_demonstrations(pool: Sequence[Problem], count: int, seed: int) -> Demonstrations:
    """`count` of the pool, drawn for each problem by the seed and its id alone. Raises RecipeError where the pool is too small."""
    _require(pool, count)

    def demonstrations(problem: Problem) -> Sequence[Problem]:
        draw = random.Random(f"{seed} {problem.id}")
        drawn = draw.sample(pool, min(count + 1, len(pool)))
        return [one for one in drawn if not _same(one, problem)][:count]

    return demonstrations


def _require(pool: Sequence[Problem], count: int) -> None:
    if count > len(pool):
        raise RecipeError(
            f"{count} demonstrations are asked for and there are {len(pool)} to choose from; ask for {len(pool)} or fewer"
        )


def _same(one: Problem, other: Problem) -> bool:
    """Whether they are one problem: the answer to it must not be shown before it."""
    return one.id == other.id or one.input == other.input
