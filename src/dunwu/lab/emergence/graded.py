"""The same answers judged all or nothing and with partial credit, and rare successes counted, from what `dunwu eval` writes.

- Choices by likelihood: `acc`; `probability` of the right choice among the choices; `brier`, Σ over choices of (p - [right])², 0 to 2.
- Texts: `exact_match` with the target; `edit_similarity`, 1 - (token edit distance) / (tokens of the longer text).
  Tokens are words, single digits, Chinese characters and signs, so that no model's tokenizer decides. An answer may be the target's
  last sentence alone (what was concluded, without the steps): the nearer of the two counts.
- Metrics of the run that are right or wrong (such as the small world's `right`) stand as they are.

Of several answers to a question the mean.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import DataError
from dunwu.evaluate.clustered import score_interval
from dunwu.evaluate.diversity import edit_distance
from dunwu.evaluate.outcome import Answer, Outcome, Sample
from dunwu.evaluate.sampling import pass_at
from dunwu.evaluate.stats import Estimate, wilson
from dunwu.lab.emergence.curves import Curve, Scores, curve_of
from dunwu.lab.emergence.metrics import metric_of

Z = 1.959964
_TOKEN = re.compile(r"[0-9]|[㐀-鿿]|[^\W\d_]+|[^\w\s]|_")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A model of `size` parameters and what `dunwu eval` wrote of it."""

    name: str
    size: float
    outcome: Outcome
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rare:
    """How often a model is right in draws: in one (`rate`, of these questions: Wilson's interval over all draws, too wide rather than
    too narrow as questions differ) and in one of `k` (`passed`, by k, of all such questions: over questions).

    `resolution`: the least rate above 0 that one question's draws can show, 1 / draws; 0 right of all has `rate.high` above 0.
    """

    task: str
    series: str
    name: str
    size: float
    questions: int
    draws: int
    rate: Estimate
    passed: Mapping[int, Estimate]

    @property
    def resolution(self) -> float:
        return 1 / self.draws


def tokens_of(text: str) -> list[str]:
    """Words, single digits, Chinese characters and signs, in lower case."""
    return _TOKEN.findall(text.lower())


def edit_similarity(answer: str, target: str) -> float:
    """1 where equal, 0 where nothing is: 1 - (insertions, deletions and replacements of tokens) / (tokens of the longer text)."""
    one, other = tokens_of(answer), tokens_of(target)
    if not one and not other:
        return 1.0
    ids = {token: place for place, token in enumerate(dict.fromkeys([*one, *other]))}
    return 1 - edit_distance([ids[token] for token in one], [ids[token] for token in other]) / max(len(one), len(other))


def grades(sample: Sample) -> dict[str, float]:
    """One question under every metric that it allows."""
    if sample.refused or not sample.answers:
        return {}
    found = {name: value for name, value in sample.values.items() if "@" not in name and _whole(value, sample)}
    each = [_choice(sample, one) if sample.choices else _text(sample.target, one) for one in sample.answers]
    for name in each[0]:
        found[name] = math.fsum(one[name] for one in each) / len(each)
    return found


def _whole(value: float, sample: Sample) -> bool:
    """Whether a value is a share of right answers among the sample's."""
    right = value * len(sample.answers)
    return 0 <= value <= 1 and abs(right - round(right)) < 1e-9


def _choice(sample: Sample, answer: Answer) -> dict[str, float]:
    if sample.right is None:
        return {}
    count = len(sample.choices)
    if len(answer.logprobs) < count:
        return {} if answer.chosen is None else {"acc": float(answer.chosen == sample.right)}
    logprobs = np.array(answer.logprobs[:count])
    odds = np.exp(logprobs - logprobs.max())
    p = odds / odds.sum()
    right = np.eye(count)[sample.right]
    return {
        "acc": float(int(logprobs.argmax()) == sample.right),
        "probability": float(p[sample.right]),
        "brier": float(((p - right) ** 2).sum()),
    }


def _text(target: str, answer: Answer) -> dict[str, float]:
    if answer.text is None:
        return {} if len(answer.logprobs) != 1 else {"nll": -answer.logprobs[0]}
    accepted = {target.strip(), _SENTENCE.split(target.strip())[-1].strip() or target.strip()}
    similar = max(edit_similarity(answer.text, one) for one in accepted)
    return {"exact_match": float(similar == 1.0), "edit_similarity": similar}


