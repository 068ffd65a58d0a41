"""A task's metrics over responses: a value for each response, and how they make one figure.

With the definitions of lm-evaluation-harness where it has the metric: of equal likelihoods the first choice counts, lengths are
those of choices without their delimiter.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.core.records import Completion
from dunwu.core.rewards import JudgeReward
from dunwu.evaluate.scorers.base import NOT_APPLICABLE, Case
from dunwu.evaluate.scorers.overlap import OverlapScorer
from dunwu.evaluate.scorers.registry import Means, build_scorer
from dunwu.evaluate.solvers.base import Response
from dunwu.evaluate.tasks.filters import letter_in, taken
from dunwu.evaluate.tasks.making import LETTERS
from dunwu.evaluate.tasks.metric_specs import ChoiceMetric, TargetMetric, TextMetric
from dunwu.evaluate.tasks.task import Task

NOTHING = Completion(text="", ids=(), finish_reason="stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A metric of each response; nan where it does not apply. The figure is sum(values) / sum(weights), through exp where
    `as_power`. `whole`: a figure of all together that is no mean of theirs (a corpus's BLEU)."""

    name: str
    values: tuple[float, ...]
    weights: tuple[float, ...]
    more_is_better: bool = True
    as_power: bool = False
    whole: float | None = None

    @property
    def n(self) -> int:
        """Responses that it applies to."""
        return sum(not math.isnan(value) for value in self.values)

    @property
    def figure(self) -> float:
        """The metric over all of them; nan where it applies to none."""
        there = [
            (value, weight) for value, weight in zip(self.values, self.weights, strict=True) if not math.isnan(value)
        ]
        total = math.fsum(weight for _, weight in there)
        if not total:
            return math.nan
        mean = math.fsum(value for value, _ in there) / total
        return math.exp(min(mean, 700.0)) if self.as_power else mean


def measure(task: Task, responses: Sequence[Response], means: Means | None = None) -> list[Measured]:
    """Every metric of the task that these responses allow: those of likelihoods where there are likelihoods, those of texts where
    there are texts. A choice that was answered in words is read by its letter, as `acc`.

    A problem that was not asked counts as answered with nothing. Raises DataError for a row that a scorer cannot use.
    """
    texts = any(response.completion is not None for response in responses)
    by_likelihood = any(response.likelihoods for response in responses)
    found: list[Measured] = []
    for metric in task.spec.metrics:
        if isinstance(metric, TextMetric):
            found += [_of_texts(task, metric, responses, means or Means())] if texts else []
        elif by_likelihood:
            found.append(
                _of_choices(metric, responses) if isinstance(metric, ChoiceMetric) else _of_target(metric, responses)
            )
    if task.spec.output == "choice" and not by_likelihood and not any(one.name == "acc" for one in found):
        found.insert(0, _even("acc", [float(_said_right(response)) for response in responses]))
    return found


def require_scorers(task: Task) -> None:
    """Raise what a scorer of the task would raise later, such as MissingExtraError, before anything is asked. Judges are not opened."""
    for metric in task.spec.metrics:
        if isinstance(metric, TextMetric) and not isinstance(metric.score, JudgeReward):
            build_scorer(metric.score, metric.name, Means())


def _even(name: str, values: Sequence[float]) -> Measured:
    return Measured(name=name, values=tuple(values), weights=(1.0,) * len(values))


# ------------------------------------------------------------------------------------------------------------- choices


def _said_right(response: Response) -> bool:
    """Whether the choice that was made, or named in words, is the right one."""
    problem = response.problem
    if response.chosen is not None or response.completion is None:
        return response.chosen is not None and response.chosen in right_choices(problem)
    letter = letter_in(response.completion.text, problem)
    return letter is not None and LETTERS.index(letter) in right_choices(problem)


def _of_choices(metric: ChoiceMetric, responses: Sequence[Response]) -> Measured:
    value = _right_mass if metric.measure == "mc2" else _likeliest_right
    return _even(metric.name, [value(metric, response) if response.likelihoods else 0.0 for response in responses])


def _likeliest_right(metric: ChoiceMetric, response: Response) -> float:
    scores = choice_scores(metric.measure, response)
    return float(scores.index(max(scores)) in right_choices(response.problem))


