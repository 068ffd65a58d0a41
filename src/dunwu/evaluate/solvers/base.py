"""What a solver is given and gives: a task's problems in, a response to each out, with what of the prompt was left out.

A solver is made from a model and demonstrations; whoever judges its responses knows neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dunwu.chat.text_model import Likelihood
from dunwu.core.problems import Problem
from dunwu.core.records import Completion
from dunwu.evaluate.tasks.demonstrations import Demonstrations
from dunwu.evaluate.tasks.task import Task

__all__ = ["Demonstrations", "Response", "Solver", "no_demonstrations"]


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

    def __call__(self, task: Task, problems: Sequence[Problem]) -> list[Response]: ...


def no_demonstrations(problem: Problem) -> Sequence[Problem]:
    """Zero-shot."""
    del problem
    return ()