def ladder(runs: Sequence[Run]) -> Scores:
    """Curves by size of every kind of question under every metric; series: how it was asked. Raises DataError where runs differ in
    what they were asked."""
    sizes = [run.size for run in runs]
    if len(set(sizes)) < 2:
        raise DataError(
            f"all {len(runs)} runs are of one size ({sizes[0]:.3g} parameters); give runs of models of several sizes"
        )
    points: dict[tuple[str, str, str], list[tuple[float, float, str]]] = {}
    errors: dict[tuple[str, str, str], list[float]] = {}
    asked: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}
    for run in runs:
        for (task, series), samples in _parts(run).items():
            ids = frozenset(sample.id for sample in samples)
            first, others = asked.setdefault((task, series), (run.name, ids))
            if ids != others:
                raise DataError(
                    f"{first} and {run.name} were asked different questions of {task}; evaluate both with the same --limit and --seed"
                )
            for name, (values, groups) in _by_metric(samples).items():
                key = (task, name, series)
                estimate = score_interval(values, groups)
                points.setdefault(key, []).append((run.size, estimate.value, run.name))
                error = (estimate.high - estimate.low) / (2 * Z)
                errors.setdefault(key, []).append(0.0 if math.isnan(error) else error)
    curves: list[Curve] = []
    for key, own in points.items():
        task, name, series = key
        curves.append(curve_of(task, metric_of(name), series, "size", own, errors=errors[key]))
    if not curves:
        raise DataError("no run holds a question that was answered; look at its samples.jsonl")
    shown = dict.fromkeys(f"{run.name} ({run.size:.3g})" for run in sorted(runs, key=lambda run: run.size))
    return Scores(curves=tuple(curves), axis="size", said=(f"read {len(runs)} runs: {', '.join(shown)}",))


def rare_successes(runs: Sequence[Run], *, ks: Sequence[int] = ()) -> list[Rare]:
    """Of every run whose questions have several drawn answers; `ks`: else 1, 4, 16, … up to the draws."""
    found: list[Rare] = []
    for run in sorted(runs, key=lambda run: run.size):
        for (task, series), samples in _parts(run).items():
            draws = min(len(sample.answers) for sample in samples)
            counts = _right_counts(samples)
            if draws < 2 or not counts:
                continue
            right, total = (sum(part) for part in zip(*((right, n) for n, right in counts), strict=True))
            tries = [k for k in ks if k <= draws] or [4**power for power in range(12) if 4**power <= draws]
            found.append(
                Rare(
                    task=task,
                    series=series,
                    name=run.name,
                    size=run.size,
                    questions=len(counts),
                    draws=draws,
                    rate=Estimate(right / total, *wilson(right, total), total),
                    passed={k: pass_at(counts, k) for k in tries},
                )
            )
    return found


def _right_counts(samples: Iterable[Sample]) -> list[tuple[int, int]]:
    """(answers, right ones) of each question, by the run's own metric of right and wrong, else by exact match."""
    found: list[tuple[int, int]] = []
    for sample in samples:
        known = grades(sample)
        name = next((one for one in known if metric_of(one).kind == "all-or-nothing"), None)
        if name is not None:
            found.append((len(sample.answers), round(known[name] * len(sample.answers))))
    return found


def _parts(run: Run) -> dict[tuple[str, str], list[Sample]]:
    """Questions by task and kind (its subject), with how they were asked."""
    solvers = {task.name: task.solver for task in run.outcome.tasks}
    subjects: dict[str, set[str]] = {}
    for sample in run.samples:
        subjects.setdefault(sample.task, set()).add(sample.subject)
    found: dict[tuple[str, str], list[Sample]] = {}
    for sample in run.samples:
        name = f"{sample.task}: {sample.subject}" if len(subjects[sample.task]) > 1 else sample.task
        found.setdefault((name, solvers.get(sample.task, "")), []).append(sample)
    return found


def _by_metric(samples: Sequence[Sample]) -> dict[str, tuple[list[float], list[str]]]:
    found: dict[str, tuple[list[float], list[str]]] = {}
    for sample in samples:
        for name, value in grades(sample).items():
            values, groups = found.setdefault(name, ([], []))
            values.append(value)
            groups.append(sample.group)
    return found
