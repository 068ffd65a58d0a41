"""Two evaluations, question by question: paired differences by task and subject, with tests, and what they could have shown."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dunwu.core.errors import DataError, RecipeError
from dunwu.evaluate.clustered import clusters
from dunwu.evaluate.outcome import Figure, Outcome, Sample, TaskOutcome, figure_named
from dunwu.evaluate.paired import needed_values, paired, questions_needed, smallest_difference
from dunwu.evaluate.stats import PairedDifference, holm, paired_ratio_difference

ALPHA = 0.05
Verdict = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One metric, after minus before, over the questions that both were asked. `holm`: the p-value for having looked at as many
    tasks (or subjects) as there are. `changed`: the share of questions that came out differently. `gained` and `lost`: how many
    turned right and wrong. `needed`: how many questions would tell such models apart in four of five cases; `smallest`: the
    smallest difference that so many questions show as often. None: not told for this metric. `before` and `after`: over the same questions.
    """

    name: str
    before: float
    after: float
    difference: PairedDifference
    holm: float
    more_is_better: bool
    changed: float
    gained: int | None = None
    lost: int | None = None
    needed: int | None = None
    smallest: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Better or worse, where the adjusted p-value leaves no doubt."""
        if not self.holm < ALPHA:
            return "same"
        return "better" if (self.difference.value > 0) == self.more_is_better else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """A question that came out differently."""

    before: Sample
    after: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One task: `main`, its first metric or the one asked for, decides; the others are told beside it. `turned`: questions where it
    differs."""

    task: str
    shared: int
    only_before: int
    only_after: int
    main: Change
    others: tuple[Change, ...]
    subjects: tuple[Change, ...]
    turned: tuple[Turned, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs. `only_before` and `only_after`: tasks that one of them has."""

    before: str
    after: str
    tasks: tuple[TaskComparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare(
    before: Outcome,
    after: Outcome,
    before_samples: Sequence[Sample],
    after_samples: Sequence[Sample],
    *,
    metric: str | None = None,
) -> Comparison:
    """Compare what both have. `metric` decides where a task has it, else its first one.

    Raises DataError where they share no task, or no question of a task that they share, RecipeError where no task has the metric.
    """
    first, second = ({task.name: task for task in outcome.tasks} for outcome in (before, after))
    shared = [name for name in first if name in second]
    if not shared:
        raise DataError(
            f"the two share no task: one has {', '.join(first)}, the other {', '.join(second)}; evaluate both with the same --tasks"
        )
    rows = [_by_id(samples) for samples in (before_samples, after_samples)]
    _require_metric(metric, [task for task in before.tasks if task.name in shared])
    found = [_task(first[name], second[name], rows[0].get(name, {}), rows[1].get(name, {}), metric) for name in shared]
    adjusted = holm([_p(task.main) for task in found])
    return Comparison(
        before=before.model,
        after=after.model,
        tasks=tuple(_with_holm(task, p) for task, p in zip(found, adjusted, strict=True)),
        only_before=tuple(name for name in first if name not in second),
        only_after=tuple(name for name in second if name not in first),
    )


def _require_metric(metric: str | None, tasks: Sequence[TaskOutcome]) -> None:
    names = list(dict.fromkeys(figure.score.name for task in tasks for figure in task.figures))
    if metric is not None and metric not in names:
        near = next(iter(difflib.get_close_matches(metric, names, 1)), None)
        meant = f"did you mean {near}? There are" if near else "there are"
        raise RecipeError(f"no task that both have was scored by {metric!r}; {meant} {', '.join(names)}")


def _by_id(samples: Sequence[Sample]) -> dict[str, dict[str, Sample]]:
    found: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        found.setdefault(sample.task, {})[sample.id] = sample
    return found


def _task(
    before: TaskOutcome,
    after: TaskOutcome,
    first: Mapping[str, Sample],
    second: Mapping[str, Sample],
    metric: str | None,
) -> TaskComparison:
    pairs = [(one, second[key]) for key, one in first.items() if key in second]
    if not pairs:
        raise DataError(
            f"{before.name}: the two were asked different questions (none of {len(first)} and {len(second)} is the same); give both the same "
            "--data, --limit and --seed"
        )
    changed = [
        one.id
        for one, other in pairs
        if (one.input, one.target, one.choices) != (other.input, other.target, other.choices)
    ]
    if changed:
        raise DataError(
            f"{before.name}: {len(changed)} of {len(pairs)} questions with the same id are worded differently, such as {changed[0]!r}; "
            "evaluate both with the same data and the same version of the task"
        )
    names = [figure for figure in before.figures if figure_named(after.figures, figure.score.name) is not None]
    if not names:
        told = [", ".join(figure.score.name for figure in task.figures) for task in (before, after)]
        raise DataError(
            f"{before.name}: the two have no metric in common ({told[0]}; {told[1]}); ask both in the same way (--solver)"
        )
    names.sort(key=lambda figure: figure.score.name != metric)  # the others stay in their order
    changes = [_change(figure, _named(figure), pairs) for figure in names]
    return TaskComparison(
        task=before.name,
        shared=len(pairs),
        only_before=len(first) - len(pairs),
        only_after=len(second) - len(pairs),
        main=changes[0],
        others=tuple(changes[1:]),
        subjects=_subjects(names[0], pairs),
        turned=_turned(names[0].score.name, pairs),
        remarks=tuple(_remarks(before, after)),
    )


def _named(figure: Figure) -> str:
    """Powers are compared by their logarithm, in nats."""
    return f"log {figure.score.name}" if figure.as_power else figure.score.name


def _remarks(before: TaskOutcome, after: TaskOutcome) -> list[str]:
    """What else differs between the two than the model."""
    asked = [
        ("solver", before.solver, after.solver),
        ("shots", before.shots, after.shots),
        ("samples", before.samples, after.samples),
    ]
    return [f"{name}: {one} → {other}" for name, one, other in asked if one != other]


def _subjects(figure: Figure, pairs: Sequence[tuple[Sample, Sample]]) -> tuple[Change, ...]:
    by_subject: dict[str, list[tuple[Sample, Sample]]] = {}
    for pair in pairs:
        by_subject.setdefault(pair[0].subject, []).append(pair)
    if len(by_subject) < 2:
        return ()
    changes = [_change(figure, subject or "—", own) for subject, own in by_subject.items()]
    adjusted = holm([_p(change) for change in changes])
    return tuple(_replaced(change, p) for change, p in zip(changes, adjusted, strict=True))


def _change(figure: Figure, name: str, pairs: Sequence[tuple[Sample, Sample]]) -> Change:
    metric = figure.score.name
    there = [pair for pair in pairs if all(not math.isnan(one.values.get(metric, math.nan)) for one in pair)]
    x, y = ([pair[at].values[metric] for pair in there] for at in (0, 1))
    weights = [pair[0].weights.get(metric, 1.0) for pair in there]
    groups = [pair[0].group for pair in there]
    even = all(weight == 1.0 for weight in weights)
    difference = paired(x, y, groups) if even else _weighted(x, y, weights, groups)
    total = math.fsum(weights) or math.nan
    shares = even and set(x) | set(y) <= {0.0, 1.0}
    changed = sum(one != other for one, other in zip(x, y, strict=True)) / len(x) if x else math.nan
    moved = [sum(one < other for one, other in zip(*sides, strict=True)) for sides in ((x, y), (y, x))]
    gained, lost = moved if figure.more_is_better else moved[::-1]
    worth = _design(x, y, groups) if even else 1.0
    needed = (
        questions_needed(difference.value, changed)
        if shares
        else needed_values([b - a for a, b in zip(x, y, strict=True)])
    )
    smallest = smallest_difference(round(len(x) / worth), changed) if shares else None
    return Change(
        name=name,
        before=math.fsum(x) / total,
        after=math.fsum(y) / total,
        difference=difference,
        holm=difference.p_value,
        more_is_better=figure.more_is_better,
        changed=changed,
        gained=gained if shares else None,
        lost=lost if shares else None,
        needed=None if needed is None or not even else math.ceil(needed * worth),
        smallest=smallest,
    )


def _weighted(
    x: Sequence[float], y: Sequence[float], weights: Sequence[float], groups: Sequence[str]
) -> PairedDifference:
    """Of metrics that weigh questions, such as bits per byte; perplexities in nats, whose exp they are."""
    keys = [group or f"\0{place}" for place, group in enumerate(groups)]
    totals: dict[str, list[float]] = {}
    for key, one, other, weight in zip(keys, x, y, weights, strict=True):
        row = totals.setdefault(key, [0.0, 0.0, 0.0])
        for at, value in enumerate((one, other, weight)):
            row[at] += value
    first, second, sizes = ([row[at] for row in totals.values()] for at in range(3))
    return paired_ratio_difference(first, second, sizes)._replace(n=len(x))


def _design(x: Sequence[float], y: Sequence[float], groups: Sequence[str]) -> float:
    """How many times the variance of the difference is that of independent questions: what clusters cost, 1 or more."""
    gains = np.asarray(y) - np.asarray(x)
    sums, sizes = clusters(gains, groups)
    if len(sums) == len(gains) or len(sums) < 3 or not gains.any():
        return 1.0
    mean = gains.mean()
    return max(1.0, float(((sums - mean * sizes) ** 2).sum() / ((gains - mean) ** 2).sum()))


def _turned(metric: str, pairs: Sequence[tuple[Sample, Sample]]) -> tuple[Turned, ...]:
    """Losses first, by how much; nothing for metrics that differ on every question."""
    moved = [
        (other.values.get(metric, math.nan) - one.values.get(metric, math.nan), place)
        for place, (one, other) in enumerate(pairs)
    ]
    there = sorted((gain, place) for gain, place in moved if gain and not math.isnan(gain))
    return tuple(Turned(before=pairs[place][0], after=pairs[place][1]) for _, place in there)


def _p(change: Change) -> float:
    p = change.difference.p_value
    return 1.0 if math.isnan(p) else p


def _replaced(change: Change, adjusted: float) -> Change:
    return replace(change, holm=adjusted)


def _with_holm(task: TaskComparison, adjusted: float) -> TaskComparison:
    return replace(task, main=_replaced(task.main, adjusted))
