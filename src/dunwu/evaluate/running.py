"""Runs a task with a solver: in batches, with progress, and every figure with its interval.

What was answered is remembered beneath the solver (`remembering.py`), so a run that was killed is run again and goes on.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dunwu.core.errors import DataError, PartnerError
from dunwu.core.problems import Problem
from dunwu.core.progress import Progress
from dunwu.core.records import Score
from dunwu.evaluate.clustered import score_interval
from dunwu.evaluate.outcome import Answer, Figure, Sample, TaskOutcome
from dunwu.evaluate.sampling import pass_at_k
from dunwu.evaluate.scorers.registry import Means
from dunwu.evaluate.solvers.base import Response, Solver
from dunwu.evaluate.stats import ratio_interval, t_quantile
from dunwu.evaluate.tasks.measures import Measured, measure, require_scorers
from dunwu.evaluate.tasks.task import Task

FIRST_BATCH, MOST_BATCH = 16, 1024
BLOCKS = 20  # of a jackknife
_TOO_LONG = re.compile(r"context|too long|too many tokens|maximum .*length|exceed", re.IGNORECASE)
BATCH_S = 5.0  # batches grow until they take so long: what a kill costs, and how often progress is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a task is run. `solvers`: one a sample; more than one only where answers are drawn. `solver_name`: what people call it.
    `pass_at`: of how many samples one is to be right. `batch`: so many questions at a time (None: as many as take some seconds)."""

    solvers: Sequence[Solver]
    solver_name: str
    pass_at: tuple[int, ...] = ()
    batch: int | None = None
    means: Means | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """A task's outcome, and its questions as they were answered."""

    outcome: TaskOutcome
    samples: tuple[Sample, ...]


def run_task(
    task: Task,
    asking: Asking,
    problems: Sequence[Problem],
    *,
    progress: Progress,
    prompt: Callable[[Problem], str] = lambda problem: "",
) -> TaskRun:
    """Ask all problems and count. `prompt`: what stands in the outcome as the first prompt. Raises PartnerError when no answer comes."""
    require_scorers(task)
    answered = [
        answer_all(task, solver, problems, progress=progress, batch=asking.batch, before=at, of=len(asking.solvers))
        for at, solver in enumerate(asking.solvers)
    ]
    measured = [measure(task, responses, asking.means) for responses in answered]
    combined = _combined(measured, asking.pass_at)
    samples = tuple(
        _sample(task, problem, [responses[at] for responses in answered], combined, at)
        for at, problem in enumerate(problems)
    )
    first = answered[0]
    outcome = TaskOutcome(
        name=task.name,
        fingerprint=task.fingerprint,
        output=task.spec.output,
        solver=asking.solver_name,
        asked=len(problems),
        total=len(task.problems()),
        groups=len({problem.group for problem in problems if problem.group}),
        shots=max((response.shots + response.dropped for response in first), default=0),
        samples=len(asking.solvers),
        cut=sum(response.cut > 0 for response in first),
        dropped=sum(response.dropped > 0 for response in first),
        refused=sum(bool(response.refused) for response in first),
        prompt=prompt(problems[0]) if problems else "",
        figures=_with_whole(task, asking, first, figures_of(combined, problems)),
        subjects=_by_subject(combined, problems),
    )
    return TaskRun(outcome=outcome, samples=samples)


def answer_all(
    task: Task,
    solver: Solver,
    problems: Sequence[Problem],
    *,
    progress: Progress,
    batch: int | None = None,
    before: int = 0,
    of: int = 1,
) -> list[Response]:
    """A response to every problem, in batches. `before` of `of` rounds are done: progress counts all rounds."""
    responses: list[Response] = []
    total, start_s = len(problems) * of, time.monotonic()
    size = batch or FIRST_BATCH
    while len(responses) < len(problems):
        began_s = time.monotonic()
        asked = problems[len(responses) : len(responses) + size]
        try:
            responses += _asked(task, solver, asked)
        except PartnerError as error:
            raise _where(error, task, len(responses), len(problems)) from error
        now_s = time.monotonic()
        done = len(responses) + before * len(problems)
        speed = len(responses) / max(now_s - start_s, 1e-6)
        progress.update(done, total, questions_per_s=speed, left=_duration((total - done) / speed))
        if batch is None and now_s - began_s < BATCH_S / 2:
            size = min(2 * size, MOST_BATCH)
    return responses