def right_choices(problem: Problem) -> tuple[int, ...]:
    """The places of all choices that are right."""
    several = problem.columns.get("right_choices")
    return tuple(several) if isinstance(several, list | tuple) else () if problem.right is None else (problem.right,)


def choice_scores(measure: str, response: Response) -> list[float]:
    """What each choice scores. `acc_mutual` needs twice as many likelihoods as choices: then those of the choices alone."""
    choices = response.problem.choices
    logprobs = [likelihood.logprob for likelihood in response.likelihoods]
    if len(logprobs) not in (len(choices), 2 * len(choices)) or (
        measure == "acc_mutual" and len(logprobs) == len(choices)
    ):
        raise DataError(
            f"{response.problem.id} has {len(logprobs)} likelihoods for {len(choices)} choices; {measure} needs "
            f"{(1 + (measure == 'acc_mutual')) * len(choices)}"
        )
    divide: Mapping[str, Callable[[int], float]] = {
        "acc_norm": lambda at: len(choices[at]),
        "acc_bytes": lambda at: len(choices[at].encode()),
        "acc_tokens": lambda at: response.likelihoods[at].tokens,
    }
    if measure == "acc_mutual":
        return [logprobs[at] - logprobs[len(choices) + at] for at in range(len(choices))]
    length = divide.get(measure, lambda at: 1)
    return [logprobs[at] / max(1, length(at)) for at in range(len(choices))]


def _right_mass(metric: ChoiceMetric, response: Response) -> float:
    labels = response.problem.columns.get("labels")
    if not isinstance(labels, list | tuple) or len(labels) != len(response.problem.choices) or not any(labels):
        raise DataError(
            f"{response.problem.id}: mc2 reads the column 'labels', 0 or 1 for each of the {len(response.problem.choices)} choices "
            f"with at least one 1, and finds {str(labels)[:60]}"
        )
    logprobs = [likelihood.logprob for likelihood in response.likelihoods[: len(labels)]]
    most = max(logprobs)
    mass = [math.exp(logprob - most) for logprob in logprobs]
    return math.fsum(one for one, label in zip(mass, labels, strict=True) if int(label) == 1) / math.fsum(mass)


# ------------------------------------------------------------------------------------------------------------- targets


def _of_target(metric: TargetMetric, responses: Sequence[Response]) -> Measured:
    if metric.measure == "greedy":
        return _even(metric.name, [float(bool(r.likelihoods) and r.likelihoods[0].greedy) for r in responses])
    nats = [-response.likelihoods[0].logprob if response.likelihoods else NOT_APPLICABLE for response in responses]
    counts: Mapping[str, Callable[[Problem], float]] = {
        "word_perplexity": lambda problem: len(re.split(r"\s+", problem.target)),
        "byte_perplexity": lambda problem: len(problem.target.encode()),
        "bits_per_byte": lambda problem: len(problem.target.encode()) * math.log(2),
    }
    weigh = counts.get(metric.measure, lambda problem: 1.0)
    return Measured(
        name=metric.name,
        values=tuple(nats),
        weights=tuple(max(1e-9, weigh(response.problem)) for response in responses),
        more_is_better=False,
        as_power=metric.measure != "bits_per_byte",
    )


# --------------------------------------------------------------------------------------------------------------- texts


def _of_texts(task: Task, metric: TextMetric, responses: Sequence[Response], means: Means) -> Measured:
    scorer = build_scorer(metric.score, metric.name, means)
    cases = [case_of(task, metric, response.problem, response.completion or NOTHING) for response in responses]
    values = tuple(scorer(cases))
    whole = scorer.corpus_score(cases) if isinstance(scorer, OverlapScorer) else None
    less = getattr(metric.score, "of", "") == "wrong"
    return replace(_even(metric.name, values), whole=whole, more_is_better=not less)


def case_of(task: Task, metric: TextMetric, problem: Problem, completion: Completion) -> Case:
    """A completion after the metric's filters, as scorers read it; the row's columns, and `target`, `letter` and `choices`."""
    own = {"target": problem.target, "choices": list(problem.choices)}
    letter = {"letter": LETTERS[problem.right]} if problem.right is not None and problem.right < len(LETTERS) else {}
    text = taken(completion.text, metric.filters, problem)
    return Case(
        prompt=task.messages(problem),
        completion=replace(completion, text=text),
        columns={**problem.columns, **own, **letter},
    )
