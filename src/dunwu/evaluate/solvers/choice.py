"""Answers by likelihood: which of the choices the model finds likeliest, or how likely it finds the target."""

from collections.abc import Sequence
from typing import Literal

from dunwu.chat.text_model import Likelihood, TextModel
from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.evaluate.solvers.base import Demonstrations, Response, no_demonstrations
from dunwu.evaluate.tasks.measures import choice_scores
from dunwu.evaluate.tasks.metric_specs import ChoiceMetric
from dunwu.evaluate.tasks.task import Task

Normalisation = Literal["raw", "characters", "bytes", "tokens", "alone"]
_MEASURES = {
    "raw": "acc",
    "characters": "acc_norm",
    "bytes": "acc_bytes",
    "tokens": "acc_tokens",
    "alone": "acc_mutual",
}


class ByLikelihood:
    """Asks how likely the choices are, or the target of a task whose output is perplexity.

    `by`: what makes a choice the chosen one: its log-probability as it is, a character, a byte or a token, or against how likely
    it is after nothing ("alone"; Brown et al. 2020, section 2.4). The task's metrics judge each as they say, whatever was chosen.
    With `alone`, or where a metric of the task needs it, a response holds as many likelihoods again, of the choices after nothing.
    """

    def __init__(
        self,
        model: TextModel,
        demonstrations: Demonstrations = no_demonstrations,
        *,
        by: Normalisation = "raw",
        alone: bool = False,
    ) -> None:
        if by not in _MEASURES:
            raise RecipeError(f"by={by!r} is not known; use {', '.join(_MEASURES)}")
        self.model, self.demonstrations = model, demonstrations
        self.by: Normalisation = by
        self.alone = alone or by == "alone"

    def __call__(self, task: Task, problems: Sequence[Problem]) -> list[Response]:
        alone = self.alone or _needs_alone(task)
        shots = [self.demonstrations(problem) for problem in problems]
        asked = [
            (*task.pairs(problem, shown), *(task.alone(problem) if alone and problem.choices else ()))
            for problem, shown in zip(problems, shots, strict=True)
        ]
        judged = iter(self.model.likelihoods([pair for pairs in asked for pair in pairs]))
        return [
            self._response(problem, len(shown), tuple(next(judged) for _ in pairs))
            for problem, shown, pairs in zip(problems, shots, asked, strict=True)
        ]

    def _response(self, problem: Problem, shots: int, likelihoods: tuple[Likelihood, ...]) -> Response:
        return Response(
            problem=problem,
            likelihoods=likelihoods,
            chosen=likeliest(problem, likelihoods, self.by) if problem.choices else None,
            shots=shots,
            cut=max((one.cut for one in likelihoods), default=0),
        )


def likeliest(problem: Problem, likelihoods: Sequence[Likelihood], by: Normalisation = "raw") -> int:
    """The place of the chosen one; of equals the first. For "alone" those of the choices after nothing follow the others."""
    scores = choice_scores(_MEASURES[by], Response(problem=problem, likelihoods=tuple(likelihoods)))
    return scores.index(max(scores))


def _needs_alone(task: Task) -> bool:
    """Whether a metric of the task judges against the choices alone."""
    return any(isinstance(one, ChoiceMetric) and one.measure == "acc_mutual" for one in task.spec.metrics)