def _asked(task: Task, solver: Solver, problems: Sequence[Problem]) -> list[Response]:
    """The solver's responses; where one prompt is longer than an endpoint reads, the others are asked without it."""
    try:
        return solver(task, problems)
    except (DataError, PartnerError) as error:
        if not _says_too_long(error):
            raise
        if len(problems) == 1:
            return [Response(problem=problems[0], refused=str(error))]
    return [response for problem in problems for response in _asked(task, solver, [problem])]


def _says_too_long(error: DataError | PartnerError) -> bool:
    refused = isinstance(error, DataError) or not error.transient
    return refused and _TOO_LONG.search(str(error)) is not None


def _where(error: PartnerError, task: Task, done: int, total: int) -> PartnerError:
    told = str(error)
    told += "" if told.endswith((".", "?", "!")) else "."
    return PartnerError(
        f"{task.name}, after {done} of {total} questions: {told} What was answered is kept: run the same command again to go on.",
        transient=error.transient,
        retry_after_s=error.retry_after_s,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------------------- figures


def _combined(measured: Sequence[Sequence[Measured]], pass_at: Sequence[int]) -> list[Measured]:
    """Each metric over all samples: a question's value is the mean of its answers'. Of right and wrong also the chance that one of
    `k` answers is right."""
    if len(measured) == 1:
        return list(measured[0])
    found: list[Measured] = []
    for rounds in zip(*measured, strict=True):
        first = rounds[0]
        by_question = list(zip(*(one.values for one in rounds), strict=True))
        found.append(_like(first, first.name, [math.fsum(values) / len(values) for values in by_question]))
        if all(value in (0.0, 1.0) for values in by_question for value in values):
            for k in pass_at:
                passed = [pass_at_k(len(values), round(math.fsum(values)), k) for values in by_question]
                found.append(_like(first, f"{first.name}@{k}", passed))
    return found


def _like(one: Measured, name: str, values: Sequence[float]) -> Measured:
    return Measured(
        name=name,
        values=tuple(values),
        weights=one.weights,
        more_is_better=one.more_is_better,
        as_power=one.as_power,
    )


def figures_of(measured: Sequence[Measured], problems: Sequence[Problem]) -> tuple[Figure, ...]:
    """Each metric with its interval, clustered where problems share a group."""
    chances = [1 / len(problem.choices) for problem in problems if problem.choices]
    chance = math.fsum(chances) / len(chances) if chances and len(chances) == len(problems) else None
    return tuple(figure_of(one, [problem.group for problem in problems], chance) for one in measured)


def figure_of(one: Measured, groups: Sequence[str], chance: float | None = None) -> Figure:
    """A metric with its interval; questions that it does not apply to are left out."""
    there = [place for place, value in enumerate(one.values) if not math.isnan(value)]
    values, weights = [one.values[place] for place in there], [one.weights[place] for place in there]
    own = [groups[place] for place in there] if groups else []
    value, low, high = _interval(values, weights, own)
    share = all(item in (0.0, 1.0) for item in values)
    if one.as_power:
        value, low, high = (math.exp(min(bound, 700.0)) for bound in (value, low, high))
    if one.whole is not None and not math.isclose(one.whole, value, abs_tol=1e-9):
        value, low, high = one.whole, math.nan, math.nan  # no mean of theirs: see `_with_whole`
    unit = "" if one.as_power else "bits/byte" if one.name == "bits_per_byte" else "share" if share else "score"
    counts = chance if share and one.name.startswith("acc") else None
    score = Score(name=one.name, value=value, low=low, high=high, n=len(values), unit=unit, chance=counts)
    return Figure(score=score, more_is_better=one.more_is_better, as_power=one.as_power)


def _with_whole(
    task: Task, asking: Asking, responses: Sequence[Response], figures: Sequence[Figure]
) -> tuple[Figure, ...]:
    """Figures that are no means, such as a corpus's BLEU, with the interval of a jackknife that leaves out a twentieth of the
    questions, or of their groups, at a time."""
    found: list[Figure] = []
    for one in figures:
        metrics = tuple(metric for metric in task.spec.metrics if metric.name == one.score.name)
        if math.isnan(one.score.low) and one.score.n > 1 and metrics:
            part = replace(task, spec=task.spec.model_copy(update={"metrics": metrics}))
            low, high = _left_out(part, asking.means, responses, one.score.value)
            one = replace(one, score=replace(one.score, low=max(0.0, low), high=min(1.0, high)))
        found.append(one)
    return tuple(found)


def _left_out(task: Task, means: Means | None, responses: Sequence[Response], value: float) -> tuple[float, float]:
    places: dict[str, int] = {}
    blocks = [
        places.setdefault(response.problem.group or f"\0{at}", len(places)) % BLOCKS
        for at, response in enumerate(responses)
    ]
    count = min(BLOCKS, len(places))
    if count < 2:
        return math.nan, math.nan
    without = []
    for block in range(count):
        (one,) = measure(task, [r for r, own in zip(responses, blocks, strict=True) if own != block], means)
        without.append(one.figure if one.whole is None else one.whole)
    middle = math.fsum(without) / count
    error = math.sqrt((count - 1) / count * math.fsum((other - middle) ** 2 for other in without))
    half = t_quantile(0.975, count - 1) * error
    return value - half, value + half


def _interval(values: Sequence[float], weights: Sequence[float], groups: Sequence[str]) -> tuple[float, float, float]:
    if not values:
        return math.nan, math.nan, math.nan
    if all(weight == 1.0 for weight in weights):
        return score_interval(values, groups)[:3]
    totals: dict[str, list[float]] = {}
    for place, (value, weight) in enumerate(zip(values, weights, strict=True)):
        pair = totals.setdefault((groups[place] if groups else "") or f"\0{place}", [0.0, 0.0])
        pair[0] += value
        pair[1] += weight
    return ratio_interval([pair[0] for pair in totals.values()], [pair[1] for pair in totals.values()])[:3]


def _by_subject(measured: Sequence[Measured], problems: Sequence[Problem]) -> dict[str, tuple[Figure, ...]]:
    places: dict[str, list[int]] = {}
    for place, problem in enumerate(problems):
        places.setdefault(problem.subject, []).append(place)
    if len(places) < 2:
        return {}
    return {subject: part_figures(measured, problems, own) for subject, own in places.items()}


def part_figures(
    measured: Sequence[Measured], problems: Sequence[Problem], places: Sequence[int]
) -> tuple[Figure, ...]:
    """The figures of some of the questions; what is no mean of theirs (a corpus's BLEU) is then one."""
    parts = [
        Measured(
            name=one.name,
            values=tuple(one.values[place] for place in places),
            weights=tuple(one.weights[place] for place in places),
            more_is_better=one.more_is_better,
            as_power=one.as_power,
        )
        for one in measured
    ]
    return figures_of(parts, [problems[place] for place in places])


def _sample(
    task: Task, problem: Problem, responses: Sequence[Response], measured: Sequence[Measured], at: int
) -> Sample:
    first = responses[0]
    return Sample(
        task=task.name,
        id=problem.id,
        input=problem.input,
        target=problem.target,
        choices=problem.choices,
        right=problem.right,
        subject=problem.subject,
        group=problem.group,
        answers=tuple(_answer(response) for response in responses),
        values={one.name: one.values[at] for one in measured},
        weights={one.name: one.weights[at] for one in measured},
        shots=first.shots,
        cut=first.cut,
        dropped=first.dropped,
        refused=first.refused,
    )


def _answer(response: Response) -> Answer:
    completion = response.completion
    return Answer(
        text=None if completion is None else completion.text,
        finish_reason=None if completion is None else completion.finish_reason,
        chosen=response.chosen,
        logprobs=tuple(likelihood.logprob for likelihood in response.likelihoods),
    )


def measured_of(samples: Sequence[Sample], figures: Sequence[Figure]) -> list[Measured]:
    """The metrics of samples that were read back."""
    return [
        Measured(
            name=figure.score.name,
            values=tuple(sample.values.get(figure.score.name, math.nan) for sample in samples),
            weights=tuple(sample.weights.get(figure.score.name, 1.0) for sample in samples),
            more_is_better=figure.more_is_better,
            as_power=figure.as_power,
        )
        for figure in figures
    ]
