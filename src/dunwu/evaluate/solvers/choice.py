"""Answers by likelihood: which of the choices the model finds likeliest, or how likely it finds the target."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from dunwu.chat.text_model import Likelihood, TextModel
from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.evaluate.solvers.base import Demonstrations, Response, no_demonstrations
from dunwu.evaluate.tasks.task import Task

Normalisation = Literal["raw", "characters", "bytes", "tokens", "alone"]


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
        self.model, self.demonstrations = model, demonstrations
        self.by: Normalisation = by
        self.alone = alone or by == "alone"

    def __call__(self, task: Task, problems: Sequence[Problem]) -> list[Response]:
        if task.spec.output == "text":
            raise RecipeError(
                f"{task.name} has no continuations to be judged; let its answers be written (--solver text)"
            )
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
    """The place of the chosen one; of equals the first."""
    scores = normalised(problem, likelihoods, by)
    return scores.index(max(scores))


def normalised(problem: Problem, likelihoods: Sequence[Likelihood], by: Normalisation) -> list[float]:
    """What each choice scores. Lengths are those of choices without their delimiter, as lm-evaluation-harness counts; for "alone"
    the likelihoods of the choices after nothing must follow the others. Raises RecipeError for a `by` that is not known."""
    count = len(problem.choices)
    if by == "alone":
        return [likelihoods[at].logprob - likelihoods[count + at].logprob for at in range(count)]
    lengths: Mapping[str, Callable[[int], int]] = {
        "raw": lambda at: 1,
        "characters": lambda at: len(problem.choices[at]),
        "bytes": lambda at: len(problem.choices[at].encode()),
        "tokens": lambda at: likelihoods[at].tokens,
    }
    if by not in lengths:
        raise RecipeError(f"by={by!r} is not known; use raw, characters, bytes, tokens or alone")
    return [likelihoods[at].logprob / max(1, lengths[by](at)) for at in range(count)]


def _needs_alone(task: Task) -> bool:
    """Whether a metric of the task judges against the choices alone."""
    return any(getattr(metric, "measure", "") == "acc_mutual" for metric in task.spec.metrics)
