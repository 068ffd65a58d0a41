"""Demonstrations before the question, as turns of the conversation (Brown et al. 2020, arXiv:2005.14165); with chains of thought as
answers where the pool has them (Wei et al. 2022, arXiv:2201.11903)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import SkipValidation

from dunwu.chat.options import ChatOptions
from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.core.records import Message
from dunwu.core.section import Count
from dunwu.prompt.demonstrations.base import Demonstrations
from dunwu.prompt.strategies.base import Steps, Strategy, ask, assistant, question_of, thinking, user

CHAINS = ("chain", "rationale", "reasoning", "solution", "explanation", "解析")
"""Columns in which a chain of thought is looked for."""


class FewShot(Strategy):
    """What `shown` gives for the question stands before it, after the system message and whatever was said before. `answers`: the
    targets, or chains of thought, which end in the answer."""

    title: ClassVar[str] = "few-shot"
    shown: SkipValidation[Demonstrations]
    answers: Literal["target", "chain"] = "target"
    tokens: Count = 512

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        shots = self.shown(Problem(id="", input=question_of(messages)))
        turns = [
            turn
            for one in shots
            for turn in (user(one.input), assistant(one.target if self.answers == "target" else chain_of(one)))
        ]
        if self.answers == "chain":
            options = thinking(options, self.tokens)
        return (yield from ask((*messages[:-1], *turns, messages[-1]), options, last=True))


def chain_of(problem: Problem) -> str:
    """The chain of thought of a demonstration, ending in its answer. Raises DataError where it has none."""
    found = next((str(problem.columns[name]) for name in CHAINS if problem.columns.get(name)), None)
    if found is None:
        raise DataError(
            f"the demonstration {problem.id} has no chain of thought; give it a column named {', '.join(CHAINS)}, or use few-shot"
        )
    return found.strip() if problem.target in found else f"{found.strip()}\n{problem.target}"
